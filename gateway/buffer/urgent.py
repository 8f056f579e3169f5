"""The URGENT lane before it is sealed: events and gap records waiting for the next commit.

Gap records are numbered, upwards through all runs of a store. The store says up to which number it has sealed them;
those above are written to the tail before any row that came after them, so that no row read after a hole can be on
disk while the hole itself is only in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.buffer import ledger, sealing
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.ledger import Instant
from gateway.buffer.quota import ANY_DISTANCE_MS, Key, Quota, joined, key_of, pending_bytes
from gateway.errors import Rejected
from protos.comboio.v1 import batch_pb2 as pb

MAX_PENDING = 10_000


class EventReceipt:
    """One event; durable once its URGENT batch is committed."""

    __slots__ = ("_sealed",)

    def __init__(self, sealed: asyncio.Future[None]) -> None:
        self._sealed = sealed

    async def durable(self) -> None:
        await asyncio.shield(self._sealed)


@dataclass(slots=True)
class Taken:
    """What one commit carries, and up to when the lane is complete with it."""

    complete: Instant
    gaps: list[pb.Gap] = field(default_factory=list)
    events: list[tuple[int, pb.Event]] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    gaps_through: int = 0
    """Number of the newest gap record among them or before, 0 for gaps that have none."""
    near_ms: int = 0

    def batch(self, codebook: sealing.Codebook, *, seq: int) -> list[SealedBatch]:
        """At most one batch; gap records are joined where they touch."""
        boot, mono_ms = self.complete
        events = [
            *self.events,
            *((mono_ms, gap_event(gap)) for gap in ledger.coalesce(self.gaps, near_ms=self.near_ms)),
        ]
        if not events:
            return []
        return [sealing.urgent(codebook, boot, events, seq=seq, complete=self.complete)]


class UrgentLane:
    """Owned by the event loop. `news` is set when something should be sealed at once."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._told_ms: dict[Key, int] = {}
        self._taken_ms: int | None = None
        self._gaps: list[pb.Gap] = []
        self._events: list[tuple[int, pb.Event]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._newest_gap = 0
        self.sealed_through = 0
        self._unlogged: list[tuple[int, pb.Gap]] = []
        self.news = asyncio.Event()

    def start(self, opens: int) -> None:
        """Number gap records above those of every earlier opening."""
        self._newest_gap = opens << 32

    @property
    def empty(self) -> bool:
        return not (self._gaps or self._events)

    def event(self, mono_ms: int, event: pb.Event) -> EventReceipt:
        """Queue one event. Raises `Rejected` at the limit, before anything is acknowledged."""
        if len(self._events) >= MAX_PENDING:
            raise Rejected("the urgent lane is full; try again when the gateway can write again")
        self._quota.admit(event, pending_bytes(self._events))
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._joins(mono_ms, event):
            return EventReceipt(waiter)
        self._events.append((mono_ms, event))
        self.news.set()
        return EventReceipt(waiter)

    def _joins(self, mono_ms: int, event: pb.Event) -> bool:
        """Whether it repeats what was said a moment ago, and space is short: then it waits, joined with its like."""
        key = key_of(event) if self._quota.tight else None
        if key is None:
            return False
        told_ms = self._told_ms.get(key)
        if told_ms is None or mono_ms - told_ms >= self._quota.seal_every_ms:
            self._told_ms[key] = mono_ms
            return False
        for at, (_, waiting) in enumerate(self._events):
            if key_of(waiting) == key:
                self._events[at] = (mono_ms, joined(waiting, event))
                return True
        self._events.append((mono_ms, event))
        return True

    def due(self, mono_ms: int) -> bool:
        """Whether what was left to wait has waited long enough."""
        every_ms = self._quota.seal_every_ms
        return not self.empty and (self._taken_ms is None or mono_ms - self._taken_ms >= every_ms)

    def gap(self, gap: pb.Gap) -> None:
        """Queue one gap record; they are never refused, only joined."""
        self._newest_gap += 1
        self._gaps.append(gap)
        self._unlogged.append((self._newest_gap, gap))
        if len(self._gaps) > MAX_PENDING:
            self._gaps = ledger.coalesce(self._gaps, near_ms=ANY_DISTANCE_MS)
        if len(self._unlogged) > MAX_PENDING:
            unlogged = ledger.coalesce((gap for _, gap in self._unlogged), near_ms=ANY_DISTANCE_MS)
            self._unlogged = [(self._newest_gap, gap) for gap in unlogged]
        if not self._quota.tight:
            self.news.set()

    def unlogged(self) -> list[tuple[int, pb.Gap]]:
        """(number, gap) of what is neither sealed nor in the tail, oldest first."""
        return list(self._unlogged)

    def logged(self, through: int) -> None:
        """Gap records up to that number are in the tail or sealed."""
        self._unlogged = [(number, gap) for number, gap in self._unlogged if number > through]

    def take(self, complete: Instant) -> Taken:
        near_ms = self._quota.near_ms
        taken = Taken(complete, self._gaps, self._events, self._waiters, self._newest_gap, near_ms)
        self._taken_ms = complete[1]
        self._gaps, self._events, self._waiters = [], [], []
        return taken

    def put_back(self, taken: Taken) -> None:
        self._gaps[:0] = taken.gaps
        self._events[:0] = taken.events
        self._waiters[:0] = taken.waiters

    def settle(self, taken: Taken) -> None:
        """The commit holds them: tell who waits."""
        self.logged(taken.gaps_through)
        self.sealed_through = max(self.sealed_through, taken.gaps_through)
        for waiter in taken.waiters:
            if not waiter.done():
                waiter.set_result(None)


def gap_event(gap: pb.Gap, severity: pb.Severity.ValueType = pb.SEVERITY_WARNING) -> pb.Event:
    return pb.Event(group=gap.group, kind=pb.EVENT_GAP, severity=severity, detail=gap.SerializeToString())


def integrity_events(mono_ms: int, texts: Iterable[str]) -> list[tuple[int, pb.Event]]:
    return [
        (mono_ms, pb.Event(kind=pb.EVENT_INTEGRITY, severity=pb.SEVERITY_ALARM, detail=text.encode())) for text in texts
    ]
