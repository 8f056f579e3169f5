"""When to try again."""

from __future__ import annotations

import random
from collections.abc import Sequence

AUTH_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 86_400.0  # whoever says more is not believed


def delay_s(profile: Sequence[float], attempt: int, rng: random.Random, *, retry_after_s: float | None) -> float | None:
    """Seconds before attempt `attempt` + 1 (attempts count from 1), half of it jitter; None: no attempt is left."""
    if attempt > len(profile):
        return None
    wait = profile[attempt - 1] * rng.uniform(0.5, 1.0)
    return max(wait, min(retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))
