from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Row, Table, func, select
from sqlalchemy.exc import DBAPIError

from control_plane.journal.journal import (
    BatchEntry,
    DeclareEntry,
    DuplicateEntry,
    Entry,
    HeartbeatEntry,
    LaneMark,
    RejectEntry,
)
from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from control_plane.store.tables import batch as batches
from control_plane.store.tables import conflict, declare, heartbeat, lane, reject, repeat
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane import sealing
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, hello

MAX32 = (1 << 32) - 1


@pytest.fixture
def journal(stores: Stores) -> SqlJournal:
    return SqlJournal(stores.journal)


def rows(stores: Stores, table: Table) -> list[Row[Any]]:
    with stores.journal.read() as connection:
        return list(connection.execute(select(table)).all())


def opened(journal: SqlJournal, gateway: str = GATEWAY, said: wire.Hello | None = None) -> int:
    return journal.open_session(gateway, said or hello(), now_ms=1).session


def mark(cum: int, *above: tuple[int, int], gateway: str = GATEWAY, number: int = 0) -> LaneMark:
    return LaneMark(gateway, EPOCH, number, cum, above, max([cum, *(last for _, last in above)]))


def entry(session: int, seq: int, *tenths: int, gateway: str = GATEWAY) -> BatchEntry:
    return BatchEntry(gateway, session, sealing.batch(seq, *tenths), 5, mark(seq, gateway=gateway))


def again(session: int, seq: int, *tenths: int) -> DuplicateEntry:
    return DuplicateEntry(GATEWAY, session, sealing.batch(seq, *tenths), 5, mark(seq))


def test_a_new_session_resumes_from_what_was_committed(journal: SqlJournal) -> None:
    first = opened(journal)
    journal.commit(
        [
            DeclareEntry(GATEWAY, first, sealing.declare(), 5),
            BatchEntry(GATEWAY, first, sealing.batch(1, 10), 5, mark(1)),
            BatchEntry(GATEWAY, first, sealing.batch(4, 40), 5, mark(1, (4, 4))),
        ]
    )
    start = journal.open_session(GATEWAY, hello(telemetry=5), now_ms=9)
    assert start.session == first + 1
    assert start.lanes == {0: mark(1, (4, 4))}
    assert start.schemas == {1}
    assert start.note == ""
    assert journal.open_session(OTHER, hello(), now_ms=9).lanes == {}
    assert journal.open_session(GATEWAY, hello(epoch=5), now_ms=9).lanes == {}


def test_an_older_sessions_entries_are_not_written(stores: Stores, journal: SqlJournal) -> None:
    old, other = opened(journal), opened(journal, OTHER)
    new = opened(journal)
    done = journal.commit([entry(old, 1, 10), entry(other, 1, 11, gateway=OTHER), entry(new, 2, 12)])
    assert done.fenced == {(GATEWAY, old)}
    assert {(row.gateway, row.seq) for row in rows(stores, batches)} == {(OTHER, 1), (GATEWAY, 2)}
    assert {(row.gateway, row.cum) for row in rows(stores, lane)} == {(OTHER, 1), (GATEWAY, 2)}


def test_bytes_and_envelope_are_kept_as_they_came(stores: Stores, journal: SqlJournal) -> None:
    sent = sealing.batch(7, 1, 2, 3, boot=MAX32, complete=(MAX32, (1 << 53) - 1))
    sent.schema = MAX32
    sent.replaces.add(first=2, last=3)
    sent.signature = b"s" * 64
    journal.commit([BatchEntry(GATEWAY, opened(journal), sent, 5, mark(0, (7, 7)))])
    (row,) = rows(stores, batches)
    assert row.body == sent.body
    assert (row.epoch, row.seq, row.schema, row.crc32, row.complete_boot) == (EPOCH, 7, MAX32, sent.crc32, MAX32)
    assert pb.Batch.FromString(row.extra) == pb.Batch(replaces=sent.replaces, signature=sent.signature)


def test_the_same_content_again_changes_nothing(stores: Stores, journal: SqlJournal) -> None:
    session = opened(journal)
    journal.commit([entry(session, 1, 10, 20)])
    done = journal.commit([again(session, 1, 10, 20), again(session, 1, 10, 20)])
    assert done.conflicts == 0
    assert len(rows(stores, batches)) == 1
    assert rows(stores, conflict) == []


def test_the_same_key_with_other_content_is_kept_beside_the_first(stores: Stores, journal: SqlJournal) -> None:
    session = opened(journal)
    done = journal.commit([entry(session, 1, 10), again(session, 1, 11), again(session, 1, 12)])
    assert done.conflicts == 2
    assert [row.body for row in rows(stores, batches)] == [sealing.batch(1, 10).body]
    kept = [pb.Batch.FromString(row.body) for row in rows(stores, conflict)]
    assert kept == [sealing.batch(1, 11), sealing.batch(1, 12)]


def test_a_declaration_never_changes(stores: Stores, journal: SqlJournal) -> None:
    session = opened(journal)
    journal.commit([DeclareEntry(GATEWAY, session, sealing.declare(), 5)])
    same = journal.commit([DeclareEntry(GATEWAY, session, sealing.declare(), 6)])
    changed = journal.commit([DeclareEntry(GATEWAY, session, sealing.declare(unit="K"), 7)])
    assert (same.changed_declares, changed.changed_declares) == ([], [(GATEWAY, 1)])
    (row,) = rows(stores, declare)
    assert pb.Declare.FromString(row.body) == sealing.declare()


def test_a_rejected_seq_is_received_without_content(stores: Stores, journal: SqlJournal) -> None:
    session = opened(journal)
    refused = wire.Reject(epoch=EPOCH, seq=1, code=wire.REJECT_CRC, reason="crc wrong twice")
    journal.commit([RejectEntry(GATEWAY, session, refused, 5, mark(1))])
    assert [(row.seq, row.code, row.reason) for row in rows(stores, reject)] == [
        (1, wire.REJECT_CRC, "crc wrong twice")
    ]
    assert rows(stores, batches) == []
    assert journal.open_session(GATEWAY, hello(telemetry=2), now_ms=9).lanes == {0: mark(1)}


def test_the_newest_heartbeat_of_a_lane_stays(stores: Stores, journal: SqlJournal) -> None:
    session = opened(journal)
    for seq, mono_ms in ((3, 100), (3, 200), (4, 300)):
        said = wire.LaneComplete(seq=seq, complete_to=wire.CompleteTo(boot=MAX32, mono_ms=mono_ms))
        journal.commit([HeartbeatEntry(GATEWAY, session, EPOCH, [said], 5)])
    assert [tuple(row) for row in rows(stores, heartbeat)] == [(GATEWAY, EPOCH, 0, 4, MAX32, 300, 5)]


def test_a_commit_that_fails_leaves_nothing_of_its_group(stores: Stores, journal: SqlJournal) -> None:
    session, other = opened(journal), opened(journal, OTHER)
    journal.commit([entry(session, 1, 10)])
    group: list[Entry] = [
        DeclareEntry(GATEWAY, session, sealing.declare(), 5),
        entry(other, 1, 11, gateway=OTHER),
        entry(session, 1, 12),  # its key is taken
    ]
    with pytest.raises(DBAPIError):
        journal.commit(group)
    assert [(row.gateway, row.seq) for row in rows(stores, batches)] == [(GATEWAY, 1)]
    assert rows(stores, declare) == []
    assert [(row.gateway, row.cum) for row in rows(stores, lane)] == [(GATEWAY, 1)]
    journal.commit(group[:2])
    assert len(rows(stores, batches)) == 2


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (hello(opens=3), hello(opens=3), ""),
        (hello(opens=3), hello(opens=4, run_id=b"s" * 16), ""),
        (hello(opens=3), hello(opens=2), "restored or cloned"),
        (hello(opens=3), hello(opens=3, run_id=b"s" * 16), "restored or cloned"),
        (hello(opens=3), hello(epoch=5), ""),
        (hello(opens=3), hello(opens=4, telemetry=2), "lane 0 continues at 2 but 2 was already seen"),
        (hello(opens=3), hello(opens=4, telemetry=3), ""),
    ],
)
def test_a_restored_or_cloned_store_is_noticed(
    journal: SqlJournal, first: wire.Hello, second: wire.Hello, said: str
) -> None:
    session = opened(journal, said=first)
    if second.lanes[0].next_seq > 1:
        journal.commit([entry(session, 1, 1), entry(session, 2, 2)])
    note = journal.open_session(GATEWAY, second, now_ms=2).note
    assert said in note
    assert bool(note) == bool(said)


def test_a_reader_by_id_misses_nothing_while_two_write(stores: Stores) -> None:
    """Ids must become visible in their order, or a cursor over them skips a batch for ever."""
    writers = 2
    commits = 40
    finished = threading.Barrier(writers + 1)

    def write(gateway: str) -> None:
        journal = SqlJournal(stores.journal)
        session = opened(journal, gateway)
        for seq in range(1, 2 * commits, 2):
            journal.commit([entry(session, seq, 1, gateway=gateway), entry(session, seq + 1, 2, gateway=gateway)])
        finished.wait(60)

    threads = [threading.Thread(target=write, args=(gateway,)) for gateway in (GATEWAY, OTHER)]
    for thread in threads:
        thread.start()
    seen, position, over, ids = 0, 0, False, [0]
    while ids or not over:
        over = finished.n_waiting == writers  # before the look that may be the last
        query = select(batches.c.id).where(batches.c.id > position).order_by(batches.c.id).limit(7)
        with stores.journal.read() as connection:
            ids = list(connection.execute(query).scalars())
        seen += len(ids)
        position = ids[-1] if ids else position
    finished.wait(60)
    for thread in threads:
        thread.join()
    with stores.journal.read() as connection:
        assert seen == connection.execute(select(func.count()).select_from(batches)).scalar_one() == 160


def test_what_comes_again_is_stored_once_and_counted(stores: Stores, journal: SqlJournal) -> None:
    session = opened(journal)
    journal.commit([entry(session, 1, 10), entry(session, 2, 20), again(session, 1, 10), again(session, 1, 10)])
    journal.commit([again(session, 1, 10), again(session, 2, 21), again(session, 3, 30)])
    assert [(row.seq, row.times) for row in rows(stores, repeat)] == [(1, 3)]
    assert [row.seq for row in rows(stores, conflict)] == [2]
    assert len(rows(stores, batches)) == 2
