"""The gaps of a sensor that can't be asked, only listened to: one running gap per reason. Pure.

Invariants: what was refused, did not fit or could not be heard is inside exactly one gap of its reason; a gap's ends
lie outside the loss; a good row is never inside one; being deaf shorter than a first period, at the start, is no loss.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.reading import Lost
from gateway.sensors.outage import Outage
from protos.comboio.v1 import batch_pb2 as pb


class Heard:
    """One run of one group. All times are mono_ms."""

    def __init__(self, *, started_ms: int, period_ms: int, close_every_ms: int = 60_000) -> None:
        self._period_ms = period_ms
        self._outages = {
            reason: Outage(started_ms=started_ms, close_every_ms=close_every_ms, reason=reason)
            for reason in (pb.GAP_UNREADABLE, pb.GAP_REFUSED, pb.GAP_QUEUE_FULL)
        }
        self._deaf_since_ms: int | None = started_ms
        self._close_every_ms = close_every_ms
        self._first = True

    @property
    def since_ms(self) -> int | None:
        """Begin of the oldest loss that is in no gap yet."""
        begun = [one.since_ms for one in self._outages.values() if one.since_ms is not None]
        if self._deaf_since_ms is not None:
            begun.append(self._deaf_since_ms)
        return min(begun, default=None)

    def failed(self, at_ms: int, reason: pb.GapReason.ValueType) -> None:
        """A measurement that was heard then gave no row."""
        self._outages[reason].failed(at_ms)

    def good(self, taken_ms: int) -> Iterator[Lost]:
        """A row of that time; the gaps before it."""
        for outage in self._outages.values():
            lost = outage.good(taken_ms)
            if lost is not None:
                yield lost

    def deaf(self, since_ms: int) -> None:
        """Nothing could be heard from then on."""
        if self._deaf_since_ms is None:
            self._deaf_since_ms = since_ms

    def hears(self, now_ms: int, *, kept: bool = False) -> Iterator[Lost]:
        """It can be heard again; `kept`: whoever speaks keeps what was said meanwhile and repeats it."""
        since_ms, self._deaf_since_ms = self._deaf_since_ms, None
        started, self._first = self._first, False
        if since_ms is None or kept or (started and now_ms - since_ms < self._period_ms):
            return
        yield from self._unheard(since_ms, now_ms)

    def overdue(self, now_ms: int) -> Iterator[Lost]:
        """Running gaps that have been open for long; what a broker kept comes later, at the time it comes."""
        if self._deaf_since_ms is not None and now_ms - self._deaf_since_ms >= self._close_every_ms:
            since_ms, self._deaf_since_ms = self._deaf_since_ms, now_ms
            self._first = False
            yield from self._unheard(since_ms, now_ms)
        for outage in self._outages.values():
            lost = outage.overdue(now_ms)
            if lost is not None:
                yield lost

    def end(self, now_ms: int) -> Iterator[Lost]:
        """Nobody listens any more."""
        yield from self.hears(now_ms)
        for outage in self._outages.values():
            lost = outage.end(now_ms)
            if lost is not None:
                yield lost

    def _unheard(self, since_ms: int, now_ms: int) -> Iterator[Lost]:
        unreadable = self._outages[pb.GAP_UNREADABLE]
        unreadable.failed(since_ms, reads=max(1, (now_ms - since_ms) // self._period_ms))
        lost = unreadable.end(now_ms)
        if lost is not None:
            yield lost
