"""How long acknowledgements take here, and what follows: when a link is dead, and how much backlog may be under way.

Patience: the timer of RFC 6298 over the time from handing a batch to the transport to its acknowledgement, never below
twice the slowest one seen of late, so that a server that commits slowly is not taken for a dead link. Each time it
runs out it doubles, until something is acknowledged again.

Backlog: the window of RFC 6817 (LEDBAT), counted in batches. While acknowledgements come as fast as the fastest of
this connection, more is put under way; once they come half a second later, a queue stands somewhere on the link, in
which new data would wait too, and the backlog yields.
"""

from __future__ import annotations

FIRST_S = 15.0
"""Patience before anything was measured."""
FLOOR_S = 5.0
TARGET_S = 0.5
REMEMBERED_MS = 3_600_000
INITIAL = 2


class Progress:
    """Lives as long as the uplink: what a server's pace was, it is after a reconnect too. Times in monotonic ms."""

    def __init__(self, *, cap_s: float) -> None:
        self._cap_s = cap_s
        self._smoothed_s: float | None = None
        self._varies_s = 0.0
        self._slowest_s = 0.0
        self._slowest_ms = 0
        self._in_vain = 0
        self.connected()

    def connected(self) -> None:
        """A new connection: its path may be another one."""
        self._fastest_s: float | None = None
        self._allowed = INITIAL
        self._until_next_cut = 0

    @property
    def patience_s(self) -> float:
        """Without any acknowledgement for so long, although something is under way, the link is dead."""
        if self._smoothed_s is None:
            derived_s = FIRST_S
        else:
            derived_s = max(FLOOR_S, self._smoothed_s + 4 * self._varies_s, 2 * self._slowest_s)
        return min(self._cap_s, derived_s * float(1 << self._in_vain))

    def gave_up(self) -> None:
        """Patience ran out."""
        self._in_vain = min(self._in_vain + 1, 8)

    def acknowledged(self, took_ms: int, now_ms: int) -> None:
        """One batch was acknowledged `took_ms` after it was handed over."""
        took_s = took_ms / 1000
        self._in_vain = 0
        if self._smoothed_s is None:
            self._smoothed_s, self._varies_s = took_s, took_s / 2
        else:
            self._varies_s += (abs(self._smoothed_s - took_s) - self._varies_s) / 4
            self._smoothed_s += (took_s - self._smoothed_s) / 8
        if took_s >= self._slowest_s or now_ms - self._slowest_ms > REMEMBERED_MS:
            self._slowest_s, self._slowest_ms = took_s, now_ms
        self._pace(took_s)

    def _pace(self, took_s: float) -> None:
        self._fastest_s = took_s if self._fastest_s is None else min(self._fastest_s, took_s)
        self._until_next_cut -= 1
        if took_s - self._fastest_s <= TARGET_S:
            self._allowed += 1
        elif self._until_next_cut <= 0:
            self._allowed = max(1, self._allowed // 2)
            self._until_next_cut = self._allowed  # what is under way already can't have felt it

    def backlog(self, window: int) -> int:
        """How many backlog batches may be under way at once, at least one."""
        self._allowed = min(self._allowed, max(1, window))
        return self._allowed
