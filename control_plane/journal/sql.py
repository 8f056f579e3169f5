"""The journal on SQLite or PostgreSQL: one transaction per group commit.

Invariants
1. A batch, its lane's ranges and the fence check commit together: an ack can only repeat what one commit held.
2. (gateway, epoch, lane, seq) is unique. The same key with other content is kept in `conflict`.
3. A declaration or a dictionary is written before, or in the same transaction as, the first batch naming it, and
   never changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, LargeBinary, bindparam, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.dml import Insert

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
from control_plane.store.engine import Store
from control_plane.store.tables import (
    batch,
    config_offer,
    config_status,
    conflict,
    declare,
    effective_config,
    heartbeat,
    hello,
    lane,
    presence,
    reject,
    session,
)
from control_plane.store.upsert import upsert
from protos.columns import Dictionary, dictionary_id
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

_PAIR = struct.Struct("<QQ")
TEXT_LIMIT = 1000


def pack_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(_PAIR.pack(*pair) for pair in ranges)


def unpack_ranges(data: bytes) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in _PAIR.iter_unpack(data))


class SqlJournal:
    """See `Journal`. Used by one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        insert = sqlite_insert if store.sqlite else pg_insert
        self._insert_batch = insert(batch)
        self._insert_declare = insert(declare).on_conflict_do_nothing()
        self._insert_reject = insert(reject).on_conflict_do_nothing()
        self._insert_conflict = insert(conflict).on_conflict_do_nothing()
        new_lane = insert(lane)
        self._upsert_lane: Insert = new_lane.on_conflict_do_update(
            index_elements=["gateway", "epoch", "lane"],
            set_={name: new_lane.excluded[name] for name in ("cum", "above", "max_seen")},
        )
        beat = insert(heartbeat)
        said = ("seq", "complete_boot", "complete_mono_ms", "received_ms")
        self._upsert_heartbeat: Insert = beat.on_conflict_do_update(
            index_elements=["gateway", "epoch", "lane"], set_={name: beat.excluded[name] for name in said}
        )
        here = insert(presence)
        fresh = ("session", "connected_ms", "heard_ms", "left_ms", "version", "running", "why")
        self._upsert_presence: Insert = here.on_conflict_do_update(
            index_elements=["gateway"], set_={name: here.excluded[name] for name in fresh}
        )
        self._update_presence = (
            update(presence)
            .where(presence.c.gateway == bindparam("of"), presence.c.session == bindparam("in_session"))
            .values(
                heard_ms=bindparam("heard"),
                left_ms=bindparam("left"),
                why=bindparam("because"),
                heartbeat=func.coalesce(bindparam("said", type_=LargeBinary), presence.c.heartbeat),
                running=func.coalesce(bindparam("runs", type_=LargeBinary), presence.c.running),
            )
        )
        fence = insert(session)
        self._next_session = fence.on_conflict_do_update(
            index_elements=["gateway"], set_={"session": session.c.session + 1}
        ).returning(session.c.session)

    # --- sessions ------------------------------------------------------------------------------------

    def open_session(self, gateway: str, hello_: wire.Hello, *, now_ms: int) -> SessionStart:
        with self._store.write() as connection:
            in_order(self._store, connection)
            number = connection.execute(self._next_session, {"gateway": gateway, "session": 1}).scalar_one()
            note = self._oddity(connection, gateway, hello_)
            connection.execute(
                hello.insert(),
                {
                    "gateway": gateway,
                    "session": number,
                    "epoch": hello_.epoch,
                    "opens": hello_.opens,
                    "run_id": hello_.run_id,
                    "boot": hello_.boot,
                    "boot_id": hello_.boot_id,
                    "received_ms": now_ms,
                    "body": hello_.SerializeToString(),
                },
            )
            connection.execute(self._upsert_presence, _presence_row(gateway, number, hello_, now_ms))
            lanes = self._lanes(connection, gateway, hello_.epoch)
            for state in hello_.lanes:
                held = lanes.get(state.lane)
                if held and state.next_seq <= held.max_seen and not note:
                    note = f"lane {state.lane} continues at {state.next_seq} but {held.max_seen} was already seen"
            known = select(declare.c.schema).where(declare.c.gateway == gateway, declare.c.epoch == hello_.epoch)
            schemas = frozenset(connection.execute(known).scalars())
            dictionaries = names(connection, gateway)
        return SessionStart(session=number, lanes=lanes, schemas=schemas, dictionaries=dictionaries, note=note)

    def everyone_left(self, *, now_ms: int, why: str) -> None:
        """Close every open presence: for a start at which nobody can be connected yet."""
        with self._store.write() as connection:
            connection.execute(update(presence).where(presence.c.left_ms.is_(None)).values(left_ms=now_ms, why=why))

    def _oddity(self, connection: Connection, gateway: str, now: wire.Hello) -> str:
        """A restored or cloned store shows an `opens` that went back, or one opening under two names."""
        query = (
            select(hello.c.opens, hello.c.run_id)
            .where(hello.c.gateway == gateway, hello.c.epoch == now.epoch)
            .order_by(hello.c.id.desc())
            .limit(1)
        )
        last = connection.execute(query).one_or_none()
        if last is None:
            return ""
        if now.opens < last.opens:
            return f"the store was opened {last.opens} times before, now it says {now.opens}: restored or cloned"
        if now.opens == last.opens and bytes(now.run_id) != bytes(last.run_id):
            return f"two openings of the store both say {now.opens}: restored or cloned"
        return ""

    def _lanes(self, connection: Connection, gateway: str, epoch: int) -> dict[int, LaneMark]:
        query = select(lane).where(lane.c.gateway == gateway, lane.c.epoch == epoch)
        return {
            row.lane: LaneMark(gateway, epoch, row.lane, row.cum, unpack_ranges(row.above), row.max_seen)
            for row in connection.execute(query)
        }

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
            if batches:
                connection.execute(self._insert_batch, [_batch_row(e) for e in batches])
            self._duplicates(connection, [e for e in live if isinstance(e, DuplicateEntry)], done)
            rejects = [e for e in live if isinstance(e, RejectEntry)]
            if rejects:
                connection.execute(self._insert_reject, [_reject_row(e) for e in rejects])
            marks = {e.mark[:3]: e.mark for e in live if isinstance(e, BatchEntry | RejectEntry)}
            if marks:
                connection.execute(self._upsert_lane, [_lane_row(mark) for _, mark in sorted(marks.items())])
            beats = {
                (e.gateway, e.epoch, said.lane): _heartbeat_row(e, said)
                for e in live
                if isinstance(e, HeartbeatEntry)
                for said in e.lanes
            }
            if beats:
                connection.execute(self._upsert_heartbeat, [row for _, row in sorted(beats.items())])
            self._configuration(connection, live)
            heard = [_heard_row(e) for e in live if isinstance(e, PresenceEntry)]
            if heard:
                connection.execute(self._update_presence, heard)
        return done

    def _configuration(self, connection: Connection, live: Sequence[Entry]) -> None:
        offers = {e.gateway: _offer_row(e) for e in live if isinstance(e, OfferEntry)}
        upsert(connection, config_offer, [row for _, row in sorted(offers.items())])
        effective = {e.gateway: _effective_row(e) for e in live if isinstance(e, EffectiveEntry)}
        upsert(connection, effective_config, [row for _, row in sorted(effective.items())])
        for entry in live:
            if isinstance(entry, StatusEntry):
                self._status(connection, _status_row(entry))

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
        for start in range(0, len(keys), 200):
            query = select(*columns, batch.c.crc32, batch.c.body_len, batch.c.schema).where(
                tuple_(*columns).in_(keys[start : start + 200])
            )
            for row in connection.execute(query).all():
                for entry in keyed[row.gateway, row.epoch, row.lane, row.seq]:
                    said = entry.batch
                    if (row.crc32, row.body_len, row.schema) != (said.crc32, said.body_len, said.schema):
                        connection.execute(self._insert_conflict, _conflict_row(entry))
                        done.conflicts += 1


def _batch_row(entry: BatchEntry) -> dict[str, object]:
    b = entry.batch
    extra = None
    if b.replaces or b.signature:
        extra = pb.Batch(replaces=b.replaces, signature=b.signature).SerializeToString()
    return {
        "gateway": entry.gateway,
        "epoch": b.epoch,
        "lane": b.lane,
        "seq": b.seq,
        "schema": b.schema,
        "codec": b.codec,
        "dictionary": b.dictionary,
        "count": b.count,
        "body_len": b.body_len,
        "crc32": b.crc32,
        "complete_boot": b.complete_boot,
        "complete_mono_ms": b.complete_mono_ms,
        "urgent_seq": b.urgent_seq,
        "received_ms": entry.received_ms,
        "extra": extra,
        "body": b.body,
    }


def _lane_row(mark: LaneMark) -> dict[str, object]:
    return {
        "gateway": mark.gateway,
        "epoch": mark.epoch,
        "lane": mark.lane,
        "cum": mark.cum,
        "above": pack_ranges(mark.above),
        "max_seen": mark.max_seen,
    }


def _reject_row(entry: RejectEntry) -> dict[str, object]:
    r = entry.reject
    return {
        "gateway": entry.gateway,
        "epoch": r.epoch,
        "lane": r.lane,
        "seq": r.seq,
        "code": r.code,
        "reason": r.reason,
        "received_ms": entry.received_ms,
    }


def _heartbeat_row(entry: HeartbeatEntry, said: wire.LaneComplete) -> dict[str, object]:
    return {
        "gateway": entry.gateway,
        "epoch": entry.epoch,
        "lane": said.lane,
        "seq": said.seq,
        "complete_boot": said.complete_to.boot,
        "complete_mono_ms": said.complete_to.mono_ms,
        "received_ms": entry.received_ms,
    }


def _presence_row(gateway: str, number: int, said: wire.Hello, now_ms: int) -> dict[str, object]:
    return {
        "gateway": gateway,
        "session": number,
        "connected_ms": now_ms,
        "heard_ms": now_ms,
        "left_ms": None,
        "version": _text(said.version),
        "heartbeat": None,
        "running": said.running.SerializeToString() if said.HasField("running") else None,
        "why": None,
    }


def _heard_row(entry: PresenceEntry) -> dict[str, object]:
    return {
        "of": entry.gateway,
        "in_session": entry.session,
        "heard": entry.heard_ms,
        "left": entry.left_ms,
        "because": entry.why,
        "said": entry.heartbeat,
        "runs": entry.running,
    }


def _text(said: str) -> str:
    """What a column can hold: PostgreSQL refuses NUL."""
    return said.replace("\0", "")[:TEXT_LIMIT]


def _offer_row(entry: OfferEntry) -> dict[str, object]:
    return entry._asdict()


def _status_row(entry: StatusEntry) -> dict[str, object]:
    said = entry.status
    return {
        "gateway": entry.gateway,
        "generation": said.generation,
        "hash": said.hash,
        "phase": said.phase,
        "reason": said.reason,
        "pointer": _text(said.pointer),
        "text": _text(said.text),
        "retry_at_ms": said.retry_at_ms,
        "received_ms": entry.received_ms,
    }


def _effective_row(entry: EffectiveEntry) -> dict[str, object]:
    said = entry.effective
    return {
        "gateway": entry.gateway,
        "pushed_hash": said.pushed_hash,
        "local_hash": said.local_hash,
        "body": said.body,
        "received_ms": entry.received_ms,
    }


def _conflict_row(entry: DuplicateEntry) -> dict[str, object]:
    b = entry.batch
    return {
        "gateway": entry.gateway,
        "epoch": b.epoch,
        "lane": b.lane,
        "seq": b.seq,
        "crc32": b.crc32,
        "received_ms": entry.received_ms,
        "body": b.SerializeToString(),
    }


def count_batches(store: Store) -> int:
    with store.read() as connection:
        return int(connection.execute(select(func.count()).select_from(batch)).scalar_one())
