"""The journal's contract: what ingest appends, and what is true after each commit.

Life cycle. `open_session` once per stream, before anything of it is appended; then `commit` with groups of entries, in
the order they were accepted. One thread calls both.

After `commit` returned: every entry of the group that is not in `Committed.fenced` is durable, together with its lane's
received ranges as captured when it was accepted. After it raised: none of the group is, and every stream in it must
end, because what it accepted since is ahead of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

MAX_SEQ = 1 << 40  # a batch a second for thirty thousand years; what claims more is broken, not old


class LaneMark(NamedTuple):
    """A lane's received ranges at one moment: never the live state."""

    gateway: str
    epoch: int
    lane: int
    cum: int
    above: tuple[tuple[int, int], ...]
    max_seen: int


class BatchEntry(NamedTuple):
    gateway: str
    session: int
    batch: pb.Batch
    received_ms: int
    mark: LaneMark


class DuplicateEntry(NamedTuple):
    """A seq that is already held: compared with what is stored; other content is kept as a conflict."""

    gateway: str
    session: int
    batch: pb.Batch
    received_ms: int
    mark: LaneMark


class DeclareEntry(NamedTuple):
    gateway: str
    session: int
    declare: pb.Declare
    received_ms: int


class DictionaryEntry(NamedTuple):
    """A dictionary that this store lacked, as the gateway holds it; one that is here stays as it is."""

    gateway: str
    session: int
    dictionary: wire.Dictionary
    received_ms: int


class HeartbeatEntry(NamedTuple):
    gateway: str
    session: int
    epoch: int
    lanes: Sequence[wire.LaneComplete]
    received_ms: int


class RejectEntry(NamedTuple):
    """A seq refused for good: resolved without content."""

    gateway: str
    session: int
    reject: wire.Reject
    received_ms: int
    mark: LaneMark


class PresenceEntry(NamedTuple):
    """The gateway was heard; what it said of itself since the last such entry, or that its stream ended.

    It is written only while `session` is the gateway's newest. None leaves what is there.
    """

    gateway: str
    session: int
    heard_ms: int
    heartbeat: bytes | None = None
    running: bytes | None = None
    left_ms: int | None = None
    why: str | None = None
    paced: str | None = None


class OfferEntry(NamedTuple):
    """A configuration was offered."""

    gateway: str
    session: int
    generation: int
    hash: bytes
    offered_ms: int


class StatusEntry(NamedTuple):
    """What the gateway said became of an offer; repetitions are dropped."""

    gateway: str
    session: int
    status: wire.ConfigStatus
    received_ms: int


class EffectiveEntry(NamedTuple):
    """The document the gateway runs by."""

    gateway: str
    session: int
    effective: wire.EffectiveConfig
    received_ms: int


Entry = (
    BatchEntry
    | DuplicateEntry
    | DeclareEntry
    | DictionaryEntry
    | HeartbeatEntry
    | RejectEntry
    | PresenceEntry
    | OfferEntry
    | StatusEntry
    | EffectiveEntry
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStart:
    """What Welcome tells the gateway."""

    session: int
    lanes: Mapping[int, LaneMark]
    schemas: frozenset[int]
    dictionaries: frozenset[int] = frozenset()
    """Names of those held for this gateway."""
    new_epoch: bool = False
    """The store must begin a new epoch; until it says so, nothing is taken of it."""
    paused_ms: int | None = None
    """Since when two boxes are suspected behind this gateway: nothing is taken of either, and nothing else is said."""
    note: str = ""
    """What is odd about this Hello, for the integrity log; empty if nothing."""


@dataclass(slots=True)
class Committed:
    fenced: set[tuple[str, int]] = field(default_factory=set)
    """(gateway, session) whose entries were not written because a newer session exists."""
    conflicts: int = 0
    changed_declares: list[tuple[str, int]] = field(default_factory=list)
    """(gateway, schema) declared again with other content: ignored, the first stays."""


class Journal(Protocol):
    def open_session(
        self, gateway: str, hello: wire.Hello, *, now_ms: int, released_ms: int | None = None
    ) -> SessionStart:
        """Take the fencing token, remember the Hello, say what is held. Durable when it returns.

        `released_ms`: the suspicion (its `paused_ms`) that an administrator has settled, if any.
        """

    def commit(self, entries: Sequence[Entry]) -> Committed:
        """One durable transaction. Raises sqlalchemy.exc.DBAPIError when the store refuses."""
