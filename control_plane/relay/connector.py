"""The contract between the relay and one kind of far side.

The relay calls `deliver` with one event at a time per key, after it wrote that it is about to. Whatever happened is
said as an `Outcome`; a connector raises nothing. Where the far side can be asked, `find` tells after an unknown outcome
whether the event arrived; where it can't, the event is sent again under the same id and exactly-once rests on the
receiver.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

# AUTH: not this event's fault, the destination can't be used as it is configured (credentials, address); it is paused
# and no attempt is counted. AMBIGUOUS: it may have taken effect.
Class = Literal["OK", "THROTTLED", "TRANSIENT", "AMBIGUOUS", "AUTH", "PERMANENT", "GONE"]


class Parcel(NamedTuple):
    """One outbox row as a connector sees it."""

    event_id: str
    ext_ref: str
    body: bytes
    attempt: int


class Outcome(NamedTuple):
    """What became of one attempt. `erp_id`: the far side's own number, if it said one."""

    class_: Class
    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    erp_id: str | None = None


class Found(NamedTuple):
    """`present` None: the far side can't be asked."""

    present: bool | None
    erp_id: str | None = None


class Connector(Protocol):
    async def deliver(self, parcel: Parcel) -> Outcome: ...

    async def find(self, ext_ref: str) -> Found: ...

    async def close(self) -> None: ...
