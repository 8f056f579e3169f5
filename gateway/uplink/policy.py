"""What may go by a link now: its policy, its hours, and what is left of the day's bytes. Pure.

URGENT always goes. Of telemetry, immediacy is given up first, by larger batches, and then it is held back; nothing is
dropped here: the buffer keeps it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from protos.config import Via

METERED_S = 60.0
STRETCH = ((0.8, 600.0), (0.5, 300.0))
"""(share of the day's bytes, shortest batch interval from there on)."""


class Leave(NamedTuple):
    """Whether telemetry may go, in batches of what interval at least; `why` it is held back or stretched, or ""."""

    telemetry: bool = True
    interval_s: float = 0.0
    why: str = ""


def leave(via: Via, *, used_bytes: int, wall_ms: int) -> Leave:
    """What may go by `via`, which carried `used_bytes` today, at that wall time."""
    if via.policy == "roaming":
        return Leave(telemetry=False, why=f"{via.id} is roaming")
    if via.hours and not any(_within(span, wall_ms) for span in via.hours):
        return Leave(telemetry=False, why=f"{via.id} is outside its hours ({', '.join(via.hours)} UTC)")
    share = used_bytes / (via.daily_mb * 1e6) if via.daily_mb else 0.0
    if share >= 1:
        return Leave(telemetry=False, why=f"the {via.daily_mb:g} MB of today by {via.id} are used up")
    base_s = METERED_S if via.policy == "metered" else 0.0
    for beyond, interval_s in STRETCH:
        if share >= beyond:
            why = f"{share:.0%} of today's {via.daily_mb:g} MB by {via.id} are used"
            return Leave(interval_s=max(base_s, interval_s), why=why)
    return Leave(interval_s=base_s)


def _within(span: str, wall_ms: int) -> bool:
    """Of the day, from inclusive to exclusive; a span may pass midnight, and from = to is the whole day."""
    now = datetime.fromtimestamp(wall_ms / 1000, UTC)
    minute = now.hour * 60 + now.minute
    begin, end = (60 * int(at[:2]) + int(at[3:]) for at in span.split("-"))
    return begin <= minute < end if begin < end else minute >= begin or minute < end
