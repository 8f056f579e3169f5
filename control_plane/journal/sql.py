"""The journal on SQLite or PostgreSQL: one transaction per group commit.

Invariants
1. A batch, its lane's ranges and the fence check commit together: an ack can only repeat what one commit held.
2. (gateway, epoch, lane, seq) is unique. The same key with other content is kept in `conflict`; with the same content
   it is counted in `repeat`.
3. A declaration or a dictionary is written before, or in the same transaction as, the first batch naming it, and
   never changes.
4. Bytes that came again under another name, after an ordered change of epoch, are in `known` and not a second batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from sqlalchemy import BindParameter, Connection, LargeBinary, Text, bindparam, case, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.dml import Insert

from control_plane.journal import epochs
from control_plane.journal.dictionaries import Issue, add, in_order, names
from control_plane.journal.journal import (
    BatchEntry,
    Committed,
    DeclareEntry,
    DictionaryEntry,
    DuplicateEntry,
    EffectiveEntry,
    Entry,
    HeartbeatEntry,
    LaneMark,
    OfferEntry,
    PresenceEntry,
    RejectEntry,
    SessionStart,
    StatusEntry,
)
from control_plane.journal.lineage import Lineage
from control_plane.journal.rows import (
    HELLO,
    batch_row,
    conflict_row,
    effective_row,
    heard_row,
    heartbeat_row,
    hello_row,
    lane_row,
    offer_row,
    presence_row,
    reject_row,
    repeat_row,
    status_row,
    unpack_ranges,
)
from control_plane.store import units
from control_plane.store.bulk import BulkWrite, Prepared
from control_plane.store.engine import Store
from control_plane.store.tables import (
    batch,
    config_offer,
    config_status,
    conflict,
    declare,
    dictionary,
    effective_config,
    heartbeat,
    hello,
    lane,
    presence,
    reject,
    repeat,
    session,
)
from control_plane.store.upsert import bulk_insert, bulk_upsert, prepared_upsert, upsert
from protos.columns import Dictionary, dictionary_id
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

MOST_UNITS = 64
ORDERED = "it was told to begin a new epoch"


class SqlJournal:
    """See `Journal`. Used by one thread. `server` names the process whose streams it records."""

    def __init__(self, store: Store, *, server: str = "", kept_as: Callable[[str], str] = lambda _: "") -> None:
        """`kept_as`: by whose retention a gateway's batches are kept."""
        self._server = server
        self._kept_as = kept_as
        self._into: dict[str, BulkWrite] = {}
        self._store = store
        self._lineages: dict[str, Lineage] = {}
        """Of gateways whose newest Hello named a predecessor: what they send may be here under another name."""
        insert = sqlite_insert if store.sqlite else pg_insert
        self._insert_batch = bulk_insert(batch, [column.name for column in batch.columns if column.name != "id"])
        self._insert_declare = insert(declare).on_conflict_do_nothing()
        self._insert_reject = insert(reject).on_conflict_do_nothing()
        self._insert_conflict = insert(conflict).on_conflict_do_nothing()
        again = insert(repeat)
        more = {"times": repeat.c.times + again.excluded.times, "received_ms": again.excluded.received_ms}
        self._upsert_repeat: Insert = again.on_conflict_do_update(index_elements=list(repeat.primary_key), set_=more)
        self._upsert_lane = bulk_upsert(lane, [column.name for column in lane.columns])
        beat = insert(heartbeat)
        said = ("seq", "complete_boot", "complete_mono_ms", "received_ms")
        self._upsert_heartbeat: Insert = beat.on_conflict_do_update(
            index_elements=["gateway", "epoch", "lane"], set_={name: beat.excluded[name] for name in said}
        )
        here = [column.name for column in presence.columns]
        self._upsert_presence = prepared_upsert(presence, here, kept=["heartbeat"])
        self._update_presence = (
            update(presence)
            .where(presence.c.gateway == bindparam("of"), presence.c.session == bindparam("in_session"))
            .values(
                heard_ms=bindparam("heard"),
                left_ms=bindparam("left"),
                why=bindparam("because"),
                heartbeat=func.coalesce(bindparam("said", type_=LargeBinary), presence.c.heartbeat),
                running=func.coalesce(bindparam("runs", type_=LargeBinary), presence.c.running),
                paced=func.coalesce(bindparam("pace", type_=Text), presence.c.paced),
            )
        )
        fence = insert(session).values(gateway=bindparam("gateway"), session=1)
        self._next_session = Prepared(
            fence.on_conflict_do_update(index_elements=["gateway"], set_={"session": session.c.session + 1}).returning(
                session.c.session
            )
        )
        self._epochs = epochs.Epochs()
        mine: BindParameter[str] = bindparam("of_gateway")
        self._lanes_of = Prepared(select(lane).where(lane.c.gateway == mine, lane.c.epoch == bindparam("of_epoch")))
        self._schemas_of = Prepared(
            select(declare.c.schema).where(declare.c.gateway == mine, declare.c.epoch == bindparam("of_epoch"))
        )
        self._dictionaries_of = Prepared(select(dictionary.c.id).where(dictionary.c.gateway == mine))
        self._insert_hello = Prepared(insert(hello).returning(hello.c.id), HELLO)

    # --- sessions ------------------------------------------------------------------------------------

    def open_session(
        self, gateway: str, hello_: wire.Hello, *, now_ms: int, released_ms: int | None = None
    ) -> SessionStart:
        with self._store.write() as connection:
            in_order(self._store, connection)
            pause = self._epochs.pause(connection, gateway, hello_, now_ms=now_ms, released_ms=released_ms)
            if pause is not None and not pause.fresh:
                return SessionStart(session=0, lanes={}, schemas=frozenset(), paused_ms=pause.since_ms, note=pause.why)
            number = self._next_session.one(connection, gateway=gateway).session
            if pause is not None:  # the token is taken: whoever is connected is fenced
                return SessionStart(
                    session=number, lanes={}, schemas=frozenset(), paused_ms=pause.since_ms, note=pause.why
                )
            lanes, brought = self._lanes(connection, gateway, hello_.epoch)
            why = self._epochs.why_new(connection, gateway, hello_, lanes, brought)
            said = hello_row(gateway, number, hello_, now_ms, why or None)
            hello_id = self._insert_hello.one(connection, **said).id
            row = presence_row(gateway, number, hello_, now_ms, self._server)
            self._upsert_presence(connection, **row | ({"left_ms": now_ms, "why": ORDERED} if why else {}))
            if not why:
                self._begin(connection, gateway, hello_, hello_id)
            of = {"of_gateway": gateway, "of_epoch": hello_.epoch}
            schemas = frozenset(row.schema for row in self._schemas_of(connection, **of))
            dictionaries = frozenset(row.id for row in self._dictionaries_of(connection, of_gateway=gateway))
        return SessionStart(
            session=number, lanes=lanes, schemas=schemas, dictionaries=dictionaries, new_epoch=bool(why), note=why
        )

    def _begin(self, connection: Connection, gateway: str, said: wire.Hello, hello_id: int) -> None:
        self._epochs.accepted(connection, gateway, said, hello_id)
        self._lineages.pop(gateway, None)
        if said.predecessor_epoch:
            self._lineages[gateway] = epochs.lineage_of(connection, gateway)

    def everyone_left(self, *, now_ms: int, why: str) -> None:
        """Close the open presences of this server: for a start at which nobody can be connected to it yet."""
        mine = or_(presence.c.server.is_(None), presence.c.server == self._server)  # there was one, without a name
        gone = update(presence).where(presence.c.left_ms.is_(None), mine).values(left_ms=now_ms, why=why)
        with self._store.write() as connection:
            connection.execute(gone)

    def server_ended(self, server: str, *, now_ms: int, why: str) -> int:
        """Close what presences another server left open; how many. If it lives, its next word opens them again."""
        open_ones = (presence.c.left_ms.is_(None), presence.c.server == server)
        left_ms = case((presence.c.heard_ms > now_ms, presence.c.heard_ms), else_=now_ms)
        with self._store.write() as connection:
            return connection.execute(update(presence).where(*open_ones).values(left_ms=left_ms, why=why)).rowcount

    def _lanes(self, connection: Connection, gateway: str, epoch: int) -> tuple[dict[int, LaneMark], int]:
        """What is held, and the newest session in which batches of this epoch came."""
        rows = self._lanes_of(connection, of_gateway=gateway, of_epoch=epoch)
        marks = {
            row.lane: LaneMark(gateway, epoch, row.lane, row.cum, unpack_ranges(row.above), row.max_seen)
            for row in rows
        }
        return marks, max((int(row.session) for row in rows), default=0)

    # --- appending -----------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry]) -> Committed:
        done = Committed()
        with self._store.write() as connection:
            in_order(self._store, connection)
            done.fenced = self._fenced(connection, entries)
            live = [e for e in entries if (e.gateway, e.session) not in done.fenced] if done.fenced else entries
            self._declares(connection, [e for e in live if isinstance(e, DeclareEntry)], done)
            for entry in live:
                if isinstance(entry, DictionaryEntry):
                    self._dictionary(connection, entry)
            batches = [e for e in live if isinstance(e, BatchEntry)]
            if self._lineages:
                batches = epochs.settle_known(connection, self._lineages, batches)
            self._batches(connection, batches)
            self._duplicates(connection, [e for e in live if isinstance(e, DuplicateEntry)], done)
            rejects = [e for e in live if isinstance(e, RejectEntry)]
            if rejects:
                connection.execute(self._insert_reject, [reject_row(e) for e in rejects])
            marks = {e.mark[:3]: lane_row(e.mark, e.session) for e in live if isinstance(e, BatchEntry | RejectEntry)}
            self._upsert_lane(connection, [row for _, row in sorted(marks.items())])
            beats = {
                (e.gateway, e.epoch, said.lane): heartbeat_row(e, said)
                for e in live
                if isinstance(e, HeartbeatEntry)
                for said in e.lanes
            }
            if beats:
                connection.execute(self._upsert_heartbeat, [row for _, row in sorted(beats.items())])
            self._configuration(connection, live)
            heard = [heard_row(e) for e in live if isinstance(e, PresenceEntry)]
            if heard:
                connection.execute(self._update_presence, heard)
        return done

    def _batches(self, connection: Connection, entries: Sequence[BatchEntry]) -> None:
        if not entries:
            return
        opened = units.opened(connection, batch.name)
        if not opened:
            self._insert_batch(connection, [batch_row(e) for e in entries])
            return
        numbers = count(units.newest_id(connection, batch.name) + 1) if self._store.sqlite else None
        rows: dict[str, list[dict[str, object]]] = {}
        for entry in entries:
            kept_as = self._kept_as(entry.gateway)
            row = batch_row(entry) | ({} if numbers is None else {"id": next(numbers)})
            rows.setdefault(kept_as if kept_as in opened else "", []).append(row)
        for kept_as, some in rows.items():
            self._writing(connection, opened[kept_as])(connection, some)

    def _writing(self, connection: Connection, unit: units.Unit) -> BulkWrite:
        name = units.name_of(unit)
        if name not in self._into:
            if len(self._into) >= MOST_UNITS:  # of units that are closed, and perhaps gone
                self._into.clear()
            names_ = [column.name for column in batch.columns if column.name != "id" or self._store.sqlite]
            self._into[name] = bulk_insert(units.table_of(connection, unit), names_)
        return self._into[name]

    def _configuration(self, connection: Connection, live: Sequence[Entry]) -> None:
        offers = {e.gateway: offer_row(e) for e in live if isinstance(e, OfferEntry)}
        upsert(connection, config_offer, [row for _, row in sorted(offers.items())])
        effective = {e.gateway: effective_row(e) for e in live if isinstance(e, EffectiveEntry)}
        upsert(connection, effective_config, [row for _, row in sorted(effective.items())])
        for entry in live:
            if isinstance(entry, StatusEntry):
                self._status(connection, status_row(entry))

    def _status(self, connection: Connection, row: dict[str, object]) -> None:
        """Unless the gateway's newest row says the same already."""
        query = (
            select(config_status)
            .where(config_status.c.gateway == row["gateway"])
            .order_by(config_status.c.id.desc())
            .limit(1)
        )
        last = connection.execute(query).mappings().one_or_none()
        if last is None or any(last[name] != value for name, value in row.items() if name != "received_ms"):
            connection.execute(config_status.insert(), row)

    def _fenced(self, connection: Connection, entries: Sequence[Entry]) -> set[tuple[str, int]]:
        streams = {(e.gateway, e.session) for e in entries}
        newest: dict[str, int] = {}
        gateways = sorted({gateway for gateway, _ in streams})
        query = select(session.c.gateway, session.c.session).where(
            session.c.gateway.in_(bindparam("some", expanding=True))
        )
        for start in range(0, len(gateways), 500):
            for row in connection.execute(query, {"some": gateways[start : start + 500]}):
                newest[row.gateway] = row.session
        return {stream for stream in streams if newest.get(stream[0]) != stream[1]}

    def _declares(self, connection: Connection, entries: Sequence[DeclareEntry], done: Committed) -> None:
        for entry in entries:
            said = entry.declare
            key = (declare.c.gateway == entry.gateway, declare.c.epoch == said.epoch, declare.c.schema == said.schema)
            stored = connection.execute(select(declare.c.body).where(*key)).scalar_one_or_none()
            if stored is None:
                connection.execute(
                    self._insert_declare,
                    {
                        "gateway": entry.gateway,
                        "epoch": said.epoch,
                        "schema": said.schema,
                        "received_ms": entry.received_ms,
                        "body": said.SerializeToString(deterministic=True),
                    },
                )
            elif pb.Declare.FromString(stored) != said:
                done.changed_declares.append((entry.gateway, said.schema))

    def _dictionary(self, connection: Connection, entry: DictionaryEntry) -> None:
        said = entry.dictionary
        if dictionary_id(said.sha256) not in names(connection, entry.gateway):
            held = Dictionary(said.data, said.sha256)
            add(connection, entry.gateway, Issue(held, said.schema, 0, 0.0, entry.received_ms))

    def _duplicates(self, connection: Connection, entries: Sequence[DuplicateEntry], done: Committed) -> None:
        keyed: dict[tuple[str, int, int, int], list[DuplicateEntry]] = {}
        for e in entries:
            keyed.setdefault((e.gateway, e.batch.epoch, int(e.batch.lane), e.batch.seq), []).append(e)
        columns = (batch.c.gateway, batch.c.epoch, batch.c.lane, batch.c.seq)
        keys = sorted(keyed)
        times: Counter[tuple[str, int, int, int]] = Counter()
        same: dict[tuple[str, int, int, int], DuplicateEntry] = {}
        for start in range(0, len(keys), 200):
            query = select(*columns, batch.c.crc32, batch.c.body_len, batch.c.schema).where(
                tuple_(*columns).in_(keys[start : start + 200])
            )
            for row in connection.execute(query).all():
                for entry in keyed[row.gateway, row.epoch, row.lane, row.seq]:
                    said = entry.batch
                    if (row.crc32, row.body_len, row.schema) != (said.crc32, said.body_len, said.schema):
                        connection.execute(self._insert_conflict, conflict_row(entry))
                        done.conflicts += 1
                    else:
                        times[tuple(row[:4])] += 1
                        same[tuple(row[:4])] = entry
        if same:
            rows = [repeat_row(entry, times=times[key]) for key, entry in sorted(same.items())]
            connection.execute(self._upsert_repeat, rows)


def count_batches(store: Store) -> int:
    with store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(batch)).scalar_one())
