"""Count, least, greatest, sum and last per series and step of time: what charts of days and years are drawn from.

Of finite numbers only, as everywhere in charts: text and missing values count for nothing here.

A row of the store holds the steps of all series of one gateway in one stretch (an hour's minutes, a day's hours, a
month's quarters of days or its days), packed together. Numbers that are whole in some power of ten, as nearly all are,
are kept as integers, relative to the least; the sum of such is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from control_plane.projections.bulk import Bools, Float64
from control_plane.projections.chunk import pack_floats, pack_ints, unpack_floats, unpack_ints
from control_plane.projections.varints import Int64

MINUTE_MS, HOUR_MS, QUARTER_MS, DAY_MS = 60_000, 3_600_000, 21_600_000, 86_400_000
"""QUARTER: of a day."""
POWERS = tuple(10.0**n for n in range(7))
EXACT = float(1 << 53)
SUM_ERROR = 1e-9
"""How far a sum of some thousand floats may be from what it should be, relatively."""
REAL = -1


@dataclass(frozen=True, slots=True)
class Steps:
    """Parallel arrays, sorted by series and time. `series` counts in `names`, which are sensor/quantity."""

    names: Sequence[str]
    series: Int64
    start_ms: Int64
    count: Int64
    least: Float64
    greatest: Float64
    total: Float64
    last: Float64

    def only(self, chosen: Bools | Int64) -> Steps:
        return Steps(self.names, *(column[chosen] for column in self.columns()))

    def columns(self) -> tuple[Any, ...]:
        return self.series, self.start_ms, self.count, self.least, self.greatest, self.total, self.last

    def of(self, names: Collection[str]) -> Steps:
        """Of these series only."""
        wanted = [index for index, name in enumerate(self.names) if name in names]
        return self.only(np.isin(self.series, wanted))

    def within(self, from_ms: int, to_ms: int) -> Steps:
        return self.only((self.start_ms >= from_ms) & (self.start_ms < to_ms))


class _Packed(Struct, array_like=True, frozen=True):
    names: list[str]
    steps: bytes
    """How many, per series."""
    power: list[int]
    """Of ten, per series; REAL: its numbers are in `reals`."""
    index: bytes
    count: bytes
    least: bytes
    greatest: bytes
    """Above the least, as `last`."""
    last: bytes
    total: bytes
    """Above count times the least."""
    reals: bytes


_decoder = msgspec.msgpack.Decoder(_Packed)
_NO_INTS, _NO_FLOATS = np.empty(0, np.int64), np.empty(0, np.float64)
NOTHING = Steps((), _NO_INTS, _NO_INTS, _NO_INTS, _NO_FLOATS, _NO_FLOATS, _NO_FLOATS, _NO_FLOATS)


def fold(names: Sequence[str], series: Int64, times_ms: Int64, values: Float64, step_ms: int) -> Steps:
    """Readings in any order to steps."""
    good = np.isfinite(values)
    series, times_ms, values = series[good], times_ms[good], values[good]
    ones = np.ones(series.size, np.int64)
    return coarser(Steps(names, series, times_ms, ones, values, values, values, values), step_ms)


def coarser(steps: Steps, step_ms: int) -> Steps:
    """The same in longer steps."""
    if not steps.series.size:
        return steps
    order = np.lexsort((steps.start_ms, steps.series))
    one = steps.only(order.astype(np.int64))
    start = one.start_ms // step_ms * step_ms
    fresh = np.append([True], (start[1:] != start[:-1]) | (one.series[1:] != one.series[:-1]))
    first = np.flatnonzero(fresh)
    final = np.append(first[1:], [start.size]) - 1
    return Steps(
        steps.names,
        one.series[first],
        start[first],
        np.add.reduceat(one.count, first),
        np.minimum.reduceat(one.least, first),
        np.maximum.reduceat(one.greatest, first),
        np.add.reduceat(one.total, first),
        one.last[final],
    )


def joined(parts: Iterable[Steps]) -> Steps:
    """Of the same or of other series; no step may be in two of them."""
    parts = [part for part in parts if part.series.size]
    if len(parts) <= 1:
        return parts[0] if parts else NOTHING
    number: dict[str, int] = {}
    series = []
    for part in parts:
        to = np.array([number.setdefault(name, len(number)) for name in part.names], np.int64)
        series.append(to[part.series])
    columns = [np.concatenate(columns) for columns in zip(*(part.columns()[1:] for part in parts), strict=True)]
    whole = Steps(list(number), np.concatenate(series), *columns)
    return whole.only(np.lexsort((whole.start_ms, whole.series)).astype(np.int64))


def pack(steps: Steps, step_ms: int) -> bytes:
    """Sorted steps, of `step_ms` each."""
    used = np.unique(steps.series)
    counts = np.array([int((steps.series == number).sum()) for number in used], np.int64)
    powers = [_power(steps.only(steps.series == number)) for number in used]
    scale = np.repeat([POWERS[power] if power != REAL else 0.0 for power in powers], counts)
    whole = steps.only(scale > 0)
    least = _scaled(whole.least, scale[scale > 0])
    real = steps.only(scale == 0)
    packed = _Packed(
        names=[steps.names[number] for number in used],
        steps=pack_ints(counts),
        power=powers,
        index=pack_ints(steps.start_ms // step_ms),
        count=pack_ints(steps.count),
        least=pack_ints(least),
        greatest=pack_ints(_scaled(whole.greatest, scale[scale > 0]) - least),
        last=pack_ints(_scaled(whole.last, scale[scale > 0]) - least),
        total=pack_ints(_scaled(whole.total, scale[scale > 0]) - whole.count * least),
        reals=pack_floats(np.concatenate([real.least, real.greatest, real.total, real.last])),
    )
    return msgspec.msgpack.encode(packed)


def unpack(body: bytes, step_ms: int) -> Steps:
    """Raises BodyError or ValueError for damaged bytes."""
    packed = _decoder.decode(body)
    counts = unpack_ints(packed.steps, len(packed.names))
    size = int(counts.sum())
    scale = np.repeat([POWERS[power] if power != REAL else 0.0 for power in packed.power], counts)
    is_whole = scale > 0
    whole = int(is_whole.sum())
    count = unpack_ints(packed.count, size)
    least = unpack_ints(packed.least, whole)
    reals = unpack_floats(packed.reals, 4 * (size - whole)).reshape(4, -1)
    columns = (
        least,
        least + unpack_ints(packed.greatest, whole),
        unpack_ints(packed.total, whole) + count[is_whole] * least,
        least + unpack_ints(packed.last, whole),
    )
    numbers = np.empty((4, size), np.float64)
    for place, (ints, real) in enumerate(zip(columns, reals, strict=True)):
        numbers[place, is_whole] = ints / scale[is_whole]
        numbers[place, ~is_whole] = real
    return Steps(
        packed.names,
        np.repeat(np.arange(len(packed.names)), counts),
        unpack_ints(packed.index, size) * step_ms,
        count,
        *numbers,
    )


def names(body: bytes) -> list[str]:
    """Which series are packed there."""
    return _decoder.decode(body).names


def _power(steps: Steps) -> int:
    """The least power of ten in which all of them are whole, sums as well; REAL if there is none."""
    numbers = np.concatenate([steps.least, steps.greatest, steps.last])
    most = max(float(np.abs(numbers).max()), float(np.abs(steps.total).max()))
    for power, scale in enumerate(POWERS):
        if most * scale >= EXACT or np.signbit(numbers[numbers == 0]).any():
            break
        total = steps.total * scale
        exact = np.abs(total - np.rint(total)) <= SUM_ERROR * np.maximum(1.0, np.abs(total))
        if exact.all() and (np.rint(numbers * scale) / scale == numbers).all():
            return power
    return REAL


def _scaled(numbers: Float64, scale: Float64) -> Int64:
    found: Int64 = np.rint(numbers * scale).astype(np.int64)
    return found
