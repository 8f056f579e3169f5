"""Seals the hours that are over: their batches become one chunk, by which history is read from then on.

Invariants
1. A batch is read from the journal or from one chunk, never from both: the transaction that writes the chunk marks its
   batches, and only those that no other chunk has; a reader looks at both in one snapshot.
2. What comes late is sealed by itself, into a chunk of its own. No chunk is ever rewritten.
3. Thinned batches stay as they came: which of their rows count depends on what else arrives (see `originals`).

An hour is over once a later one of the same boot has begun and nothing of it came for SETTLE_S, or nothing came for
QUIET_S. What is open is known in memory; a new worker finds it in the index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, bindparam, func, select, update

from control_plane.clock import Clock
from control_plane.projections import chunk
from control_plane.projections.decode import decode_many
from control_plane.projections.reading import HistoryReader
from control_plane.store import units
from control_plane.store.engine import Store
from control_plane.store.tables import chunk as chunks
from control_plane.store.tables import history, thinned
from protos.columns import BodyError
from protos.hours import HOUR_MS

SETTLE_S = 60.0
QUIET_S = 3600.0
MOST_BATCHES = 2000
MOST_READINGS = 500_000
"""Of one chunk: some 60 bytes each while it is made."""
AT_ONCE = 500

_HOUR = (history.c.first_mono_ms // HOUR_MS).label("hour")
_OF = (history.c.gateway, history.c.epoch, history.c.boot, _HOUR)
_OPEN = (history.c.chunk.is_(None), thinned.c.batch_id.is_(None))
_CAME = (
    select(*_OF, func.count().label("batches"), func.max(history.c.batch_id).label("newest"))
    .outerjoin(thinned, thinned.c.batch_id == history.c.batch_id)
    .where(history.c.batch_id > bindparam("seen"), *_OPEN)
    .group_by(*_OF)
)
_BATCHES = (
    select(history.c.batch_id, history.c.schema)
    .outerjoin(thinned, thinned.c.batch_id == history.c.batch_id)
    .where(
        history.c.gateway == bindparam("gateway"),
        history.c.epoch == bindparam("epoch"),
        history.c.boot == bindparam("boot"),
        history.c.last_mono_ms >= bindparam("begin"),
        history.c.first_mono_ms.between(bindparam("begin"), bindparam("last")),
        *_OPEN,
    )
    .order_by(history.c.batch_id)
    .limit(MOST_BATCHES)
)
_INSERT = chunks.insert().returning(chunks.c.id)
_MARK = (
    update(history)
    .where(history.c.batch_id.in_(bindparam("some", expanding=True)), history.c.chunk.is_(None))
    .values(chunk=bindparam("into"))
)

log = structlog.get_logger("control_plane.sealer")


class Hour(NamedTuple):
    gateway: str
    epoch: int
    boot: int
    hour: int
    """Of the boot's clock, by a batch's first row."""


@dataclass(slots=True)
class _Open:
    batches: int
    touched_ms: int


class Sealer:
    """A loop of the worker. `sealed` is told each gateway of which something was."""

    def __init__(
        self,
        *,
        telemetry: Store,
        reader: HistoryReader,
        clock: Clock,
        sealed: Callable[[str], None] = lambda _: None,
        settle_s: float = SETTLE_S,
        quiet_s: float = QUIET_S,
        kept_as: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`kept_as`: by whose retention a gateway's data are kept."""
        self._kept_as = kept_as
        self._telemetry = telemetry
        self._reader = reader
        self._clock = clock
        self._sealed = sealed
        self._settle_ms, self._quiet_ms = round(settle_s * 1000), round(quiet_s * 1000)
        self._open: dict[Hour, _Open] = {}
        self._newest: dict[tuple[str, int, int], int] = {}
        self._seen = 0
        self._over: deque[Hour] = deque()
        """Found at the last look, and not sealed yet."""

    def step(self) -> bool:
        """Seal one hour, or a part of one. True if more are over."""
        if not self._over:
            self._look()
            self._over.extend(self._due())
        if not self._over:
            return False
        hour = self._over.popleft()
        try:
            self._seal(hour)
        except BodyError as error:
            log.error("seal.failed", gateway=hour.gateway, hour=hour.hour, error=str(error))
            self._open[hour].touched_ms = self._clock.now_ms() + self._quiet_ms  # they stay readable as they came
        else:
            if hour in self._open:
                self._over.append(hour)  # there was more of it than one chunk takes
        return bool(self._over)

    def _look(self) -> None:
        """Count what was indexed since."""
        with self._telemetry.read() as connection:
            rows = connection.execute(_CAME, {"seen": self._seen}).fetchall()
        now_ms = self._clock.now_ms()
        for row in rows:
            key = Hour(row.gateway, row.epoch, row.boot, row.hour)
            known = self._open.setdefault(key, _Open(0, now_ms))
            known.batches += row.batches
            known.touched_ms = now_ms
            self._newest[key[:3]] = max(self._newest.get(key[:3], 0), key.hour)
            self._seen = max(self._seen, row.newest)

    def _due(self) -> Iterator[Hour]:
        now_ms = self._clock.now_ms()
        for hour, known in list(self._open.items()):
            rest_ms = self._settle_ms if hour.hour < self._newest[hour[:3]] else self._quiet_ms
            if now_ms - known.touched_ms >= rest_ms:
                yield hour

    def _seal(self, hour: Hour) -> None:
        rows = self._batches(hour)
        if rows:
            parts, ids = self._parts(hour, rows)
            toc, body = chunk.pack(parts)
            with self._telemetry.write() as connection:
                self._write(connection, hour, ids, _row(hour, parts, toc, body, self._clock.now_ms()))
            self._open[hour].batches -= len(ids)
            self._sealed(hour.gateway)
        if not rows or self._open[hour].batches <= 0:
            del self._open[hour]

    def _batches(self, hour: Hour) -> Sequence[Any]:
        begin_ms = hour.hour * HOUR_MS
        named = {"gateway": hour.gateway, "epoch": hour.epoch, "boot": hour.boot}
        with self._telemetry.read() as connection:
            return connection.execute(_BATCHES, named | {"begin": begin_ms, "last": begin_ms + HOUR_MS - 1}).fetchall()

    def _parts(self, hour: Hour, rows: Sequence[Any]) -> tuple[list[chunk.Part], list[int]]:
        """As many of the batches as make one chunk, decoded, and their ids."""
        schemas = {row.batch_id: row.schema for row in rows}
        found: dict[int, list[tuple[bytes, int, int]]] = {}
        ids: list[int] = []
        readings = 0
        for start in range(0, len(rows), AT_ONCE):
            some = [row.batch_id for row in rows[start : start + AT_ONCE]]
            for one in self._reader.bodies(hour.gateway, some):
                found.setdefault(schemas[one.id], []).append((one.body, one.readings, one.received_ms))
                ids.append(one.id)
                readings += one.readings
            if readings >= MOST_READINGS:
                break
        parts = []
        for schema, batches in sorted(found.items()):
            table = self._reader.table(hour.gateway, hour.epoch, schema)
            bodies, counts, received = zip(*batches, strict=True)
            parts.append(chunk.Part(schema, decode_many(table, bodies, counts), received))
        return parts, ids

    def _write(self, connection: Connection, hour: Hour, ids: Sequence[int], row: dict[str, Any]) -> None:
        table, number = units.into(connection, chunks.name, self._kept_as(hour.gateway))
        statement = _INSERT if table is chunks else table.insert().returning(table.c.id)
        key = connection.execute(statement, row | number).scalar_one()
        marked = 0
        for start in range(0, len(ids), AT_ONCE):
            marked += connection.execute(_MARK, {"some": ids[start : start + AT_ONCE], "into": key}).rowcount
        if marked != len(ids):
            raise RuntimeError(f"{hour.gateway}: another worker sealed this hour as well")  # rolls back


def _row(hour: Hour, parts: Sequence[chunk.Part], toc: bytes, body: bytes, now_ms: int) -> dict[str, Any]:
    return {
        "gateway": hour.gateway,
        "epoch": hour.epoch,
        "boot": hour.boot,
        "first_mono_ms": min(int(part.bulk.times.min()) for part in parts),
        "last_mono_ms": max(int(part.bulk.times.max()) for part in parts),
        "readings": sum(int(part.bulk.values.size) for part in parts),
        "sealed_ms": now_ms,
        "toc": toc,
        "body": body,
    }
