"""Signals as a scenario names them, in whole steps of what the sensor resolves."""

from __future__ import annotations

import math
import zlib
from typing import Annotated, Literal

from msgspec import Meta, Struct


class Wave(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One quantity over time. `counting` rises by one step per measurement, so that each can be told apart."""

    kind: Literal["constant", "sine", "counting"] = "sine"
    mean: float = 20.0
    amplitude: float = 5.0
    period_s: Annotated[float, Meta(gt=0)] = 600.0
    noise: float = 0.0
    """Largest deviation, new per measurement, the same in every run."""
    drift_per_h: float = 0.0
    wrap: Annotated[int, Meta(ge=2)] = 5000
    """Counting starts again after this many steps."""

    def steps(self, k: int, t_s: float, *, step: float, offset: float = 0.0) -> int:
        """The sensor's own integer: value = steps × step + offset. `k` from 1, `t_s` since the start."""
        if self.kind == "counting":
            return k % self.wrap
        value = self.mean + self.drift_per_h * t_s / 3600.0
        if self.kind == "sine":
            value += self.amplitude * math.sin(2 * math.pi * t_s / self.period_s)
        if self.noise:
            value += self.noise * (zlib.crc32(f"{k}".encode()) / 2**31 - 1.0)
        return round((value - offset) / step)
