"""The contract between the relay and one kind of far side.

The relay calls `deliver` with one event at a time per key, after it wrote that it is about to. Whatever happened is
said as an `Outcome`; a connector raises nothing. Where the far side can be asked, `find` tells after an unknown outcome
whether the event arrived; where it can't, the event is sent again under the same id and exactly-once rests on the
receiver.

An ERP can be read as well: those connectors are an `ErpReader` too. What reads may raise `Retryable` (later),
`Rejected` (this answer makes no sense; it says which) and `Misconfigured` (credentials, address).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

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


RecordKind = Literal["event", "order", "move"]


class Record(NamedTuple):
    """One document as the far side holds it, in common words.

    `state` of an order: draft, confirmed, shipped, delivered, invoiced, done, cancelled; of an event or a move: done,
    cancelled. `fields` are comparable: quantities and amounts decimal strings in base units without trailing zeros,
    days ISO 8601, codes trimmed. `cancelled` documents are given too, deleted ones can't be.
    """

    kind: RecordKind
    erp_id: str
    ext_ref: str | None
    state: str
    changed_ms: int
    fields: dict[str, Any]


class Changes(NamedTuple):
    """`cursor`: ask from here next time. `more`: ask again at once."""

    records: list[Record]
    cursor: str
    more: bool


class Stock(NamedTuple):
    """On hand by SKU, in base units, as the far side counted it at `as_of_ms` by its own clock."""

    as_of_ms: int
    quantities: dict[str, Decimal]


@runtime_checkable
class ErpReader(Protocol):
    async def changes(self, kind: RecordKind, cursor: str | None) -> Changes:
        """Documents of one kind that changed since `cursor`, oldest change first; None: all there are.

        At least once: what changed around the cursor may be given again.
        """
        ...

    async def stock(self, location: str) -> Stock: ...

    async def transition(self, erp_id: str, to: str) -> Outcome:
        """Move an order on to a state. One already there, or beyond, is OK; a way that does not exist PERMANENT."""
        ...
