"""Decorrelated jitter: no two gateways come back at the same moment, not even the first time."""

from __future__ import annotations

import random


class Backoff:
    """Delays between `base_s` and `cap_s`, each drawn from [base, 3 × the last one]."""

    def __init__(self, *, base_s: float = 0.5, cap_s: float = 60.0, rng: random.Random | None = None) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, protects nothing
        self._last_s = base_s

    def next_s(self) -> float:
        self._last_s = min(self._cap_s, self._rng.uniform(self._base_s, self._last_s * 3))
        return self._last_s

    def reset(self) -> None:
        """After real progress, not after a mere connection."""
        self._last_s = self._base_s
