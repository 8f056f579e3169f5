"""Reads the journal after its cursor, decodes in bulk, and lets every projection write in one transaction.

Invariants
1. The cursor moves in the transaction that writes what follows from the batches before it: a kill repeats a portion
   whole or not at all.
2. A batch that can't be decoded, or that a projection fails on, is quarantined with a recoverable gap; its bytes stay
   in the journal, the rest goes on. Which one it is, is found by halving the portion. Where batch after batch fails it
   is not the batches: then nothing is quarantined any more, and nothing goes on.
3. `vanished` is decided only from a Hello read before the batches it could concern, once its URGENT lane is resolved.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from control_plane.clock import Clock
from control_plane.errors import ComboioError
from control_plane.journal.dictionaries import Dictionaries
from control_plane.journal.journal import MAX_SEQ
from control_plane.projections import again
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.decode import Bulk, Table, decode_all, joined
from control_plane.projections.history import check_names
from control_plane.projections.originals import Originals
from control_plane.projections.projection import Bad, Decoded, Envelope, Portion, Projection
from control_plane.projections.vanished import Vanished
from control_plane.store.engine import Store
from control_plane.store.tables import PROJECTED, batch, cursor, declare
from control_plane.store.upsert import upsert
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

CURSOR = PROJECTED
MAX_BATCHES = 512
MAX_READINGS = 400_000
ANY = 1 << 20
MOST_BROKEN = 16
AGAIN_EVERY_S = 5.0
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
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = monotonic_s
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
        self._most = ANY
        self._broken: dict[int, str] = {}
        """Batches that a projection failed on, and how."""
        self._failed = 0
        """So many of them one after the other."""
        self._looked_s = 0.0
        self._again_after = 0
        self.batches = self.readings = 0

    def step(self) -> bool:
        """Project one portion. True if there may be more at once. Raises DBAPIError; nothing is then lost."""
        if self._now_s() - self._looked_s >= AGAIN_EVERY_S:
            if self._again():
                return True
            self._looked_s = self._now_s()
        self._vanished.read_hellos()  # before the batches: see invariant 3
        rows, drained = self._read()
        if not rows and not self._vanished.news:
            return False
        now_ms = self._clock.now_ms()
        try:
            portion = self._decode(rows, now_ms) if rows else None
            with self._telemetry.write() as connection:
                if portion is not None:
                    self._apply(connection, portion)
                    self._move(connection, rows[-1].id)
                self._vanished.apply(connection, drained=drained, now_ms=now_ms)
                self._completeness.save(connection, now_ms)
        except BaseException as error:
            self._forget()
            if rows and _of_the_batches(error) and self._narrow(rows, error):
                return True
            raise
        if rows:
            self._failed = self._failed + 1 if rows[0].id in self._broken else 0
            self._broken.clear()
            self._most = min(ANY, self._most * 2)
            self._position = rows[-1].id
            self._seen(rows)
            self.batches += len(rows)
            self.readings += sum(row._mapping["count"] for row in rows)  # noqa: SLF001
        return not drained

    def _forget(self) -> None:
        self._position = None
        self._vanished.forget()
        self._originals.forget()
        for projection in self._projections:
            projection.forget()

    def _narrow(self, rows: Sequence[Row[Any]], error: BaseException) -> bool:
        """Try less at once, down to the one that can't be projected. False where that leads nowhere."""
        if len(rows) > 1:
            self._most = len(rows) // 2
            return True
        if rows[0].id in self._broken or self._failed >= MOST_BROKEN:
            return False
        log.error("projection.broken", batch=rows[0].id, gateway=rows[0].gateway, exc_info=error)
        self._broken[rows[0].id] = f"{type(error).__name__}: {error}".splitlines()[0]
        return True

    # --- batches of the quarantine, again --------------------------------------------------------------

    def _again(self) -> bool:
        """Project some of those that were asked for. True if there may be more."""
        with self._telemetry.read() as connection:
            upto = again.asked(connection)
            if upto is None:
                return False
            ids = again.portion(connection, after=self._again_after, upto=upto)
        if not ids:
            with self._telemetry.write() as connection:
                again.done(connection)
            self._again_after = 0
            return False
        with self._journal.read() as connection:
            rows = connection.execute(select(batch).where(batch.c.id.in_(ids)).order_by(batch.c.id)).fetchall()
        for row in rows:
            self._once_more(row)
        self._again_after = ids[-1]
        return True

    def _once_more(self, row: Row[Any]) -> None:
        """One batch; where it fails as before, all stays as it was."""
        now_ms = self._clock.now_ms()
        portion = self._decode([row], now_ms)
        if portion.bad:
            return
        try:
            with self._telemetry.write() as connection:
                again.take_back(connection, self._journal, [_envelope(row)], now_ms)
                self._apply(connection, portion)
                self._completeness.save(connection, now_ms)
        except BaseException as error:
            self._forget()
            if not _of_the_batches(error):
                raise
            log.exception("projection.broken", batch=row.id, gateway=row.gateway)
        else:
            log.info("batch.recovered", batch=row.id, gateway=row.gateway)

    def _apply(self, connection: Connection, portion: Portion) -> None:
        portion = self._originals.weigh(connection, portion)
        for projection in self._projections:
            projection.apply(connection, portion)
        self._originals.correct(connection, portion.now_ms)

    # --- reading the journal ---------------------------------------------------------------------------

    def _read(self) -> tuple[Sequence[Row[Any]], bool]:
        """What one transaction takes, and whether the journal holds nothing after it."""
        if self._position is None:
            with self._telemetry.read() as connection:
                found = connection.execute(select(cursor.c.position).where(cursor.c.name == CURSOR))
                self._position = found.scalar_one_or_none() or 0
        most = min(MAX_BATCHES, self._most)
        query = select(batch).where(batch.c.id > self._position).order_by(batch.c.id).limit(most)
        with self._journal.read() as connection:
            rows = connection.execute(query).fetchall()
        total = 0
        for index, row in enumerate(rows):
            total += row._mapping["count"]  # noqa: SLF001 - see _envelope
            if total > MAX_READINGS and index:
                return rows[:index], False
        return rows, len(rows) < most

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
            if row.id in self._broken:
                bad.append(Bad(envelope, self._broken[row.id]))
                continue
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


def _of_the_batches(error: BaseException) -> bool:
    """What is in them was too much for a projection; not the store, the lease or the machine."""
    if isinstance(error, DataError | IntegrityError):
        return True
    elsewhere = (SQLAlchemyError, ComboioError, OSError, MemoryError)
    return isinstance(error, Exception) and not isinstance(error, elsewhere)
