"""Turns reads that gave nothing into gaps: one per outage, or per minute of it, never one per read. Pure.

Invariants: every failed read is counted in exactly one gap; the ends of a gap lie outside the loss (a good read, the
start of the run, or the end of the gap before); gaps of one outage are adjacent; a good read is never inside one.
"""

from __future__ import annotations

from gateway.reading import Lost
from protos.comboio.v1 import batch_pb2 as pb


class Outage:
    """The running gap of one group, if any. All times are mono_ms."""

    def __init__(
        self,
        *,
        started_ms: int,
        close_every_ms: int = 60_000,
        reason: pb.GapReason.ValueType = pb.GAP_UNREADABLE,
    ) -> None:
        self._after_ms = started_ms
        self._close_every_ms = close_every_ms
        self._reason = reason
        self._since_ms: int | None = None
        self._last_ms = 0
        self._count = 0

    @property
    def since_ms(self) -> int | None:
        """Begin of the oldest failed read that is in no gap yet."""
        return self._since_ms

    def failed(self, began_ms: int, *, reads: int = 1) -> None:
        """Reads begun then gave nothing; of what was only listened for, `reads` is how many were due."""
        if self._since_ms is None:
            self._since_ms = began_ms
        self._last_ms = began_ms
        self._count += reads

    def good(self, taken_ms: int) -> Lost | None:
        """A read gave a row of that time; the gap before it, to be emitted before the row."""
        lost = self._close(taken_ms) if self._count else None
        self._after_ms = taken_ms
        return lost

    def overdue(self, now_ms: int) -> Lost | None:
        """The running gap, closed, if it has been open for long. Not to be called while a read is under way."""
        if self._since_ms is None or now_ms - self._since_ms < self._close_every_ms:
            return None
        return self._close(now_ms)

    def end(self, now_ms: int) -> Lost | None:
        """The running gap, closed because nobody will read any more."""
        return self._close(now_ms) if self._count else None

    def _close(self, before_ms: int) -> Lost:
        before_ms = max(before_ms, self._last_ms + 1)
        lost = Lost(self._after_ms, before_ms, self._count, self._reason)
        self._after_ms = before_ms
        self._since_ms = None
        self._count = 0
        return lost


class Skipped:
    """Polls that fell out because the bus was busy: on one that is asked too much, at every turn. Pure.

    Counted in one gap per `close_every_ms`, which lies between the last two rows, so that no good read is inside it.
    """

    def __init__(self, *, started_ms: int, close_every_ms: int) -> None:
        self._after_ms = started_ms
        self._close_every_ms = close_every_ms
        self._said_ms = started_ms
        self._count = 0

    def add(self, polls: int) -> None:
        self._count += polls

    def good(self, taken_ms: int) -> Lost | None:
        """A row of that time; the gap before it, if it is time for one."""
        due = self._count and taken_ms - self._said_ms >= self._close_every_ms
        lost = self.end(taken_ms) if due else None
        self._after_ms = taken_ms
        return lost

    def end(self, now_ms: int) -> Lost | None:
        """Nobody polls any more, or it is time to say it."""
        if not self._count:
            return None
        lost = Lost(self._after_ms, max(now_ms, self._after_ms + 1), self._count, pb.GAP_QUEUE_FULL)
        self._said_ms, self._count = now_ms, 0
        return lost
