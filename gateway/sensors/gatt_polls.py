"""What becomes of reads that are due on a grid: a row, or a place in a gap of their reason. Pure.

Invariants: each point of the grid is read once, failed once or skipped once; what passed while a visit failed has
failed with it, what passed while one went well was skipped because the connection was busy.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.reading import Lost
from gateway.sensors.outage import Outage, Skipped
from protos.comboio.v1 import batch_pb2 as pb


class Polls:
    """One run of one group. All times are mono_ms; the first read is due at once."""

    def __init__(self, *, started_ms: int, period_ms: int, close_every_ms: int = 60_000) -> None:
        self.due_ms = started_ms
        """When the next read is due; in the past while one is under way."""
        self.late = 0
        """Reads that were skipped since the start."""
        self._period_ms = period_ms
        self._began_ms: int | None = None
        self._outages = {
            reason: Outage(started_ms=started_ms, close_every_ms=close_every_ms, reason=reason)
            for reason in (pb.GAP_UNREADABLE, pb.GAP_REFUSED)
        }
        self._skipped = Skipped(started_ms=started_ms, close_every_ms=close_every_ms)

    @property
    def since_ms(self) -> int | None:
        """The read under way, or the oldest one that is in no gap yet."""
        begun = [one.since_ms for one in self._outages.values() if one.since_ms is not None]
        if self._began_ms is not None:
            begun.append(self._began_ms)
        return min(begun, default=None)

    def begin(self, now_ms: int) -> None:
        if self._began_ms is None:
            self._began_ms = now_ms

    def unheard(self, now_ms: int) -> None:
        """What passed while it was waited for in vain has failed; the read under way begins now."""
        passed = max(0, (now_ms - self.due_ms) // self._period_ms)
        if passed and self._began_ms is not None:
            self._outages[pb.GAP_UNREADABLE].failed(self._began_ms, reads=passed)
            self.due_ms += passed * self._period_ms
            self._began_ms = now_ms

    def good(self, taken_ms: int) -> Iterator[Lost]:
        """A row of that time; the gaps before it."""
        self._began_ms = None
        passed = self._next(taken_ms)
        self.late += passed
        for lost in (*(one.good(taken_ms) for one in self._outages.values()), self._skipped.good(taken_ms)):
            if lost is not None:
                yield lost
        self._skipped.add(passed)

    def failed(self, now_ms: int, reason: pb.GapReason.ValueType = pb.GAP_UNREADABLE) -> Iterator[Lost]:
        """The read under way, or the one that is due, gave nothing; gaps that have been open for long."""
        began_ms, self._began_ms = self._began_ms, None
        self._outages[reason].failed(now_ms if began_ms is None else began_ms, reads=1 + self._next(now_ms))
        yield from self.overdue(now_ms)

    def overdue(self, now_ms: int) -> Iterator[Lost]:
        if self._began_ms is not None:
            return
        for outage in self._outages.values():
            lost = outage.overdue(now_ms)
            if lost is not None:
                yield lost

    def end(self, now_ms: int) -> Iterator[Lost]:
        """Nobody reads any more; a read under way is cut off."""
        if self._began_ms is not None:
            yield from self.failed(now_ms)
        for lost in (*(one.end(now_ms) for one in self._outages.values()), self._skipped.end(now_ms)):
            if lost is not None:
                yield lost

    def _next(self, now_ms: int) -> int:
        """Move on to the next point that is not yet over; how many were passed."""
        passed = max(0, (now_ms - self.due_ms) // self._period_ms)
        self.due_ms += (1 + passed) * self._period_ms
        return passed
