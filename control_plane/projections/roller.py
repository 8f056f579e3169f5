"""Makes rollups of what was sealed; `rollups` says what they are and when they hold.

`rolled` moves in the transaction that writes the last of the hours that had changed: see there, invariant 2. All that
is written is computed before its transaction begins, which others may wait for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Table, and_, bindparam, delete, or_, select

from control_plane.projections import rollup
from control_plane.projections.chunk import pack_ints
from control_plane.projections.reading import HistoryReader, Key
from control_plane.projections.rollup import HOUR_MS, MINUTE_MS, NOTHING, Steps
from control_plane.projections.rollups import (
    HOURS,
    MINUTE_READINGS,
    STEP_MS,
    STRETCH,
    Boot,
    Standing,
    folded,
    hours_of,
    standing,
)
from control_plane.projections.unsealing import Numbers, numbers
from control_plane.projections.varints import ranges
from control_plane.projections.walltime import WallTime
from control_plane.store.engine import Store
from control_plane.store.tables import chunk as chunks
from control_plane.store.tables import rolled
from control_plane.store.tables import rollup as rollups
from control_plane.store.upsert import bulk_upsert, upsert

HOURS_AT_ONCE = 24
MOST_READINGS = 1_000_000
"""Of the hours that are rolled up at once: some 60 bytes each."""
Start = tuple[int, int]  # (level, start_ms)
Place = Callable[[Connection, str, int, int], Table]
"""Where the row of (gateway, level, start_ms) is written; where else it may stand is cleared of it."""

_OVERLAPPING = select(chunks.c.id, chunks.c.first_mono_ms, chunks.c.last_mono_ms, chunks.c.readings).where(
    chunks.c.gateway == bindparam("gateway"),
    chunks.c.epoch == bindparam("epoch"),
    chunks.c.boot == bindparam("boot"),
    chunks.c.last_mono_ms >= bindparam("low"),
    chunks.c.first_mono_ms <= bindparam("high"),
)
_BODY = select(chunks.c.toc, chunks.c.body).where(chunks.c.id == bindparam("chunk"))
_ROLLUP = select(rollups.c.body).where(
    rollups.c.gateway == bindparam("gateway"),
    rollups.c.level == bindparam("at_level"),
    rollups.c.start_ms == bindparam("start"),
)
_NOT_HELD = or_(rolled.c.chunk.is_(None), rolled.c.chunk < chunks.c.id)
_BEHIND = (
    select(chunks.c.gateway)
    .outerjoin(
        rolled,
        and_(rolled.c.gateway == chunks.c.gateway, rolled.c.epoch == chunks.c.epoch, rolled.c.boot == chunks.c.boot),
    )
    .where(_NOT_HELD)
    .distinct()
)


class _Chunk(NamedTuple):
    id: int
    boot: Boot
    wall: WallTime
    readings: int
    hours: frozenset[int]


def undivided(_connection: Connection, _gateway: str, _level: int, _start_ms: int) -> Table:
    return rollups


class Roller:
    """A loop of the worker: rolls up what was sealed. `sealed` names gateways to look at."""

    def __init__(self, *, telemetry: Store, reader: HistoryReader, place: Place = undivided) -> None:
        self._telemetry = telemetry
        self._place = place
        self._reader = reader
        self._waiting: dict[str, None] = {}
        self._looked = False
        self._put = bulk_upsert(rollups, ("gateway", "level", "start_ms", "body"))
        self._remember = bulk_upsert(rolled, ("gateway", "epoch", "boot", "chunk", "points", "anchors"))

    def sealed(self, gateway: str) -> None:
        """Something of it was sealed: look at it, and at what else has changed. Called from another thread."""
        self._waiting[gateway] = None

    def step(self) -> bool:
        """Roll up some hours of one gateway. True if there is more to do."""
        if not self._looked:
            with self._telemetry.read() as connection:
                self._waiting |= dict.fromkeys(connection.execute(_BEHIND).scalars())
            self._looked = True
        gateway = next(iter(self._waiting), None)
        if gateway is None:
            return False
        del self._waiting[gateway]  # first: what is sealed meanwhile asks again
        self._roll(gateway)
        return bool(self._waiting)

    def _roll(self, gateway: str) -> None:
        with self._telemetry.read(snapshot=True) as connection:
            now = standing(connection, gateway)
            todo = sorted(now.unrolled - now.unsealed)
            found = list(_chunks(connection, gateway, now, todo))
        portions = list(_portions(todo, found)) or [[]]
        for number, some in enumerate(portions):
            bodies = self._bodies(gateway, self._minutes(gateway, found, some), some)
            with self._telemetry.write() as connection:
                self._write(connection, gateway, bodies)
                if number + 1 == len(portions):
                    self._remember(connection, _made_of(gateway, now))

    # --- minutes -------------------------------------------------------------------------------------------

    def _minutes(self, gateway: str, found: Sequence[_Chunk], hours: Sequence[int]) -> Steps:
        """Of all series in these hours."""
        mine = [one for one in found if not one.hours.isdisjoint(hours)]
        epochs: dict[int, set[int]] = {}
        for one in mine:
            for hour in one.hours:
                epochs.setdefault(hour, set()).add(one.boot[0])
        twice = [hour for hour in hours if len(epochs.get(hour, ())) > 1]
        once = [hour for hour in hours if hour not in twice]
        parts = [self._of_chunks(gateway, mine, once)]
        parts += [self._one_by_one(gateway, mine, hour) for hour in twice]
        return rollup.joined(parts)

    def _of_chunks(self, gateway: str, found: Sequence[_Chunk], hours: Sequence[int]) -> Steps:
        names: dict[str, int] = {}
        series, times, values = [], [], []
        for one in found:
            read = None if one.hours.isdisjoint(hours) else self._numbers(gateway, one)
            if read is None:
                continue
            walls = one.wall.to_wall(read.times)[ranges(read.time0, read.rows)]
            inside = _within(walls, hours)
            of = np.array([names.setdefault("/".join(key), len(names)) for key in read.keys], np.int64)
            series.append(np.repeat(of, read.rows)[inside])
            times.append(walls[inside])
            values.append(read.values[inside])
        if not series:
            return NOTHING
        return rollup.fold(
            list(names), np.concatenate(series), np.concatenate(times), np.concatenate(values), MINUTE_MS
        )

    def _one_by_one(self, gateway: str, found: Sequence[_Chunk], hour: int) -> Steps:
        """Where the same rows may be there twice."""
        keys: set[Key] = set()
        for one in found:
            if hour in one.hours and (read := self._numbers(gateway, one)) is not None:
                keys |= set(read.keys)
        return folded(self._reader, gateway, {"/".join(key): key for key in sorted(keys)}, hour, hour + HOUR_MS)

    def _numbers(self, gateway: str, one: _Chunk) -> Numbers | None:
        """None: it is gone since."""
        with self._telemetry.read() as connection:
            row = connection.execute(_BODY, {"chunk": one.id}).one_or_none()
        if row is None:
            return None
        return numbers(row.toc, row.body, lambda schema: self._reader.table(gateway, one.boot[0], schema))

    # --- rows ----------------------------------------------------------------------------------------------

    def _bodies(self, gateway: str, minutes: Steps, hours: Sequence[int]) -> dict[Start, bytes | None]:
        """What the rows that hold these hours are to be; None: gone."""
        bodies: dict[Start, bytes | None] = {}
        if not hours:
            return bodies
        fresh = rollup.coarser(minutes, HOUR_MS)
        for hour in hours:
            of_hour = fresh.within(hour, hour + HOUR_MS)
            dense = of_hour.series[of_hour.count > MINUTE_READINGS]
            some = minutes.within(hour, hour + HOUR_MS)
            body = rollup.pack(some.only(np.isin(some.series, dense)), MINUTE_MS) if some.series.size else None
            bodies[0, hour] = body
        with self._telemetry.read() as connection:
            for level in range(HOURS, len(STEP_MS)):
                fresh = self._level(connection, gateway, level, fresh, hours, bodies)
        return bodies

    def _level(
        self,
        connection: Connection,
        gateway: str,
        level: int,
        fresh: Steps,
        hours: Sequence[int],
        bodies: dict[Start, bytes | None],
    ) -> Steps:
        """Put the steps that hold the hours where they were; the rows' whole stretches in steps of the next level."""
        step_ms = STEP_MS[level]
        wholes: list[Steps] = []
        steps = sorted({hour // step_ms * step_ms for hour in hours})
        for start in dict.fromkeys(STRETCH[level](at) for at in steps):
            mine = [at for at in steps if STRETCH[level](at) == start]
            where = {"gateway": gateway, "at_level": level, "start": start}
            body = connection.execute(_ROLLUP, where).scalar_one_or_none()
            before = rollup.unpack(body, step_ms) if body is not None else NOTHING
            kept = before.only(~np.isin(before.start_ms, mine))
            whole = rollup.joined([kept, fresh.only(np.isin(fresh.start_ms, mine))])
            bodies[level, start] = rollup.pack(whole, step_ms) if whole.series.size else None
            wholes.append(whole)
        coarse = STEP_MS[min(level + 1, len(STEP_MS) - 1)]
        return rollup.joined([rollup.coarser(whole, coarse) for whole in wholes])

    def _write(self, connection: Connection, gateway: str, bodies: Mapping[Start, bytes | None]) -> None:
        rows: dict[Table, list[dict[str, Any]]] = {}
        for (level, start), body in bodies.items():
            table = self._place(connection, gateway, level, start)
            if body is None:
                mine = (table.c.gateway == gateway, table.c.level == level, table.c.start_ms == start)
                connection.execute(delete(table).where(*mine))
            else:
                row = {"gateway": gateway, "level": level, "start_ms": start, "body": body}
                rows.setdefault(table, []).append(row)
        for table, some in rows.items():
            if table is rollups:
                self._put(connection, some)
            else:
                upsert(connection, table, some)


def _chunks(connection: Connection, gateway: str, now: Standing, todo: Sequence[int]) -> Iterator[_Chunk]:
    """Those with readings of these hours, in the order of their boots."""
    if not todo:
        return
    wanted = frozenset(todo)
    for boot, first_ms, last_ms in sorted(now.chunked):
        wall = now.walls.get(boot)
        if wall is None:
            continue
        low, high = wall.mono_span(todo[0], todo[-1] + HOUR_MS)
        if last_ms < low or first_ms > high:
            continue
        named = {"gateway": gateway, "epoch": boot[0], "boot": boot[1], "low": low, "high": high}
        rows = connection.execute(_OVERLAPPING, named).fetchall()
        for row in sorted(rows, key=lambda row: row.first_mono_ms):
            hours = wanted.intersection(hours_of(wall, row.first_mono_ms, row.last_mono_ms))
            if hours:
                yield _Chunk(row.id, boot, wall, row.readings, hours)


def _portions(todo: Sequence[int], found: Sequence[_Chunk]) -> Iterator[list[int]]:
    """Hours that are rolled up together."""
    many: Counter[int] = Counter()
    for one in found:
        for hour in one.hours:
            many[hour] += one.readings // len(one.hours)
    some: list[int] = []
    readings = 0
    for hour in todo:
        if some and (len(some) == HOURS_AT_ONCE or readings + many[hour] > MOST_READINGS):
            yield some
            some, readings = [], 0
        some.append(hour)
        readings += many[hour]
    if some:
        yield some


def _within(walls: Any, hours: Sequence[int]) -> Any:
    """Which instants are in one of the hours, given in order."""
    inside = (walls >= hours[0]) & (walls < hours[-1] + HOUR_MS)
    if hours[-1] - hours[0] != (len(hours) - 1) * HOUR_MS:
        inside &= np.isin(walls // HOUR_MS, np.array(hours) // HOUR_MS)
    return inside


def _made_of(gateway: str, now: Standing) -> list[dict[str, object]]:
    """Rows of `rolled`."""
    rows: list[dict[str, object]] = []
    for (epoch, boot), newest in now.newest.items():
        wall = now.walls.get((epoch, boot))
        if wall is not None:
            mono, at = wall.points()
            packed = pack_ints(np.concatenate([mono, at]))
            key = {"gateway": gateway, "epoch": epoch, "boot": boot}
            rows.append(key | {"chunk": newest, "points": int(mono.size), "anchors": packed})
    return rows
