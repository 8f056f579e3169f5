"""Reading history back: the chunks and the batches not sealed yet that overlap a stretch of time, mapped to wall time.

Readings come in event time. What a boot without anchors measured can't be placed yet and is left out; the caller sees
that in `unplaced`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, FromClause, Row, bindparam, func, select, true

from control_plane.journal.dictionaries import Dictionaries
from control_plane.projections import chunk
from control_plane.projections.decode import Bulk, Table, decode_many, exact
from control_plane.projections.walltime import WallTime, load_all
from control_plane.store.engine import Store
from control_plane.store.tables import batch, declare, history, thinned
from control_plane.store.tables import chunk as chunks
from protos.columns import Value
from protos.comboio.v1 import batch_pb2 as pb

FETCH = 200
FEW_BOOTS = 4
SAME_MS = 1000
"""The same instant of one boot may be mapped a little differently in two epochs, by other anchors."""
UNSEALED = history.c.chunk.is_(None)
Key = tuple[str, str]  # (sensor, quantity)
Boot = tuple[str, int, int]  # (gateway, epoch, boot)
Walls = Mapping[tuple[int, int], WallTime]  # of each (epoch, boot)


@dataclass(slots=True)
class Readings:
    """One series, sorted by wall time: parallel lists. `origin` is (epoch, boot, mono_ms) of each reading."""

    times_ms: list[int] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    quality: list[int] = field(default_factory=list)
    origin: list[tuple[int, int, int]] = field(default_factory=list)
    err_ms: int = 0
    unplaced: int = 0

    def complete(self, thinned: Readings) -> None:
        """Add what no other batch holds: of a reading that came whole and thinned, the whole one is here already."""
        here = set(zip(self.origin, map(repr, self.values), strict=True))
        for index, value in enumerate(thinned.values):
            if (thinned.origin[index], repr(value)) not in here:
                for name in ("times_ms", "values", "quality", "origin"):
                    getattr(self, name).append(getattr(thinned, name)[index])
                self.err_ms = max(self.err_ms, thinned.err_ms)

    def sort(self) -> None:
        order = sorted(range(len(self.times_ms)), key=lambda i: (self.times_ms[i], self.origin[i]))
        for name in ("times_ms", "values", "quality", "origin"):
            column = getattr(self, name)
            setattr(self, name, [column[i] for i in order])

    def once(self) -> None:
        """Drop what a second store of the same boot holds too: rows not sealed yet when its image was taken.

        Sorted by time before.
        """
        if len({epoch for epoch, *_ in self.origin}) < 2:
            return
        kept: dict[tuple[object, ...], tuple[int, int]] = {}
        stay: list[int] = []
        for index, (epoch, *moment) in enumerate(self.origin):
            at_ms = self.times_ms[index]
            first = kept.setdefault((*moment, self.values[index], self.quality[index]), (epoch, at_ms))
            if first[0] == epoch or at_ms - first[1] > SAME_MS:
                stay.append(index)
        for name in ("times_ms", "values", "quality", "origin"):
            column = getattr(self, name)
            setattr(self, name, [column[i] for i in stay])


class Body(NamedTuple):
    """A journalled batch, unpacked."""

    id: int
    body: bytes
    readings: int
    received_ms: int


class Piece(NamedTuple):
    """Readings of one boot, decoded together, some of them perhaps outside of the stretch."""

    origin: tuple[int, int]
    """(epoch, boot)."""
    wall: WallTime
    table: Table
    bulk: Bulk
    thinned: int | None
    """Id of the thinned batch they are of: of these rows the originals win."""
    here: NDArray[np.bool_] | None = None
    """Rows that had come by the time that is asked for; None: all."""


class HistoryReader:
    """Thread-safe as far as the stores are; caches compiled declarations, which never change."""

    def __init__(self, *, journal: Store, telemetry: Store) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._tables: OrderedDict[tuple[str, int, int], Table] = OrderedDict()
        self._dictionaries = Dictionaries(journal)

    def read(
        self,
        gateway: str,
        keys: Sequence[Key],
        *,
        from_ms: int,
        to_ms: int,
        walls: Walls | None = None,
        as_of_ms: int | None = None,
    ) -> dict[Key, Readings]:
        """Readings with from_ms <= wall time < to_ms, by other clocks than today's if given: see `pieces`."""
        found = {key: Readings() for key in keys}
        later: dict[int, dict[Key, Readings]] = {}
        for piece in self.pieces(gateway, keys, from_ms=from_ms, to_ms=to_ms, walls=walls, as_of_ms=as_of_ms):
            into = found
            if piece.thinned is not None:
                into = later.setdefault(piece.thinned, {key: Readings() for key in keys})
            _take(piece, into, (from_ms, to_ms))
        for key, readings in found.items():
            for thinned_id in sorted(later):
                readings.complete(later[thinned_id][key])
            readings.sort()
            readings.once()
        return found

    def pieces(
        self,
        gateway: str,
        keys: Collection[Key] | None = None,
        *,
        from_ms: int,
        to_ms: int,
        walls: Walls | None = None,
        as_of_ms: int | None = None,
    ) -> Iterator[Piece]:
        """What may hold readings of these series in the stretch, oldest first per boot; of all series by default.

        Everything as of one instant; keep it short. `walls`: who reads on in several pieces keeps the clocks of the
        first. `as_of_ms`: only what had been received by then.
        """
        with self._telemetry.read(snapshot=True) as connection:
            clocks = load_all(connection, gateway) if walls is None else walls
            for (epoch, boot), wall in _there(connection, gateway, clocks, from_ms, to_ms):
                span = wall.mono_span(from_ms, to_ms)
                for table, bulk, came_ms in self._sealed(connection, (gateway, epoch, boot), span, keys):
                    here = None if as_of_ms is None else came_ms() <= as_of_ms
                    yield Piece((epoch, boot), wall, table, bulk, None, here)
                rows = _unsealed(connection, (gateway, epoch, boot), span)
                for start in range(0, len(rows), FETCH):
                    for (schema, thinned_id), bodies in self._bodies(gateway, rows[start : start + FETCH], as_of_ms):
                        table = self.table(gateway, epoch, schema)
                        if keys is None or series_of(table, keys):
                            bulk = decode_many(table, [body for body, _ in bodies], [count for _, count in bodies])
                            yield Piece((epoch, boot), wall, table, bulk, thinned_id)

    def _sealed(
        self, connection: Connection, boot: Boot, span: tuple[int, int], keys: Collection[Key] | None
    ) -> Iterator[tuple[Table, Bulk, Callable[[], NDArray[np.int64]]]]:
        """With each piece a way to when its rows came: it costs something, and hardly anybody asks."""
        columns = (chunks.c.id, chunks.c.toc)
        query = select(*columns).where(*_overlapping(chunks, boot, span)).order_by(chunks.c.first_mono_ms)
        for row in connection.execute(query).fetchall():
            toc = chunk.contents(row.toc)
            for section, start in chunk.starts(toc):
                if section.last_ms < span[0] or section.first_ms > span[1]:
                    continue
                table = self.table(*boot[:2], section.schema)
                wanted = _columns(table, section.group, keys)
                if wanted is None or wanted:
                    cut = {"chunk": row.id, "first": start + 1, "bytes": section.size}
                    data = connection.execute(_PIECE, cut).scalar_one()
                    chunk.check(section, data)
                    bulk = chunk.read(section, data, table, wanted)
                    yield table, bulk, partial(chunk.received_ms, toc, section, data)

    def _bodies(
        self, gateway: str, rows: Sequence[Row[Any]], as_of_ms: int | None
    ) -> Iterable[tuple[tuple[int, int | None], list[tuple[bytes, int]]]]:
        """Per schema; each thinned batch by itself, under its id."""
        schemas = {row.batch_id: (row.schema, row.thinned_id) for row in rows}
        by_schema: dict[tuple[int, int | None], list[tuple[bytes, int]]] = {}
        for one in self.bodies(gateway, schemas):
            if as_of_ms is None or one.received_ms <= as_of_ms:
                by_schema.setdefault(schemas[one.id], []).append((one.body, one.readings))
        return by_schema.items()

    def bodies(self, gateway: str, ids: Collection[int]) -> Iterator[Body]:
        """Journalled batches of one gateway, in order."""
        packed = (batch.c.codec, batch.c.dictionary, batch.c.body, batch.c.body_len)
        query = select(batch.c.id, batch.c.count.label("readings"), batch.c.received_ms, *packed)
        with self._journal.read() as connection:
            found = connection.execute(query.where(batch.c.id.in_(ids)).order_by(batch.c.id)).fetchall()
        named = {(gateway, row.dictionary) for row in found if row.codec == pb.CODEC_ZSTD_DICT}
        dictionaries = self._dictionaries.find(named)
        for row in found:
            yield Body(row.id, dictionaries.unpack(gateway, row), row.readings, row.received_ms)

    def table(self, gateway: str, epoch: int, schema: int) -> Table:
        """A declaration of the journal, compiled."""
        key = (gateway, epoch, schema)
        table = self._tables.get(key)
        if table is None:
            query = select(declare.c.body).where(
                declare.c.gateway == gateway, declare.c.epoch == epoch, declare.c.schema == schema
            )
            with self._journal.read() as connection:
                body = connection.execute(query).scalar_one()
            table = self._tables[key] = Table.from_declare(pb.Declare.FromString(body))
            if len(self._tables) > 1024:
                self._tables.popitem(last=False)
        return table


def series_of(table: Table, keys: Collection[Key] | None) -> dict[int, Key]:
    """Index in the table → key, of the series that are asked for."""
    return {
        first + offset: (group.sensor, spec.name)
        for group, first in zip(table.schema.groups.values(), table.first_series, strict=True)
        for offset, spec in enumerate(group.columns)
        if keys is None or (group.sensor, spec.name) in keys
    }


class Column(NamedTuple):
    """One series in a piece: its place among the piece's columns, in `bulk.times` and in `bulk.values`."""

    key: Key
    occurrence: int
    rows: slice
    numbers: slice


def columns_of(piece: Piece, keys: Collection[Key]) -> Iterator[Column]:
    """Those of these series."""
    bulk, wanted = piece.bulk, series_of(piece.table, keys)
    for occurrence in np.flatnonzero(np.isin(bulk.series, list(wanted))).tolist():
        group = int(bulk.col_occ[occurrence])
        row, rows, first = int(bulk.row0[group]), int(bulk.rows[group]), int(bulk.val0[occurrence])
        key = wanted[int(bulk.series[occurrence])]
        yield Column(key, occurrence, slice(row, row + rows), slice(first, first + rows))


def _columns(table: Table, group_id: int, keys: Collection[Key] | None) -> list[int] | None:
    """Which columns of the group are asked for; None: all."""
    if keys is None:
        return None
    group = table.schema.groups.get(group_id)
    if group is None:
        return []
    return [offset for offset, spec in enumerate(group.columns) if (group.sensor, spec.name) in keys]


def _overlapping(table: FromClause, boot: Boot, span: tuple[int, int]) -> tuple[ColumnElement[bool], ...]:
    gateway, epoch, number = boot
    return (
        table.c.gateway == gateway,
        table.c.epoch == epoch,
        table.c.boot == number,
        table.c.last_mono_ms >= span[0],
        table.c.first_mono_ms <= span[1],
    )


def extents(
    connection: Connection, table: FromClause, gateway: str, which: ColumnElement[bool]
) -> Iterator[tuple[tuple[int, int], int, int]]:
    """((epoch, boot), first ms, last ms) of each boot that has such rows."""
    c = table.c
    query = select(c.epoch, c.boot, func.min(c.first_mono_ms), func.max(c.last_mono_ms))
    grouped = query.where(c.gateway == gateway, which).group_by(c.epoch, c.boot)
    for epoch, boot, first_ms, last_ms in connection.execute(grouped):
        yield (epoch, boot), first_ms, last_ms


_PIECE = select(func.substr(chunks.c.body, bindparam("first"), bindparam("bytes"))).where(
    chunks.c.id == bindparam("chunk")
)


def _there(
    connection: Connection, gateway: str, walls: Walls, from_ms: int, to_ms: int
) -> Iterable[tuple[tuple[int, int], WallTime]]:
    """In order, without boots that have nothing in the stretch: a vehicle boots every day, and each boot asks twice."""
    if len(walls) <= FEW_BOOTS:
        return sorted(walls.items())
    ends: dict[tuple[int, int], tuple[int, int]] = {}
    for table, which in ((chunks, true()), (history, UNSEALED)):
        for boot, first_ms, last_ms in extents(connection, table, gateway, which):
            low, high = ends.get(boot, (first_ms, last_ms))
            ends[boot] = min(low, first_ms), max(high, last_ms)
    touched = []
    for key, wall in walls.items():
        begin_ms, end_ms = wall.mono_span(from_ms, to_ms)
        if key in ends and ends[key][1] >= begin_ms and ends[key][0] <= end_ms:
            touched.append((key, wall))
    return sorted(touched)


def _unsealed(connection: Connection, boot: Boot, span: tuple[int, int]) -> Sequence[Any]:
    query = (
        select(history.c.batch_id, history.c.schema, thinned.c.batch_id.label("thinned_id"))
        .outerjoin(thinned, thinned.c.batch_id == history.c.batch_id)
        .where(*_overlapping(history, boot, span), UNSEALED)
        .order_by(history.c.first_mono_ms)
    )
    return connection.execute(query).fetchall()


def _take(piece: Piece, found: dict[Key, Readings], bounds: tuple[int, int]) -> None:
    times, errors = piece.wall.to_wall(piece.bulk.times), piece.wall.errors_ms(piece.bulk.times)
    for column in columns_of(piece, found):
        rows, readings = column.rows, found[column.key]
        within = (bounds[0] <= times[rows]) & (times[rows] < bounds[1])
        if piece.here is not None:
            within &= piece.here[rows]
        _append(piece.bulk, column, times, piece.origin, readings, within)
        readings.err_ms = max(readings.err_ms, int(errors[rows][within].max(initial=0)))


def _append(
    bulk: Bulk,
    column: Column,
    times: np.ndarray[tuple[int], np.dtype[np.int64]],
    origin: tuple[int, int],
    readings: Readings,
    within: NDArray[np.bool_],
) -> None:
    walls = times[column.rows].tolist()
    monos = bulk.times[column.rows].tolist()
    values = exact(bulk, column.occurrence)
    quality = [0] * len(walls) if bulk.quality is None else bulk.quality[column.numbers].tolist()
    for at, mono, value, code, wanted in zip(walls, monos, values, quality, within.tolist(), strict=True):
        if wanted:
            readings.times_ms.append(at)
            readings.values.append(value)
            readings.quality.append(code)
            readings.origin.append((*origin, mono))
