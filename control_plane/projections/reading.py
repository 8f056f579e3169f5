"""Reading history back: the batches that overlap a stretch of time, decoded, mapped to wall time, cut to it.

Readings come in event time. What a boot without anchors measured can't be placed yet and is left out; the caller sees
that in `unplaced`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Row, select

from control_plane.journal.dictionaries import Dictionaries
from control_plane.projections.decode import Bulk, Table, decode_many, exact
from control_plane.projections.walltime import WallTime, load_all
from control_plane.store.engine import Store
from control_plane.store.tables import batch, declare, history, thinned
from protos.columns import Value
from protos.comboio.v1 import batch_pb2 as pb

FETCH = 200
SAME_MS = 1000
"""The same instant of one boot may be mapped a little differently in two epochs, by other anchors."""
Key = tuple[str, str]  # (sensor, quantity)


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


class HistoryReader:
    """Thread-safe as far as the stores are; caches compiled declarations, which never change."""

    def __init__(self, *, journal: Store, telemetry: Store) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._tables: OrderedDict[tuple[str, int, int], Table] = OrderedDict()
        self._dictionaries = Dictionaries(journal)

    def read(
        self, gateway: str, keys: Sequence[Key], *, from_ms: int, to_ms: int, limit: int | None = None
    ) -> dict[Key, Readings]:
        """Readings with from_ms <= wall time < to_ms; with `limit`, reading stops after about that many per series."""
        found = {key: Readings() for key in keys}
        later: dict[int, dict[Key, Readings]] = {}
        for (epoch, boot), wall, rows in self._stretches(gateway, from_ms, to_ms):
            for start in range(0, len(rows), FETCH):
                for (schema, thinned_id), bodies in self._bodies(gateway, rows[start : start + FETCH]):
                    table = self._table(gateway, epoch, schema)
                    into = found if thinned_id is None else {key: Readings() for key in keys}
                    self._take(table, bodies, (epoch, boot), wall, into, (from_ms, to_ms))
                    if thinned_id is not None:
                        later[thinned_id] = into
                if limit is not None and all(len(r.times_ms) > limit for r in found.values()):
                    break
        for key, readings in found.items():
            for thinned_id in sorted(later):
                readings.complete(later[thinned_id][key])
            readings.sort()
            readings.once()
        return found

    def _stretches(
        self, gateway: str, from_ms: int, to_ms: int
    ) -> Iterator[tuple[tuple[int, int], WallTime, list[Any]]]:
        """Per (epoch, boot) with anchors: the history rows that overlap, oldest first."""
        with self._telemetry.read() as connection:
            walls = load_all(connection, gateway)
            for (epoch, boot), wall in sorted(walls.items()):
                first, last = wall.mono_span(from_ms, to_ms)
                query = (
                    select(history.c.batch_id, history.c.schema, thinned.c.batch_id.label("thinned_id"))
                    .outerjoin(thinned, thinned.c.batch_id == history.c.batch_id)
                    .where(
                        history.c.gateway == gateway,
                        history.c.epoch == epoch,
                        history.c.boot == boot,
                        history.c.last_mono_ms >= first,
                        history.c.first_mono_ms <= last,
                    )
                    .order_by(history.c.first_mono_ms)
                )
                rows = list(connection.execute(query))
                if rows:
                    yield (epoch, boot), wall, rows

    def _bodies(
        self, gateway: str, rows: Sequence[Row[Any]]
    ) -> Iterable[tuple[tuple[int, int | None], list[tuple[bytes, int]]]]:
        """Per schema; each thinned batch by itself, under its id."""
        schemas = {row.batch_id: (row.schema, row.thinned_id) for row in rows}
        packed = (batch.c.codec, batch.c.dictionary, batch.c.body, batch.c.body_len)
        query = select(batch.c.id, batch.c.count, *packed).where(batch.c.id.in_(schemas))
        by_schema: dict[tuple[int, int | None], list[tuple[bytes, int]]] = {}
        with self._journal.read() as connection:
            found = connection.execute(query).fetchall()
        named = {(gateway, row.dictionary) for row in found if row.codec == pb.CODEC_ZSTD_DICT}
        dictionaries = self._dictionaries.find(named)
        for row in found:
            body = dictionaries.unpack(gateway, row)
            by_schema.setdefault(schemas[row.id], []).append((body, row._mapping["count"]))  # noqa: SLF001 - a row is also a tuple, with a count of its own
        return by_schema.items()

    def _table(self, gateway: str, epoch: int, schema: int) -> Table:
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

    def _take(
        self,
        table: Table,
        bodies: Sequence[tuple[bytes, int]],
        origin: tuple[int, int],
        wall: WallTime,
        found: dict[Key, Readings],
        bounds: tuple[int, int],
    ) -> None:
        wanted = {
            first + offset: (group.sensor, spec.name)
            for group, first in zip(table.schema.groups.values(), table.first_series, strict=True)
            for offset, spec in enumerate(group.columns)
            if (group.sensor, spec.name) in found
        }
        if not wanted:
            return
        bulk = decode_many(table, [body for body, _ in bodies], [count for _, count in bodies])
        times, errors = wall.to_wall(bulk.times), wall.errors_ms(bulk.times)
        for occurrence in np.flatnonzero(np.isin(bulk.series, list(wanted))).tolist():
            key = wanted[int(bulk.series[occurrence])]
            _append(bulk, occurrence, times, origin, found[key], bounds)
            group = int(bulk.col_occ[occurrence])
            rows = slice(int(bulk.row0[group]), int(bulk.row0[group] + bulk.rows[group]))
            within = (bounds[0] <= times[rows]) & (times[rows] < bounds[1])
            found[key].err_ms = max(found[key].err_ms, int(errors[rows][within].max(initial=0)))


def _append(
    bulk: Bulk,
    occurrence: int,
    times: np.ndarray[tuple[int], np.dtype[np.int64]],
    origin: tuple[int, int],
    readings: Readings,
    bounds: tuple[int, int],
) -> None:
    group = int(bulk.col_occ[occurrence])
    start, rows = int(bulk.row0[group]), int(bulk.rows[group])
    walls = times[start : start + rows].tolist()
    monos = bulk.times[start : start + rows].tolist()
    values = exact(bulk, occurrence)
    first = int(bulk.val0[occurrence])
    quality = [0] * rows if bulk.quality is None else bulk.quality[first : first + rows].tolist()
    for at, mono, value, code in zip(walls, monos, values, quality, strict=True):
        if bounds[0] <= at < bounds[1]:
            readings.times_ms.append(at)
            readings.values.append(value)
            readings.quality.append(code)
            readings.origin.append((*origin, mono))
