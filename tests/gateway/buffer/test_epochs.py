"""A new epoch on the server's order, and what the server's word at Welcome does."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.buffer import anchored
from gateway.buffer.buffer import Moved
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import Box, as_rows, batches, gaps, seal, values


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "buffer")
    await box.open()
    yield box
    await box.buffer.close()


async def anchor(box: Box) -> None:
    said = pb.Anchor(boot=box.buffer.opening.boot, mono_ms=box.clock.mono, wall_ms=box.clock.wall)
    box.buffer.event(pb.EVENT_ANCHOR, said.SerializeToString())
    await box.buffer._seal_urgent()


async def anchors(box: Box) -> list[int]:
    """Monotonic times of those in the URGENT lane, in order."""
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await box.buffer.schemas()}
    found = []
    for batch in await batches(box.buffer, pb.URGENT):
        body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
        events = columns.decode(schemas[batch.schema], body, count=batch.count).events
        found += [pb.Anchor.FromString(e.detail).mono_ms for _, e in events if e.kind == pb.EVENT_ANCHOR]
    return found


async def seqs(box: Box) -> list[int]:
    return [batch.seq for batch in await batches(box.buffer)]


async def test_what_is_held_gets_new_numbers_in_the_old_order_and_keeps_its_bytes(box: Box) -> None:
    await seal(box, 5)
    await box.buffer.welcomed(1, {})
    await box.buffer.ack(pb.TELEMETRY, Ranges([(2, 3)]))
    before = {batch.seq: batch.body for batch in await batches(box.buffer)}
    epoch = box.buffer.opening.epoch
    await box.buffer.begin_epoch({pb.TELEMETRY: Ranges([(1, 3)])})
    assert box.buffer.opening.epoch != epoch
    after = {batch.seq: batch.body for batch in await batches(box.buffer)}
    assert after == {1: before[1], 2: before[4], 3: before[5]}
    assert {declare.epoch for declare in await box.buffer.schemas()} == {box.buffer.opening.epoch}
    said = await box.buffer.descent()
    assert (said.predecessor, said.last_session) == (epoch, 0)
    assert Moved(pb.TELEMETRY, Ranges([(1, 1), (4, 5)]), Ranges(), agreed=6) in said.moved
    await seal(box, 1)
    assert await seqs(box) == [1, 2, 3, 4]


async def test_only_what_both_sides_hold_is_let_go(box: Box) -> None:
    await seal(box, 4)
    await box.buffer.ack(pb.TELEMETRY, Ranges([(1, 2)]))
    await box.buffer.begin_epoch({pb.TELEMETRY: Ranges([(2, 3)])})
    assert await values(box.buffer) == [0, 0.2, 0.3]  # of 0.0, 0.1, 0.2, 0.3


async def test_what_the_server_lost_is_offered_again(box: Box) -> None:
    await seal(box, 4)
    await box.buffer.ack(pb.TELEMETRY, Ranges([(1, 4)]))
    assert await seqs(box) == []
    await box.buffer.welcomed(7, {pb.TELEMETRY: Ranges([(1, 2)])})
    assert await seqs(box) == [3, 4]
    await box.buffer.close()
    await box.open()
    assert await seqs(box) == [3, 4]
    assert (await box.buffer.descent()).last_session == 7


async def test_what_is_not_here_any_more_is_not_offered(box: Box) -> None:
    await seal(box, 3)
    await box.buffer.reject(pb.TELEMETRY, 2, "crc wrong twice")
    await box.buffer.ack(pb.TELEMETRY, Ranges([(1, 1)]))
    await box.buffer.welcomed(1, {})
    assert await seqs(box) == [1, 3]


async def test_a_seq_is_agreed_on_at_welcome_and_by_acknowledgements(box: Box) -> None:
    await seal(box, 2)
    await box.buffer.welcomed(1, {})
    await seal(box, 3)
    await box.buffer.ack(pb.TELEMETRY, Ranges([(4, 4)]))
    await box.buffer.begin_epoch({})
    (moved,) = [one for one in (await box.buffer.descent()).moved if one.lane == pb.TELEMETRY]
    assert (list(moved.seqs), moved.agreed) == ([(1, 5)], 5)


async def test_telemetry_names_the_urgent_batches_by_their_new_numbers(box: Box) -> None:
    for _ in range(3):
        await anchor(box)
        await seal(box, 1)
    assert [batch.urgent_seq for batch in await batches(box.buffer)] == [1, 2, 3]
    await box.buffer.ack(pb.URGENT, Ranges([(1, 1)]))
    await box.buffer.begin_epoch({pb.URGENT: Ranges([(1, 1)])})
    assert [batch.urgent_seq for batch in await batches(box.buffer)] == [0, 1, 2]


async def test_anchors_of_every_boot_that_is_held_are_told_again(box: Box) -> None:
    await anchor(box)
    first = box.clock.mono
    await seal(box, 1)
    await box.buffer.close()
    box.clock.boot, box.clock.mono = b"c" * 16, 5_000_000
    await box.open()
    await anchor(box)
    await box.buffer.ack(pb.URGENT, Ranges([(1, 10)]))
    held = box.buffer._store.lanes[pb.URGENT].next_seq - 1
    await box.buffer.begin_epoch({pb.URGENT: Ranges([(1, held)])})
    assert await anchors(box) == [first, 5_000_000]
    assert box.buffer._store.lanes[pb.URGENT].complete_mono_ms < 5_000_000  # said of the lane, not of the anchors


async def test_of_a_boot_the_first_the_last_and_some_between_are_kept(box: Box) -> None:
    begun = box.clock.mono
    for _ in range(120):
        await anchor(box)
        box.clock.mono += 3_600_000
    kept = [one.mono_ms for one in anchored.load(box.buffer._store.query)]
    assert len(kept) <= anchored.MOST_PER_BOOT
    assert (kept[0], kept[-1]) == (begun, box.clock.mono - 3_600_000)
    widest = max(after - before for before, after in itertools.pairwise(kept))
    assert widest <= 8 * 3_600_000


async def test_bytes_set_aside_in_both_epochs_are_kept(box: Box) -> None:
    await seal(box, 2)
    await box.buffer.reject(pb.TELEMETRY, 1, "first")
    await box.buffer.begin_epoch({})
    await box.buffer.reject(pb.TELEMETRY, 1, "second")
    rows = box.buffer._store.query("SELECT seq, reason FROM set_aside ORDER BY seq").fetchall()
    assert [reason for _, reason in rows] == ["first (seq 1 of an epoch before)", "second"]


async def test_the_tail_remembers_the_new_epoch_and_brings_a_store_behind_it_forward(box: Box) -> None:
    """A damaged log: the store is of the old epoch again; what the new one had sealed is a gap, not sealed twice."""
    await seal(box, 2)
    await box.buffer.close()
    old = box.folder.joinpath("sealed.db").read_bytes()
    await box.open()
    epoch = box.buffer.opening.epoch
    await box.buffer.begin_epoch({})
    box.row(7)
    await box.buffer.seal()
    await box.kill()
    for suffix in ("-wal", "-shm"):
        box.folder.joinpath("sealed.db" + suffix).unlink(missing_ok=True)
    box.folder.joinpath("sealed.db").write_bytes(old)
    await box.open()
    assert box.buffer.opening.epoch == epoch
    box.row(8)
    await box.buffer.seal()
    assert await values(box.buffer) == [0, 0.1, 0.8]
    assert [pb.GapReason.Name(one.reason) for one in await gaps(box.buffer)] == ["GAP_RESTART"]


async def test_a_store_of_format_2_is_brought_up(box: Box) -> None:
    await seal(box, 2)
    await box.buffer.close()
    with sqlite3.connect(box.folder / "sealed.db") as db:
        db.execute("DROP TABLE moved")
        db.execute("DROP TABLE anchor")
        db.execute("DROP TABLE thinned")
        db.execute("DROP TABLE ledger")
        db.execute("DROP TABLE placed")
        as_rows(db)
        for column in ("cells", "segment", "body_at", "body_size"):
            db.execute(f"ALTER TABLE batch DROP COLUMN {column}")
        db.execute("ALTER TABLE lane DROP COLUMN agreed")
        db.execute("DELETE FROM meta WHERE key IN ('predecessor', 'session', 'thinned_readings')")
        db.execute("PRAGMA user_version=2")
    db.close()
    await box.open()
    assert not list(box.folder.glob("*damaged*"))
    await box.buffer.begin_epoch({})
    assert await values(box.buffer) == [0, 0.1]
