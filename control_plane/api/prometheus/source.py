"""Where a query's samples come from: rollups where whole steps of them answer it, readings otherwise.

Rollups need instants, steps and ranges of whole minutes, hours or days (in UTC): then a window is made of whole steps,
and says to the bit what its readings say. A single instant needs nothing of the kind: the ends of its one window are
read as they are. Minutes are asked for only of series that have some; others are read as they are, which is as quick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from control_plane.api.prometheus.catalog import Known
from control_plane.api.prometheus.expression import EXECUTION, OVER_TIME, QueryError
from control_plane.api.prometheus.windows import Samples
from control_plane.projections.bulk import Float64
from control_plane.projections.reading import HistoryReader, Key, Piece, columns_of
from control_plane.projections.rollup import HOUR_MS, Steps
from control_plane.projections.rollups import HOURS, MINUTE_READINGS, STEP_MS, Charts
from control_plane.projections.varints import Int64
from control_plane.store.engine import Store

MOST_READINGS = 5_000_000
"""That one selector reads one by one."""
SHORT_MS = 2 * HOUR_MS
MINUTES = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Windows of `range_ms` before each of some instants, of which a range query has many, `step_ms` apart."""

    times_ms: Int64
    step_ms: int
    range_ms: int
    function: str | None
    """None: the last reading before each instant, which lies no further back than `range_ms`."""

    @property
    def stretch_ms(self) -> tuple[int, int]:
        """What is read for it, the instants themselves included."""
        return int(self.times_ms[0]) - self.range_ms, int(self.times_ms[-1]) + 1

    @property
    def level(self) -> int | None:
        """Of the rollups that answer it; None: readings do."""
        begin, end = self.stretch_ms
        if end - begin <= SHORT_MS:
            return None
        if self.alone:
            return max(level for level, step_ms in enumerate(STEP_MS) if 2 * step_ms <= self.range_ms)
        range_ms = 0 if self.function is None else self.range_ms
        borders = math.gcd(int(self.times_ms[0]), self.step_ms, range_ms)
        fits = [level for level, step_ms in enumerate(STEP_MS) if borders % step_ms == 0]
        return (max(fits) if self.function in OVER_TIME else MINUTES) if fits else None

    @property
    def alone(self) -> bool:
        """Whether whatever is read for it is in its only window."""
        return self.times_ms.size == 1 and self.function in OVER_TIME


class Source:
    """Thread-safe as far as the stores are."""

    def __init__(self, *, telemetry: Store, reader: HistoryReader) -> None:
        self._reader = reader
        self._charts = Charts(telemetry=telemetry, reader=reader)

    def samples(self, known: Sequence[Known], asked: Asked) -> list[Samples]:
        """Of each series. Raises QueryError where more readings than allowed would have to be looked at."""
        levels = self._levels(known, asked)
        self._check_few([one for one, level in zip(known, levels, strict=True) if level is None], asked)
        found: dict[int, Samples] = {}
        for gateway, level in dict.fromkeys(zip((one.gateway for one in known), levels, strict=True)):
            which = [n for n, one in enumerate(known) if (one.gateway, levels[n]) == (gateway, level)]
            some = [known[n] for n in which]
            read = self._readings(gateway, some, asked) if level is None else self._steps(gateway, some, asked, level)
            found |= dict(zip(which, read, strict=True))
        return [found[n] for n in range(len(known))]

    def _steps(self, gateway: str, some: Sequence[Known], asked: Asked, level: int) -> list[Samples]:
        from_ms, to_ms = asked.stretch_ms[0], int(asked.times_ms[-1])
        with self._charts.of(gateway, _keys(some)) as chart:
            steps = chart.steps(level, from_ms, to_ms)
        width = 0 if asked.alone else STEP_MS[level]
        return [_sampled(steps.of({"/".join(one.key)}), from_ms, width) for one in some]

    def _levels(self, known: Sequence[Known], asked: Asked) -> list[int | None]:
        if asked.level != MINUTES:
            return [asked.level] * len(known)
        return [MINUTES if hours.mean() > MINUTE_READINGS else None for hours in self._hours(known, asked)]

    def _hours(self, known: Sequence[Known], asked: Asked) -> list[Int64]:
        """How many readings each series has in each hour that has any; a zero, where there are none."""
        read: dict[str, Steps] = {}
        for gateway in dict.fromkeys(one.gateway for one in known):
            with self._charts.of(gateway, _keys(one for one in known if one.gateway == gateway)) as chart:
                read[gateway] = chart.steps(HOURS, *asked.stretch_ms)
        counts = [read[one.gateway].of({"/".join(one.key)}).count for one in known]
        return [count if count.size else np.zeros(1, np.int64) for count in counts]

    def _readings(self, gateway: str, some: Sequence[Known], asked: Asked) -> list[Samples]:
        from_ms, to_ms = asked.stretch_ms
        keys = _keys(some)
        pieces = list(self._reader.pieces(gateway, keys, from_ms=from_ms, to_ms=to_ms))
        if len({piece.origin[0] for piece in pieces}) > 1 or any(piece.thinned is not None for piece in pieces):
            # The same rows may be there twice: the reader knows how to tell.
            read = self._reader.read(gateway, keys, from_ms=from_ms, to_ms=to_ms)
            found = {key: _numbers(one.times_ms, one.values) for key, one in read.items()}
        else:
            found = _joined(pieces, keys)
        return [_within(found[one.key], from_ms, to_ms) for one in some]

    def _check_few(self, some: Sequence[Known], asked: Asked) -> None:
        """By what the series' periods promise; only if that is too many, by what is really there."""
        from_ms, to_ms = asked.stretch_ms
        if (
            to_ms - from_ms <= SHORT_MS
            or sum((to_ms - from_ms) / max(1, one.period_ms) for one in some) <= MOST_READINGS
        ):
            return
        many = sum(int(one.sum()) for one in self._hours(some, asked))
        if many > MOST_READINGS:
            raise QueryError(
                f"This looks at {many} readings one by one; at most {MOST_READINGS}. Choose fewer series or a shorter "
                "time, or let start, step and range be whole minutes, so that rollups answer it.",
                kind=EXECUTION,
            )


def _keys(some: Iterable[Known]) -> list[Key]:
    return list(dict.fromkeys(one.key for one in some))


def _sampled(steps: Steps, from_ms: int, width_ms: int) -> Samples:
    """The ends of a stretch are finer steps, which begin where the stretch does at the earliest."""
    start_ms = np.maximum(steps.start_ms, from_ms)
    return Samples(start_ms, steps.count, steps.least, steps.greatest, steps.total, steps.last, width_ms)


def _joined(pieces: Sequence[Piece], keys: Sequence[Key]) -> dict[Key, tuple[Int64, Float64]]:
    times: dict[Key, list[Int64]] = {key: [np.empty(0, np.int64)] for key in keys}
    values: dict[Key, list[Float64]] = {key: [np.empty(0)] for key in keys}
    for piece in pieces:
        walls = piece.wall.to_wall(piece.bulk.times)
        for column in columns_of(piece, keys):
            times[column.key].append(walls[column.rows])
            values[column.key].append(piece.bulk.values[column.numbers])
    return {key: (np.concatenate(times[key]), np.concatenate(values[key])) for key in times}


def _numbers(times_ms: Sequence[int], values: Sequence[object]) -> tuple[Int64, Float64]:
    numbers = [float(value) if isinstance(value, int | float) else math.nan for value in values]
    return np.array(times_ms, np.int64), np.array(numbers, np.float64)


def _within(read: tuple[Int64, Float64], from_ms: int, to_ms: int) -> Samples:
    times, values = read
    inside = (times >= from_ms) & (times < to_ms)
    times, values = times[inside], values[inside]
    order = np.argsort(times, kind="stable")
    return Samples.of_readings(times[order], values[order])
