"""Reads the journal after its cursor, decodes in bulk, and lets every projection write in one transaction.

Invariants
1. The cursor moves in the transaction that writes what follows from the batches before it: a kill repeats a portion
   whole or not at all.
2. A batch that can't be decoded is quarantined with a recoverable gap; its bytes stay in the journal, the rest goes on.
3. `vanished` is decided only from a Hello read before the batches it could concern, once its URGENT lane is resolved.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Row, select

from control_plane.clock import Clock
from control_plane.journal.dictionaries import Dictionaries
from control_plane.journal.journal import MAX_SEQ
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.decode import Bulk, Table, decode_all, joined
from control_plane.projections.history import check_names
from control_plane.projections.originals import Originals
from control_plane.projections.projection import Bad, Decoded, Envelope, Portion, Projection
from control_plane.projections.vanished import Vanished
from control_plane.store.engine import Store
from control_plane.store.tables import batch, cursor, declare
from control_plane.store.upsert import upsert
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

CURSOR = "telemetry"
MAX_BATCHES = 512
MAX_READINGS = 400_000
TABLES_KEPT = 4096
DICTIONARIES_KEPT = 4096

log = structlog.get_logger("control_plane.projections")


class Item(NamedTuple):
    """A batch ready to be decoded."""

    envelope: Envelope
    body: bytes
    table: Table
    declare: pb.Declare


class Projector:
    """One worker's pass over the journal; `step` until it says there is nothing more."""

    def __init__(
        self,
        *,
        journal: Store,
        telemetry: Store,
        clock: Clock,
        completeness: CompletenessProjection,
        others: Sequence[Projection],
        seen: Callable[[Sequence[Row[Any]]], None] = lambda _: None,
    ) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._clock = clock
        self._seen = seen
        self._completeness = completeness
        self._projections: tuple[Projection, ...] = (*others, completeness)
        self._dictionaries = Dictionaries(journal, kept=DICTIONARIES_KEPT)
        self._originals = Originals(journal=journal)
        self._vanished = Vanished(journal=journal, completeness=completeness)
        self._tables: OrderedDict[tuple[str, int, int], tuple[Table, pb.Declare]] = OrderedDict()
        self._shared: OrderedDict[bytes, Table] = OrderedDict()
        self._position: int | None = None
        self.batches = self.readings = 0

    def step(self) -> bool:
        """Project one portion. True if there may be more at once. Raises DBAPIError; nothing is then lost."""
        self._vanished.read_hellos()  # before the batches: see invariant 3
        rows, drained = self._read()
        if not rows and not self._vanished.news:
            return False
        now_ms = self._clock.now_ms()
        try:
            with self._telemetry.write() as connection:
                if rows:
                    portion = self._originals.weigh(connection, self._decode(rows, now_ms))
                    for projection in self._projections:
                        projection.apply(connection, portion)
                    self._originals.correct(connection, now_ms)
                    self._move(connection, rows[-1].id)
                self._vanished.apply(connection, drained=drained, now_ms=now_ms)
                self._completeness.save(connection, now_ms)
        except BaseException:
            self._position = None
            self._vanished.forget()
            self._originals.forget()
            for projection in self._projections:
                projection.forget()
            raise
        if rows:
            self._position = rows[-1].id
            self._seen(rows)
            self.batches += len(rows)
            self.readings += sum(row._mapping["count"] for row in rows)  # noqa: SLF001
        return not drained

    # --- reading the journal ---------------------------------------------------------------------------

    def _read(self) -> tuple[Sequence[Row[Any]], bool]:
        """What one transaction takes, and whether the journal holds nothing after it."""
        if self._position is None:
            with self._telemetry.read() as connection:
                found = connection.execute(select(cursor.c.position).where(cursor.c.name == CURSOR))
                self._position = found.scalar_one_or_none() or 0
        query = select(batch).where(batch.c.id > self._position).order_by(batch.c.id).limit(MAX_BATCHES)
        with self._journal.read() as connection:
            rows = connection.execute(query).fetchall()
        total = 0
        for index, row in enumerate(rows):
            total += row._mapping["count"]  # noqa: SLF001 - see _envelope
            if total > MAX_READINGS and index:
                return rows[:index], False
        return rows, len(rows) < MAX_BATCHES

    def _move(self, connection: Connection, position: int) -> None:
        upsert(connection, cursor, [{"name": CURSOR, "position": position}])

    # --- decoding --------------------------------------------------------------------------------------

    def _decode(self, rows: Sequence[Row[Any]], now_ms: int) -> Portion:
        items: list[Item] = []
        bad: list[Bad] = []
        named = {(row.gateway, row.dictionary) for row in rows if row.codec == pb.CODEC_ZSTD_DICT}
        found = self._dictionaries.find(named)
        for row in rows:
            envelope = _envelope(row)
            try:
                table, said = self._table(envelope)
                body = found.unpack(row.gateway, row)
            except columns.BodyError as error:
                bad.append(Bad(envelope, str(error)))
            else:
                items.append(Item(envelope, body, table, said))
        return Portion(self._decode_items(items, bad), bad, now_ms)

    def _decode_items(self, items: list[Item], bad: list[Bad]) -> list[Decoded]:
        """Decode together, whatever the schemas; in halves where one of them can't be, down to that one."""
        if not items:
            return []
        try:
            bulk = _decode_together(items)
        except Exception as error:  # another error than BodyError is a bug in the decoder: it costs only what meets it
            if len(items) > 1:
                middle = len(items) // 2
                return self._decode_items(items[:middle], bad) + self._decode_items(items[middle:], bad)
            known = isinstance(error, columns.BodyError)
            if not known:
                log.exception("decoder.broken", batch=items[0].envelope.id)
            bad.append(Bad(items[0].envelope, str(error) if known else f"{type(error).__name__}: {error}"))
            return []
        return [Decoded([one.envelope for one in items], bulk, [one.declare for one in items])]

    def _table(self, envelope: Envelope) -> tuple[Table, pb.Declare]:
        """The compiled declaration; equal content of many gateways shares one."""
        key = (envelope.gateway, envelope.epoch, envelope.schema)
        found = self._tables.get(key)
        if found is None:
            said = self._load_declare(envelope)
            check_names(said)
            digest = hashlib.sha256(pb.Declare(groups=said.groups).SerializeToString(deterministic=True)).digest()
            table = self._shared.get(digest)
            if table is None:
                table = self._shared[digest] = Table.from_declare(said)
                _trim(self._shared)
            found = self._tables[key] = (table, said)
            _trim(self._tables)
        return found

    def _load_declare(self, envelope: Envelope) -> pb.Declare:
        query = select(declare.c.body).where(
            declare.c.gateway == envelope.gateway,
            declare.c.epoch == envelope.epoch,
            declare.c.schema == envelope.schema,
        )
        with self._journal.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        if body is None:
            raise columns.BodyError(f"schema {envelope.schema} is not in the journal")
        return pb.Declare.FromString(body)


def _decode_together(items: Sequence[Item]) -> Bulk:
    tables = {id(one.table): one.table for one in items}
    part = {key: number for number, key in enumerate(tables)}
    return decode_all(
        joined(list(tables.values())),
        [one.body for one in items],
        [one.envelope.readings for one in items],
        [part[id(one.table)] for one in items],
    )


def _envelope(row: Row[Any]) -> Envelope:
    return Envelope(
        id=row.id,
        gateway=row.gateway,
        epoch=row.epoch,
        lane=row.lane,
        seq=row.seq,
        schema=row.schema,
        readings=row._mapping["count"],  # noqa: SLF001 - a row is also a tuple, with a count of its own
        complete_boot=row.complete_boot,
        complete_mono_ms=row.complete_mono_ms,
        urgent_seq=row.urgent_seq,
        received_ms=row.received_ms,
        replaces=_replaces(row.extra),
    )


def _replaces(extra: bytes | None) -> tuple[tuple[int, int], ...]:
    """Of a thinned batch. What makes no sense as a range is left out."""
    if extra is None:
        return ()
    named = pb.Batch.FromString(extra).replaces
    return tuple(Ranges((r.first, r.last) for r in named if 0 < r.first <= r.last < MAX_SEQ))


def _trim(cache: OrderedDict) -> None:  # type: ignore[type-arg]
    while len(cache) > TABLES_KEPT:
        cache.popitem(last=False)
