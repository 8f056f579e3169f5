"""Keeps a dead unit from eating the time of the others on its bus. Pure: it is told the time."""

from __future__ import annotations


class Breaker:
    """Closed: every poll passes. Open, after `threshold` silent polls in a row: one probe per backoff.

    The backoff doubles from `first_s` to `most_s`. Any answer, an exception included, closes it.
    """

    def __init__(self, *, threshold: int = 3, first_s: float = 0.5) -> None:
        self._threshold = threshold
        self._first_s = first_s
        self._failures = 0
        self._backoff_s = 0.0
        self._probe_at_s = 0.0

    @property
    def open(self) -> bool:
        return self._failures >= self._threshold

    def allows(self, now_s: float) -> bool:
        return not self.open or now_s >= self._probe_at_s

    def answered(self) -> None:
        self._failures = 0
        self._backoff_s = 0.0

    def silent(self, now_s: float, *, most_s: float) -> None:
        self._failures += 1
        if self.open:
            self._backoff_s = min(most_s, self._backoff_s * 2 or self._first_s)
            self._probe_at_s = now_s + self._backoff_s
