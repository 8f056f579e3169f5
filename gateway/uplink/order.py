"""Which telemetry goes next: what is new first, of what waited before the oldest. Pure.

Each connection starts with the newest batch that waits and all that follow it as *fresh*; everything below is
*backlog*. Fresh batches go at once, but after FRESH_IN_A_ROW of them one of the backlog has its turn, so neither waits
for ever. Where sensors outrun the link, fresh is moved up to the newest batch again: what it passed over is backlog.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.ranges import Ranges

FRESH_IN_A_ROW = 3
MOST_FRESH = 32
"""More new batches than this behind one another are no news any more."""

Span = tuple[int, int]


@dataclass(slots=True)
class Order:
    """Of one lane's seqs, on one connection. `taken`: those that need not be looked at again."""

    fresh_from: int
    oldest_first: bool = False
    taken: Ranges = field(default_factory=Ranges)
    _in_a_row: int = 0

    def fresh(self, newest: int) -> Span | None:
        """The first run of fresh seqs up to `newest` that nobody has looked at."""
        if self.oldest_first:
            return None
        if newest - max(self.fresh_from, self.taken.highest) > MOST_FRESH:
            self.fresh_from = newest
        return next(self.taken.missing(self.fresh_from, newest), None)

    def backlog(self, newest: int) -> Span | None:
        """The same of the backlog."""
        return next(self.taken.missing(1, newest if self.oldest_first else self.fresh_from - 1), None)

    @property
    def backlogs_turn(self) -> bool:
        return self._in_a_row >= FRESH_IN_A_ROW

    def took(self, span: Span, found: list[int], *, backlog: bool) -> None:
        """Of `span` these were found to be sent, its lowest; what lies between them needs no sending."""
        self.taken.add(span[0], found[-1] if found else span[1])
        if found:
            self._in_a_row = 0 if backlog else self._in_a_row + len(found)

    def again(self) -> None:
        """Look at everything anew."""
        self.taken = Ranges()
        self._in_a_row = 0
