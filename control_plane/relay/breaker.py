"""Stops asking a destination that does not answer, and tries it with one delivery now and then.

Closed → open: FAILURES_IN_A_ROW, or half of at least CALLS in WINDOW_MS, failed, and not all of one key: a single key
has its own retries, and what is wrong with one event must not hold up the others. Open → half-open after a rest that
doubles from 30 s to 10 min; one delivery then decides. Failures are what may have to do with the destination as such:
refused connections, time-outs, throttling. An answer that refuses one event is an answer.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from control_plane.relay.connector import Class

State = Literal["closed", "open", "half_open"]
FAILURES = frozenset({"TRANSIENT", "THROTTLED", "AMBIGUOUS"})
CALLS = 20
WINDOW_MS = 60_000
FIRST_REST_MS = 30_000
LONGEST_REST_MS = 600_000


class Breaker:
    """Of one destination in one relay. `in_a_row` 0: never opens."""

    def __init__(self, *, in_a_row: int) -> None:
        self._in_a_row = in_a_row
        self._calls: deque[tuple[int, str, bool]] = deque(maxlen=512)  # (when, key, failed)
        self._row: list[str] = []
        self._rest_ms = FIRST_REST_MS
        self.open_until_ms: int | None = None

    def state(self, now_ms: int) -> State:
        if self.open_until_ms is None:
            return "closed"
        return "open" if now_ms < self.open_until_ms else "half_open"

    def took(self, key: str, outcome: Class, now_ms: int) -> bool:
        """Take an outcome; returns whether it should count as an attempt of its delivery.

        It does not once the destination as such is known to be away.
        """
        failed = outcome in FAILURES
        if self.open_until_ms is not None:
            if not failed:
                if now_ms >= self.open_until_ms:
                    self.reset()
                return True
            if now_ms >= self.open_until_ms:  # the one delivery that tried
                self._rest_ms = min(LONGEST_REST_MS, self._rest_ms * 2)
                self.open_until_ms = now_ms + self._rest_ms
            return False
        self._calls.append((now_ms, key, failed))
        self._row = [*self._row, key][-max(self._in_a_row, 1) :] if failed else []
        if failed and self._in_a_row and (self._many_in_a_row() or self._half_of_many(now_ms)):
            self.open_until_ms = now_ms + self._rest_ms
        return True

    def reset(self) -> None:
        """As if nothing had ever failed."""
        self._calls.clear()
        self._row = []
        self._rest_ms = FIRST_REST_MS
        self.open_until_ms = None

    def _many_in_a_row(self) -> bool:
        return len(self._row) >= self._in_a_row and len(set(self._row)) > 1

    def _half_of_many(self, now_ms: int) -> bool:
        recent = [(key, failed) for at_ms, key, failed in self._calls if now_ms - at_ms <= WINDOW_MS]
        bad = [key for key, failed in recent if failed]
        return len(recent) >= CALLS and 2 * len(bad) >= len(recent) and len(set(bad)) > 1
