"""Rollups: made of sealed chunks (by the `roller`), read where they still say what the readings say, and nowhere else.

Invariants
1. A step is taken from a rollup only if the same chunks, by the same anchors, would give it again: `standing` compares
   what the rollups were made of (`rolled`) with what is there, in the snapshot in which they are read. There is no mark
   that could be forgotten.
2. `rolled` moves in the transaction that writes the last of the hours that had changed. A kill before that repeats
   them; until then readers take those hours from the readings.

A gateway is looked at when something of it was sealed, once an hour as a rule. Until then an anchor that moves hours
costs their readers time, and nothing else.

Minutes are kept only of series of which an hour holds more than MINUTE_READINGS: of others they would be as long as
the readings themselves. A reader that finds none reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, Connection, FromClause, func, select

from control_plane.projections import rollup
from control_plane.projections.chunk import unpack_ints
from control_plane.projections.kept import whole_from_ms
from control_plane.projections.reading import UNSEALED, HistoryReader, Key, extents
from control_plane.projections.rollup import DAY_MS, HOUR_MS, MINUTE_MS, NOTHING, QUARTER_MS, Steps
from control_plane.projections.varints import Int64
from control_plane.projections.walltime import WallTime, load_all
from control_plane.store.engine import Store
from control_plane.store.tables import chunk as chunks
from control_plane.store.tables import history, rolled
from control_plane.store.tables import rollup as rollups

STEP_MS = (MINUTE_MS, HOUR_MS, QUARTER_MS, DAY_MS)
"""Of each level. Quarters of days draw a year: of hours there are 365 rows to be read for it, of quarters twelve."""
HOURS, DAYS = 1, 3
MINUTE_READINGS = 120
Boot = tuple[int, int]  # (epoch, boot)


def month_start(at_ms: int) -> int:
    return int(np.datetime64(at_ms, "ms").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64))


STRETCH: tuple[Callable[[int], int], ...] = (
    lambda at_ms: at_ms // HOUR_MS * HOUR_MS,
    lambda at_ms: at_ms // DAY_MS * DAY_MS,
    month_start,
    month_start,
)
"""Where the stretch begins whose steps of that level are one row."""


class Made(NamedTuple):
    """What the rollups of a boot were made of."""

    chunk: int
    wall: WallTime


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one gateway, in one snapshot: how things are, and how they were when the rollups were made."""

    walls: dict[Boot, WallTime]
    made: dict[Boot, Made]
    newest: dict[Boot, int]
    """The newest chunk of each boot."""
    chunked: list[tuple[Boot, int, int]]
    """First and last ms of each boot's chunks."""
    unrolled: set[int]
    """Hours (start, UTC) whose chunks or anchors have changed since."""
    unsealed: set[int]
    """Hours with readings that no chunk has yet."""

    @property
    def stale(self) -> set[int]:
        return self.unrolled | self.unsealed


def standing(connection: Connection, gateway: str) -> Standing:
    walls = load_all(connection, gateway)
    made = dict(_made(connection, gateway))
    unrolled: set[int] = set()
    newest: dict[Boot, int] = {}
    chunked: list[tuple[Boot, int, int]] = []
    for boot, first_ms, last_ms, newest[boot] in _chunked(connection, gateway):
        chunked.append((boot, first_ms, last_ms))
        wall = walls.get(boot)
        if wall is None:
            continue
        known = made.get(boot)
        if known is None:
            unrolled |= set(hours_of(wall, first_ms, last_ms))
            continue
        for part in wall.moved(known.wall, first_ms, last_ms):
            unrolled |= {*hours_of(wall, *part), *hours_of(known.wall, *part)}
        if newest[boot] > known.chunk:
            unrolled |= set(_spans(connection, chunks, gateway, boot, wall, chunks.c.id > known.chunk))
    unsealed: set[int] = set()
    for boot, _, _ in extents(connection, history, gateway, UNSEALED):
        if (wall := walls.get(boot)) is not None:
            unsealed |= set(_spans(connection, history, gateway, boot, wall, UNSEALED))
    if whole_ms := whole_from_ms(connection, gateway):  # before it there is more in the rollups than in what is left
        unrolled, unsealed = ({hour for hour in some if hour >= whole_ms} for some in (unrolled, unsealed))
    return Standing(walls, made, newest, chunked, unrolled, unsealed)


def _made(connection: Connection, gateway: str) -> Iterator[tuple[Boot, Made]]:
    for row in connection.execute(select(rolled).where(rolled.c.gateway == gateway)):
        numbers = unpack_ints(row.anchors, row.points * 2)
        points = numbers[: row.points], numbers[row.points :]
        yield (row.epoch, row.boot), Made(row.chunk, WallTime.through(points))


def _chunked(connection: Connection, gateway: str) -> Iterator[tuple[Boot, int, int, int]]:
    """(boot, first ms, last ms, newest chunk) of each that has chunks."""
    c = chunks.c
    ends = func.min(c.first_mono_ms), func.max(c.last_mono_ms), func.max(c.id)
    query = select(c.epoch, c.boot, *ends).where(c.gateway == gateway).group_by(c.epoch, c.boot)
    for epoch, boot, first_ms, last_ms, newest in connection.execute(query):
        yield (epoch, boot), first_ms, last_ms, newest


def _looked_at(wall: WallTime, low: int, high: int) -> Int64:
    """Instants at which its error can be greatest: the ends, and some between any two anchors."""
    bends = np.unique(np.concatenate([[low, high], wall.points()[0]]).clip(low, high))
    return np.concatenate([bends, (bends[1:] + bends[:-1]) // 2]).astype(np.int64)


def _spans(
    connection: Connection, table: FromClause, gateway: str, boot: Boot, wall: WallTime, which: ColumnElement[bool]
) -> Iterator[int]:
    """Hours that the rows touch."""
    c = table.c
    mine = (c.gateway == gateway, c.epoch == boot[0], c.boot == boot[1], which)
    for first_ms, last_ms in connection.execute(select(c.first_mono_ms, c.last_mono_ms).where(*mine)):
        yield from hours_of(wall, first_ms, last_ms)


def hours_of(wall: WallTime, first_ms: int, last_ms: int) -> Iterable[int]:
    low, high = wall.wall_span(first_ms, last_ms)
    return range(low // HOUR_MS * HOUR_MS, high + 1, HOUR_MS)


# --- reading ---------------------------------------------------------------------------------------------


class Charts:
    """Steps of time of some series, from rollups where they hold and from readings where they don't."""

    def __init__(self, *, telemetry: Store, reader: HistoryReader) -> None:
        self._telemetry = telemetry
        self._reader = reader

    @contextmanager
    def of(self, gateway: str, keys: Sequence[Key]) -> Iterator[Chart]:
        """As things stand at one instant. Keep it under 5 s."""
        with self._telemetry.read(snapshot=True) as connection:
            yield Chart(connection, self._reader, gateway, keys)


class Chart:
    """Of series of one gateway; see `Charts.of`."""

    def __init__(self, connection: Connection, reader: HistoryReader, gateway: str, keys: Sequence[Key]) -> None:
        self._connection = connection
        self._reader = reader
        self._gateway = gateway
        self._names = {"/".join(key): key for key in keys}
        self._standing = standing(connection, gateway)
        self._stale = sorted(self._standing.stale)

    def error_ms(self, from_ms: int, to_ms: int) -> int:
        """How far a reading of that time may be from the truth, at worst."""
        worst, walls = 0, self._standing.walls
        ends = [*self._standing.chunked, *extents(self._connection, history, self._gateway, UNSEALED)]
        for boot, first_ms, last_ms in ends:
            if (wall := walls.get(boot)) is not None:
                low, high = wall.mono_span(from_ms, to_ms)
                low, high = max(low, first_ms), min(high, last_ms)
                if low <= high:
                    worst = max(worst, int(wall.errors_ms(_looked_at(wall, low, high)).max()))
        return worst

    def steps(self, level: int, from_ms: int, to_ms: int) -> Steps:
        """Steps of STEP_MS[level] within from_ms..to_ms, its ends in finer ones where they fall within a step."""
        if from_ms >= to_ms:
            return NOTHING
        if level < 0:
            return folded(self._reader, self._gateway, self._names, from_ms, to_ms)
        step_ms = STEP_MS[level]
        first, last = -(-from_ms // step_ms) * step_ms, to_ms // step_ms * step_ms
        if first >= last:
            return self.steps(level - 1, from_ms, to_ms)
        parts = [self.steps(level - 1, from_ms, first), self.steps(level - 1, last, to_ms)]
        holes = self._holes(level, first, last)
        for begin, end in holes:
            parts.append(rollup.coarser(self.steps(level - 1, begin, end), step_ms))
        parts += self._rolled(level, first, last, holes)
        return rollup.joined(parts)

    def _holes(self, level: int, first: int, last: int) -> list[tuple[int, int]]:
        """Stretches in which the rollups can't be taken, in whole steps of the level, none touching another."""
        size = max(HOUR_MS, STEP_MS[level])
        holes: list[tuple[int, int]] = []
        for hour in self._stale:
            begin, end = max(first, hour // size * size), min(last, hour // size * size + size)
            if begin >= end:
                continue
            if holes and begin <= holes[-1][1]:
                holes[-1] = (holes[-1][0], max(end, holes[-1][1]))
            else:
                holes.append((begin, end))
        return holes

    def _rolled(self, level: int, first: int, last: int, holes: Sequence[tuple[int, int]]) -> Iterator[Steps]:
        begin = STRETCH[level](first)
        query = select(rollups.c.start_ms, rollups.c.body).where(
            rollups.c.gateway == self._gateway,
            rollups.c.level == level,
            rollups.c.start_ms >= begin,
            rollups.c.start_ms < last,
        )
        left: list[tuple[int, frozenset[str]]] = []
        for start_ms, body in self._connection.execute(query.order_by(rollups.c.start_ms)):
            if level == 0:
                left.append((start_ms, frozenset(self._names) - set(rollup.names(body))))
                if len(left[-1][1]) == len(self._names):
                    continue
            found = rollup.unpack(body, STEP_MS[level]).of(self._names)
            found = found.within(first, last)
            for hole in holes:
                found = found.only((found.start_ms < hole[0]) | (found.start_ms >= hole[1]))
            yield found
        yield from self._sparse(left, first, last, holes)

    def _sparse(
        self, hours: Sequence[tuple[int, frozenset[str]]], first: int, last: int, holes: Sequence[tuple[int, int]]
    ) -> Iterator[Steps]:
        """Minutes of the series that the hours' rows leave out: of neighbouring hours by one look at the readings."""
        wanted = [one for one in hours if one[1] and not any(low <= one[0] < high for low, high in holes)]
        for names, run in groupby(wanted, key=lambda one: one[1]):
            keys = {name: self._names[name] for name in sorted(names)}
            for begin, end in _joined(hour for hour, _ in run):
                yield folded(self._reader, self._gateway, keys, max(first, begin), min(last, end))


def _joined(hours: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Stretches of hours without a hole, given in order."""
    run: list[int] = []
    for hour in hours:
        if run and hour != run[-1] + HOUR_MS:
            yield run[0], run[-1] + HOUR_MS
            run = []
        run.append(hour)
    if run:
        yield run[0], run[-1] + HOUR_MS


def folded(reader: HistoryReader, gateway: str, names: Mapping[str, Key], from_ms: int, to_ms: int) -> Steps:
    """Minutes, from readings."""
    read = reader.read(gateway, list(names.values()), from_ms=from_ms, to_ms=to_ms)
    parts = []
    for name, key in names.items():
        one = read[key]
        values = np.array([v if isinstance(v, int | float) else np.nan for v in one.values], np.float64)
        series = np.zeros(len(one.times_ms), np.int64)
        parts.append(rollup.fold([name], series, np.array(one.times_ms, np.int64), values, MINUTE_MS))
    return rollup.joined(parts)
