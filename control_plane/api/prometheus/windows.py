"""Arithmetic over windows of one series: many at once, in numpy.

A window is [t - range, t): whole minutes and hours of history, which rollups hold, are whole windows then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from control_plane.projections.bulk import Bools, Float64
from control_plane.projections.varints import Int64

NEAR_BORDER = 1.1
"""In mean distances of readings: so near, what is counted is taken to begin or end at the window's border."""


@dataclass(frozen=True, slots=True)
class Samples:
    """One series, sorted by time: readings, or (`width_ms` > 0) steps of time with what was read in each.

    A reading without a finite number has NaN everywhere and count 0; no step is without one.
    """

    at_ms: Int64
    count: Int64
    least: Float64
    greatest: Float64
    total: Float64
    last: Float64
    width_ms: int = 0

    @classmethod
    def of_readings(cls, at_ms: Int64, values: Float64) -> Samples:
        values = np.where(np.isfinite(values), values, np.nan)
        return cls(at_ms, (~np.isnan(values)).astype(np.int64), values, values, values, values)

    def numbers(self) -> Samples:
        """Without readings that gave none."""
        good = self.count > 0
        return Samples(
            self.at_ms[good],
            self.count[good],
            self.least[good],
            self.greatest[good],
            self.total[good],
            self.last[good],
            self.width_ms,
        )


def latest(samples: Samples, times_ms: Int64, look_back_ms: int) -> tuple[Float64, Bools]:
    """The last reading at or before each instant, if it lies within the look-back and gave a number."""
    if not samples.at_ms.size:
        return np.zeros(times_ms.size), np.zeros(times_ms.size, bool)
    index = np.searchsorted(samples.at_ms, times_ms - samples.width_ms, side="right") - 1
    at = np.clip(index, 0, None)
    # A step's reading lies anywhere within it: only a step that lies in the look-back as a whole is surely near.
    oldest = times_ms - look_back_ms - (1 if samples.width_ms else 0)
    here = (index >= 0) & (samples.at_ms[at] > oldest) & (samples.count[at] > 0)
    return samples.last[at], here


def over_time(function: str, samples: Samples, times_ms: Int64, range_ms: int) -> tuple[Float64, Bools]:
    one = samples.numbers()
    low = np.searchsorted(one.at_ms, times_ms - range_ms)
    high = np.searchsorted(one.at_ms, times_ms)
    here = high > low
    if function == "last_over_time":
        at = np.clip(high - 1, 0, None)
        return (one.last[at] if one.last.size else np.zeros(times_ms.size)), here
    if function == "min_over_time":
        return _folded(np.minimum, one.least, low, high, np.inf), here
    if function == "max_over_time":
        return _folded(np.maximum, one.greatest, low, high, -np.inf), here
    count = _folded(np.add, one.count.astype(np.float64), low, high, 0.0)
    if function == "count_over_time":
        return count, here
    total = _folded(np.add, one.total, low, high, 0.0)
    return (total if function == "sum_over_time" else total / np.maximum(count, 1)), here


def _folded(fold: np.ufunc, values: Float64, low: Int64, high: Int64, nothing: float) -> Float64:
    """fold(values[low:high]) of each pair: by stretches of 1, 2, 4, … values, each of which is folded once."""
    found = np.full(low.size, nothing)
    at, many, size = low.astype(np.int64), (high - low).astype(np.int64), 1
    while many.size and size <= int(many.max()):
        chosen = np.flatnonzero(many & size)
        found[chosen] = fold(found[chosen], values[at[chosen]])
        at[chosen] += size
        values = fold(values[:-size], values[size:])
        size *= 2
    return found


def between(function: str, samples: Samples, times_ms: Int64, range_ms: int) -> tuple[Float64, Bools]:
    """rate, increase and delta, carried on to the window's borders as Prometheus does it.

    A step counts with its last reading at its end: as if it had been looked at then.
    """
    one = samples.numbers()
    low = np.searchsorted(one.at_ms, times_ms - range_ms)
    high = np.searchsorted(one.at_ms, times_ms) - 1
    here = high > low
    if not here.any():
        return np.zeros(times_ms.size), np.zeros(times_ms.size, bool)
    first, last = np.where(here, low, 0), np.where(here, high, 0)
    at = one.at_ms + one.width_ms
    counts = function != "delta"
    gained = one.last[last] - one.last[first]
    if counts:
        fell = np.append([0.0], np.where(one.last[1:] < one.last[:-1], one.last[:-1], 0.0))
        regained = np.cumsum(fell)
        gained = gained + regained[last] - regained[first]
    seen_ms = (at[last] - at[first]).astype(np.float64)
    here &= seen_ms > 0
    to_start = (at[first] - (times_ms - range_ms)).astype(np.float64)
    to_end = (times_ms - at[last]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if counts:  # no counter was below zero before the window began
            to_zero = seen_ms * one.last[first] / gained
            to_start = np.where((gained > 0) & (one.last[first] >= 0), np.minimum(to_start, to_zero), to_start)
        apart, whole = seen_ms / np.maximum(last - first, 1), seen_ms
        for beyond in (to_start, to_end):
            whole = whole + np.where(beyond < NEAR_BORDER * apart, beyond, apart / 2)
        gained = gained * (whole / seen_ms)
    return (gained / (range_ms / 1000) if function == "rate" else gained), here
