"""How fast a destination is written to: a bucket of tokens, and fewer at once while it struggles.

The limit of deliveries under way is halved when the destination throttles, or when its slowest answers take twice as
long as they used to, and grows again by one a minute. It starts at what the settings allow and never exceeds it.
"""

from __future__ import annotations

from collections import deque

from control_plane.relay.connector import Class

ANSWERS = 40
"""Between two judgements of how long they take."""
NOTICEABLE_MS = 100.0
GROWS_MS = 60_000
HALVES_AGAIN_MS = 5_000
DRIFT = 1.02
"""What is usual may become this much slower from one judgement to the next."""


class Pace:
    """Of one destination in one relay. `per_s` 0: no limit; times are wall ms."""

    def __init__(self, *, per_s: float, most: int) -> None:
        self._per_s = per_s
        self._most = most
        self._tokens = max(1.0, per_s)
        self._filled_ms: int | None = None
        self._took_ms: deque[int] = deque(maxlen=ANSWERS)
        self._usual_ms: float | None = None
        self._changed_ms: int | None = None
        self.at_once = most

    def wait_ms(self, now_ms: int) -> int:
        """How long until a delivery may begin; 0 takes a token."""
        if not self._per_s:
            return 0
        since_ms = max(0, now_ms - self._filled_ms) if self._filled_ms is not None else 0
        self._filled_ms = now_ms
        self._tokens = min(max(1.0, self._per_s), self._tokens + since_ms * self._per_s / 1000)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        return max(1, round((1 - self._tokens) * 1000 / self._per_s))

    def took(self, outcome: Class, took_ms: int, now_ms: int) -> None:
        if self._changed_ms is None:
            self._changed_ms = now_ms
        if outcome == "THROTTLED" or self._slower(took_ms):
            if self.at_once == self._most or now_ms - self._changed_ms >= HALVES_AGAIN_MS:
                self.at_once = max(1, self.at_once // 2)
                self._changed_ms = now_ms
        elif now_ms - self._changed_ms >= GROWS_MS:
            self.at_once = min(self._most, self.at_once + 1)
            self._changed_ms = now_ms

    def _slower(self, took_ms: int) -> bool:
        self._took_ms.append(took_ms)
        if len(self._took_ms) < ANSWERS:
            return False
        slow_ms = sorted(self._took_ms)[ANSWERS * 95 // 100]
        self._took_ms.clear()
        usual_ms = float(slow_ms) if self._usual_ms is None else self._usual_ms
        self._usual_ms = min(float(slow_ms), usual_ms * DRIFT)
        return slow_ms > max(NOTICEABLE_MS, 2 * usual_ms)
