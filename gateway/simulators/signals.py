"""Signals as functions of time: the same seconds give the same value, on every machine, in any order."""

from __future__ import annotations

import bisect
import csv
import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

Signal = Callable[[float], float]
"""Seconds since the simulator's zero → value."""


def constant(value: float) -> Signal:
    return lambda _: value


def sine(*, mean: float, amplitude: float, period_s: float, noise: float = 0.0, seed: int = 0) -> Signal:
    """A sine with seeded noise of ±`noise`, new each tenth of a second."""

    def at(t_s: float) -> float:
        wave = mean + amplitude * math.sin(2 * math.pi * t_s / period_s)
        return wave + noise * _dither(seed, t_s) if noise else wave

    return at


def ramp(*, start: float, end: float, period_s: float) -> Signal:
    """From `start` to `end`, and again from `start`."""
    return lambda t_s: start + (end - start) * (t_s % period_s) / period_s


def rising(*, start: float, per_hour: float) -> Signal:
    """A counter."""
    return lambda t_s: start + per_hour * t_s / 3600.0


def walk(*, mean: float, amplitude: float, period_s: float = 60.0, seed: int = 0) -> Signal:
    """A wandering line within ±`amplitude` that never repeats; `period_s` is the time of its larger turns."""

    def at(t_s: float) -> float:
        octaves = ((0.6, period_s), (0.3, period_s / 3), (0.1, period_s / 9))
        return mean + amplitude * sum(share * _wander(f"{seed}/{share}", t_s / step_s) for share, step_s in octaves)

    return at


def _wander(seed: str, place: float) -> float:
    """In [-1, 1], straight lines between a hash of each whole number."""
    left = math.floor(place)
    one, other = (zlib.crc32(f"{seed}/{n}".encode()) / 2**31 - 1.0 for n in (left, left + 1))
    return one + (other - one) * (place - left)


def cycle(values: Sequence[float], *, every_s: float) -> Signal:
    """One value after the other."""
    return lambda t_s: values[int(t_s // every_s) % len(values)]


def _dither(seed: int, t_s: float) -> float:
    """In [-1, 1), a hash of the tenth of a second."""
    return zlib.crc32(f"{seed}/{math.floor(t_s * 10)}".encode()) / 2**31 - 1.0


def cold_box(
    *,
    setpoint: float = 4.0,
    ambient: float = 25.0,
    warm_ups: Sequence[tuple[float, float]] = (),
    warm_tau_s: float = 120.0,
    cool_tau_s: float = 60.0,
    ripple: float = 0.3,
    ripple_period_s: float = 90.0,
) -> Signal:
    """Air in a refrigerated box, with the ripple of a thermostat.

    First-order towards `ambient` during each warm-up (start_s, length_s), else towards `setpoint`. Warm-ups are
    ascending and don't overlap.
    """
    edges: list[tuple[float, float, float, float]] = []  # from, excess there, target excess, tau
    t_s, excess = 0.0, 0.0
    for start_s, length_s in warm_ups:
        excess *= math.exp(-(start_s - t_s) / cool_tau_s)
        edges.append((start_s, excess, ambient - setpoint, warm_tau_s))
        excess = (ambient - setpoint) + (excess - (ambient - setpoint)) * math.exp(-length_s / warm_tau_s)
        t_s = start_s + length_s
        edges.append((t_s, excess, 0.0, cool_tau_s))
    starts = [edge[0] for edge in edges]

    def at(now_s: float) -> float:
        wave = setpoint + ripple * math.sin(2 * math.pi * now_s / ripple_period_s)
        i = bisect.bisect_right(starts, now_s) - 1
        if i < 0:
            return wave
        from_s, begin, target, tau_s = edges[i]
        return wave + target + (begin - target) * math.exp(-(now_s - from_s) / tau_s)

    return at


def replay(path: Path, column: str, *, time_column: str = "ts_ms") -> Signal:
    """A recorded column (CSV, may be gzipped), held between its samples and repeated for ever.

    Empty cells are passed over. Raises ValueError when the file has no such column or no value in it.
    """
    with _opened(path) as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or []
        if column not in names or time_column not in names:
            raise ValueError(f"{path}: no column {column!r}; it has {', '.join(names)}")
        rows = [(float(row[time_column]), float(row[column])) for row in reader if row[column]]
    if not rows:
        raise ValueError(f"{path}: column {column!r} is empty")
    times = [(t_ms - rows[0][0]) / 1000.0 for t_ms, _ in rows]
    length_s = times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1.0)
    return lambda t_s: rows[bisect.bisect_right(times, t_s % length_s) - 1][1]


def columns(path: Path) -> list[str]:
    """The names in the head of a CSV file."""
    with _opened(path) as file:
        return next(csv.reader(file), [])


def _opened(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
