from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.buffer import disk, witness
from gateway.buffer.disk import DiskBuffer
from gateway.buffer.relative import FULL_EVERY
from gateway.buffer.sealed import Sealed
from gateway.errors import Rejected
from gateway.reading import GroupShape, Lost, Row, SeriesShape
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges
from tests.faults.storage.life import TEXT
from tests.gateway.buffer.boxes import COOLING, METER, Box, TurnedClock, batches, blocks, gaps, values

MARK_BYTES = 104
"""The first record of a tail says what the store held when it was opened."""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "buffer")


async def test_a_row_comes_back_bit_for_bit_from_its_batch(box: Box) -> None:
    buffer = await box.open([COOLING, METER])
    box.row(41)
    buffer.append(box.ids[1], Row(box.clock.mono, (0.1 + 0.2,)))
    await buffer.seal()
    found = await blocks(buffer)
    assert [b.columns for b in found] == [[[4.1], [True]], [[0.1 + 0.2]]]
    assert [list(b.times) for b in found] == [[box.clock.mono]] * 2
    await buffer.close()


async def test_seals_each_row_once_when_killed_before_the_seal(box: Box) -> None:
    buffer = await box.open()
    for n in range(10):
        box.row(n)
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [n / 10 for n in range(10)]
    await buffer.close()


async def test_seals_each_row_once_when_killed_after_the_seal(box: Box) -> None:
    buffer = await box.open()
    for n in range(10):
        box.row(n)
    await buffer.seal()
    for n in range(10, 15):
        box.row(n)
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    box.row(15)
    await buffer.seal()
    assert await values(buffer) == [n / 10 for n in range(16)]
    await buffer.close()


async def test_seals_each_row_once_when_the_store_refuses_and_then_recovers(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = await box.open()
    for n in range(5):
        box.row(n)
    real = buffer._store.seal

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(buffer._store, "seal", full)
    with pytest.raises(OSError, match="disk is full"):
        await buffer.seal()
    for n in range(5, 8):
        box.row(n)
    with pytest.raises(OSError, match="disk is full"):
        await buffer.seal()
    monkeypatch.setattr(buffer._store, "seal", real)
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [n / 10 for n in range(8)]
    await buffer.close()


async def test_rows_sealed_while_the_tail_is_full_do_not_come_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.flush()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(buffer._tail, "append", full)
        box.row(2)
        await buffer.flush()
        await buffer.seal()
    box.row(3)
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [0.1, 0.2, 0.3]
    await buffer.close()


async def test_an_unsealed_row_survives_a_kill_after_250_ms(box: Box) -> None:
    buffer = await box.open()
    loops = asyncio.create_task(buffer.run())
    box.row(7)
    await asyncio.sleep(0.25)
    copy = box.folder.with_name("killed")
    import shutil

    shutil.copytree(box.folder, copy)
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    await buffer.close()
    again = Box(copy, box.clock)
    buffer = await again.open()
    assert await values(buffer) == [0.7]
    await buffer.close()


async def test_a_cancelled_seal_is_still_sealed_once(box: Box) -> None:
    buffer = await box.open()
    for n in range(100):
        box.row(n)
    sealing = asyncio.create_task(buffer.seal())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sealing.cancel()
    await asyncio.gather(sealing, return_exceptions=True)
    await buffer.close()
    buffer = await box.open()
    assert await values(buffer) == [n / 10 for n in range(100)]
    await buffer.close()


async def test_completeness_never_passes_an_unrecorded_gap(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    buffer.lost(box.ids[0], Lost(box.clock.mono, box.clock.mono + 5, 3, pb.GAP_UNREADABLE))
    await buffer.seal()
    (telemetry,) = await batches(buffer)
    assert len(await gaps(buffer)) == 1
    assert telemetry.complete_mono_ms == box.clock.mono - 1
    await buffer.close()


async def test_completeness_waits_for_a_read_under_way(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    started = box.clock.mono + 10
    buffer._pending_since = lambda: started
    box.clock.mono += 500
    await buffer.seal()
    (batch,) = await batches(buffer)
    assert batch.complete_mono_ms == started - 1
    assert {c.lane: c.mono_ms for c in buffer.completeness()}[pb.TELEMETRY] == started - 1
    await buffer.close()


async def test_an_unclean_stop_leaves_one_restart_gap_per_group(box: Box) -> None:
    buffer = await box.open([COOLING, METER])
    box.row(1)
    buffer.append(box.ids[1], Row(box.clock.mono, (1.0,)))
    last = box.clock.mono
    await buffer.flush()
    await box.kill()
    box.clock.mono += 60_000
    buffer = await box.open([COOLING, METER])
    box.row(2)
    box.row(3)
    await buffer.seal()
    (gap,) = await gaps(buffer)
    assert (gap.reason, gap.group, gap.count_exact) == (pb.GAP_RESTART, box.ids[0], False)
    assert (gap.from_mono_ms, gap.to_mono_ms) == (last, last + 61_000)
    buffer.append(box.ids[1], Row(box.clock.mono, (2.0,)))
    await buffer.seal()
    assert [g.group for g in await gaps(buffer)] == [*box.ids]
    await buffer.close()


async def test_a_sensor_that_stays_silent_after_a_kill_closes_its_restart_gap_with_its_first_gap(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    last = box.clock.mono
    await buffer.flush()
    await box.kill()
    box.clock.mono += 60_000
    buffer = await box.open()
    started = box.clock.mono
    buffer.lost(box.ids[0], Lost(started, started + 5000, 5, pb.GAP_UNREADABLE))
    await buffer._seal_urgent()
    told = [(g.reason, g.from_mono_ms, g.to_mono_ms, g.count) for g in await gaps(buffer)]
    assert told == [
        (pb.GAP_RESTART, last, started + 1, 0),
        (pb.GAP_UNREADABLE, started, started + 5000, 5),
    ], "between them they hold every moment without a row"
    await buffer.close()
    buffer = await box.open()
    assert len(await gaps(buffer)) == 2, "told once"
    await buffer.close()


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_second_kill_before_a_silent_sensor_answers_tells_no_moment_twice(box: Box, sealed: bool) -> None:
    buffer = await box.open()
    box.row(1)
    last = box.clock.mono
    for _ in range(2):
        await buffer.flush()
        await box.kill()
        box.clock.mono += 60_000
        buffer = await box.open()
        began = box.clock.mono
        box.clock.mono += 5000
        buffer.lost(box.ids[0], Lost(began, box.clock.mono, 5, pb.GAP_UNREADABLE))
        if sealed:
            await buffer._seal_urgent()
    await buffer._seal_urgent()
    told = [(g.from_mono_ms, g.to_mono_ms) for g in await gaps(buffer) if g.reason == pb.GAP_RESTART]
    assert told == ([(last, last + 60_001), (last + 60_000, last + 125_001)] if sealed else [(last, last + 125_001)])
    await buffer.close()


async def test_no_row_is_kept_without_the_gap_before_it(box: Box) -> None:
    """A kill after the first row reached the tail and before the restart gap reached the store."""
    await box.open()
    box.row(1)
    last = box.clock.mono
    await box.buffer.flush()
    await box.kill()
    box.clock.mono += 60_000
    buffer = await box.open()
    box.row(2)
    first = box.clock.mono
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    (gap,) = await gaps(buffer)
    assert (gap.reason, gap.group, gap.from_mono_ms, gap.to_mono_ms) == (pb.GAP_RESTART, box.ids[0], last, first)
    assert await values(buffer) == [0.1, 0.2]
    await box.kill()
    buffer = await box.open()
    assert len(await gaps(buffer)) == 1, "recovered twice"
    await buffer.close()


async def test_a_gap_that_was_sealed_before_the_kill_is_not_recovered_again(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    before = box.clock.mono
    buffer.lost(box.ids[0], Lost(before, before + 1000, 3, pb.GAP_UNREADABLE))
    box.row(2)
    await buffer.flush()  # the tail has both
    await buffer._seal_urgent()
    buffer.lost(box.ids[0], Lost(before + 1000, before + 2000, 4, pb.GAP_UNREADABLE))
    box.row(3)
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    assert [(g.from_mono_ms, g.count) for g in await gaps(buffer)] == [(before, 3), (before + 1000, 4)]
    await buffer.close()


async def test_a_hole_in_the_tail_is_recorded_with_the_rows_after_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of recovering, the next start would no longer see the hole."""
    buffer = await box.open()
    for n in range(3):
        box.row(n)
        buffer._writer.forget()
        await buffer.flush()
    await box.kill()
    tail = box.folder / "tail-0.log"
    data = bytearray(tail.read_bytes())
    data[data.find(b"\xb1\xc0", MARK_BYTES + 8) + 30] ^= 0xFF  # inside the second record
    tail.write_bytes(data)
    with monkeypatch.context() as patched:
        patched.setattr(DiskBuffer, "_commit_declared", _killed)
        with pytest.raises(RuntimeError, match="killed"):
            await box.open()
        box.buffer._store.close()
        for thread in box.buffer._threads.values():
            thread.shutdown()
    buffer = await box.open()
    assert [g.reason for g in await gaps(buffer)] == [pb.GAP_UNREADABLE]
    assert await values(buffer) == [0.0, 0.2]
    await buffer.close()


def _killed(*_: object, **__: object) -> None:
    raise RuntimeError("killed")


async def test_a_clean_stop_leaves_no_gap(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.close()
    buffer = await box.open()
    box.row(2)
    await buffer.seal()
    assert await gaps(buffer) == []
    assert await values(buffer) == [0.1, 0.2]
    await buffer.close()


async def test_opens_counts_every_start_and_the_run_id_tells_them_apart(box: Box) -> None:
    first = (await box.open()).opening
    await box.buffer.close()
    second = (await box.open()).opening
    assert (first.opens, second.opens) == (1, 2)
    assert first.epoch == second.epoch
    assert first.run_id != second.run_id
    assert first.boot == second.boot == 1
    await box.buffer.close()


async def test_another_boot_gets_its_own_ordinal_and_its_own_batches(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.flush()
    await box.kill()
    box.clock = TurnedClock(mono=5_000, boot=b"c" * 16)
    buffer = await box.open()
    box.row(2)
    await buffer.seal()
    schema = {d.schema: d for d in await buffer.schemas()}
    boots = []
    from protos import columns

    for batch in await batches(buffer):
        body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
        compiled = columns.Schema.from_declare(schema[batch.schema])
        boots.append(columns.decode(compiled, body, count=batch.count).boot)
    assert boots == [1, 2]
    (gap,) = await gaps(buffer)
    assert (gap.from_boot, gap.to_boot) == (1, 2)
    await buffer.close()


async def test_acknowledged_batches_are_not_leased_again_and_survive_a_restart_as_such(box: Box) -> None:
    buffer = await box.open()
    for n in range(4):
        box.row(n)
        await buffer.seal()
    await buffer.ack(pb.TELEMETRY, Ranges([(1, 2), (4, 4)]))
    assert [b.seq for b in await batches(buffer)] == [3]
    await buffer.close()
    buffer = await box.open()
    assert [b.seq for b in await batches(buffer)] == [3]
    assert (await buffer.views())[1].held == Ranges([(1, 4)])
    await buffer.close()


async def test_an_ack_of_what_was_never_sent_is_not_believed(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.seal()
    await buffer.ack(pb.TELEMETRY, Ranges([(1, 99)]))
    box.row(2)
    await buffer.seal()
    assert [b.seq for b in await batches(buffer)] == [2]
    await buffer.close()


async def test_a_rejected_batch_is_set_aside_and_leaves_a_gap(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.seal()
    await buffer.reject(pb.TELEMETRY, 1, "crc wrong twice")
    assert await batches(buffer) == []
    (gap,) = await gaps(buffer)
    assert (gap.reason, gap.count, [(r.first, r.last) for r in gap.seqs]) == (pb.GAP_REJECTED, 2, [(1, 1)])
    rows = buffer._store._db.execute("SELECT seq, reason, count FROM set_aside").fetchall()
    assert rows == [(1, "crc wrong twice", 2)]
    await buffer.close()


async def test_bytes_damaged_at_rest_are_set_aside_and_the_rest_goes_on(box: Box) -> None:
    buffer = await box.open()
    for n in range(2):
        box.row(n)
        await buffer.seal()
    buffer._store._db.execute("UPDATE batch SET body = x'00ff' WHERE seq = 1 AND lane = 0")
    assert [b.seq for b in await batches(buffer)] == [2]
    (gap,) = await gaps(buffer)
    assert gap.reason == pb.GAP_UNREADABLE
    await buffer.close()


async def test_at_the_byte_limit_acknowledged_batches_go_first_then_the_oldest_in_doubt_with_a_gap(
    tmp_path: Path,
) -> None:
    box = Box(tmp_path / "buffer", settings=BufferSection(limit_mb=2.0))
    noise = GroupShape(sensor="noise", period_ms=1000, series=tuple(SeriesShape(name=f"n{i}") for i in range(50)))
    buffer = await box.open([noise])
    sent = 0
    import random

    rng = random.Random(7)
    while sent < 60:
        for _ in range(100):
            box.clock.mono += 1000
            buffer.append(box.ids[0], Row(box.clock.mono, tuple(rng.getrandbits(50) for _ in range(50))))
        await buffer.seal()
        sent += 1
        if sent == 10:
            await buffer.ack(pb.TELEMETRY, Ranges([(1, 5)]))
    await batches(buffer)  # sent, and no Welcome since: nothing here may be thinned
    await buffer.tidy()
    held = [b.seq for b in await batches(buffer)]
    assert buffer.usage().bytes_on_disk <= 2_000_000
    assert held[-1] == 60
    assert held[0] > 6
    lost = [g for g in await gaps(buffer) if g.reason == pb.GAP_DROPPED]
    gone = {seq for g in lost for r in g.seqs for seq in range(r.first, r.last + 1)}
    assert gone == set(range(6, held[0]))
    assert sum(g.count for g in lost) == buffer.usage().dropped_readings == len(gone) * 5000
    await buffer.close()


async def test_a_full_disk_stops_no_driver_and_what_went_is_counted(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MAX_UNSEALED_READINGS", 200)
    buffer = await box.open()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(buffer._tail, "append", full)
        patch.setattr(buffer._store, "seal", full)
        for n in range(500):
            box.row(n)
            if n % 20 == 0:
                await buffer.flush()
                with pytest.raises(OSError, match="No space"):
                    await buffer.seal()
    await buffer.seal()
    kept = [round(v * 10) for v in await values(buffer) if isinstance(v, float)]
    lost = [g for g in await gaps(buffer) if g.reason == pb.GAP_DROPPED]
    assert kept == list(range(500 - len(kept), 500))
    assert sum(g.count for g in lost) == 500 - len(kept) > 0
    await buffer.close()


async def test_a_damaged_store_is_set_aside_by_name_and_what_is_readable_is_kept(box: Box) -> None:
    buffer = await box.open()
    for n in range(300):
        box.row(n)
        if n % 3 == 2:
            await buffer.seal()
    epoch = buffer.opening.epoch
    await buffer.close()
    path = box.folder / "sealed.db"
    data = bytearray(path.read_bytes())
    data[100:108] = b"\xff" * 8  # page 1's header: not openable as it stands
    path.write_bytes(bytes(data))
    buffer = await box.open()
    assert list(box.folder.glob("sealed.db.damaged-*"))
    box.row(300)
    await buffer.seal()
    assert buffer.opening.epoch != epoch or len(await values(buffer)) > 0
    assert (await values(buffer))[-1] == 30.0
    await buffer.close()


async def test_a_damaged_tail_loses_only_the_damaged_records_and_what_was_relative_to_them(box: Box) -> None:
    buffer = await box.open()
    for n in range(FULL_EVERY + 3):
        box.row(n)
        await buffer.flush()
    path = box.folder / f"tail-{buffer._tail.end.generation & 1}.log"
    await box.kill()
    path = box.folder / path.name
    data = bytearray(path.read_bytes())
    data[MARK_BYTES + 100] ^= 0xFF  # inside the second record
    path.write_bytes(bytes(data))
    buffer = await box.open()
    assert await values(buffer) == [0.0] + [n / 10 for n in range(FULL_EVERY, FULL_EVERY + 3)]
    assert list(box.folder.glob("tail-*.log.damaged-*"))
    assert [g.reason for g in await gaps(buffer)] == [pb.GAP_UNREADABLE]
    await buffer.close()


async def test_a_torn_last_record_is_overwritten(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.flush()
    box.row(2)
    await buffer.flush()
    end = buffer._tail.end
    await box.kill()
    path = box.folder / f"tail-{end.generation & 1}.log"
    data = bytearray(path.read_bytes())
    data[end.offset - 30 : end.offset] = bytes(30)
    path.write_bytes(bytes(data))
    buffer = await box.open()
    box.row(3)
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [0.1, 0.3]
    await buffer.close()


async def test_a_row_its_declaration_forbids_is_refused_with_a_gap_and_costs_nobody_else(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    buffer.append(box.ids[0], Row(box.clock.mono + 1, ("warm", 1)))
    box.row(2)
    await buffer.seal()
    assert await values(buffer) == [0.1, 0.2]
    assert [(g.reason, g.count) for g in await gaps(buffer)] == [(pb.GAP_REFUSED, 1)]
    await buffer.close()


async def test_a_durable_receipt_survives_what_was_not_flushed_yet(box: Box) -> None:
    buffer = await box.open()
    box.clock.mono += 1
    await buffer.append(box.ids[0], Row(box.clock.mono, (5, 1))).durable()
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [0.5]
    await buffer.close()


async def test_an_event_is_durable_before_its_receipt_says_so(box: Box) -> None:
    buffer = await box.open()
    loops = asyncio.create_task(buffer.run())
    await buffer.event(pb.EVENT_FIELD_ACT, b"delivered").durable()
    (batch,) = await batches(buffer, pb.URGENT)
    assert batch.seq == 1
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    await buffer.close()


async def test_a_changed_group_gets_a_new_id_and_an_unchanged_one_keeps_its_own(box: Box) -> None:
    await box.open([COOLING, METER])
    cooling, meter = box.ids
    await box.buffer.close()
    changed = GroupShape(sensor="meter", period_ms=1000, series=(SeriesShape(name="power", exp=2),))
    await box.open([COOLING, changed])
    assert box.ids[0] == cooling
    assert box.ids[1] not in {cooling, meter}
    assert [d.schema for d in await box.buffer.schemas()] == [1, 2]
    await box.buffer.close()
    await box.open([COOLING, changed])
    assert [d.schema for d in await box.buffer.schemas()] == [1, 2]
    await box.buffer.close()


async def test_references_and_scales_are_learnt_once_and_values_stay_exact(box: Box) -> None:
    buffer = await box.open([COOLING, METER])
    for n in range(20):
        box.row(200 + n)
        buffer.append(box.ids[1], Row(box.clock.mono, (230.1 + n / 10,)))
    await buffer.seal()
    declares = await buffer.schemas()
    assert [d.schema for d in declares] == [1, 2]
    assert declares[1].groups[0].series[0].ref in range(200, 220)
    assert not declares[1].groups[1].series[0].raw
    found = await blocks(buffer)
    assert found[0].columns[0] == [(200 + n) / 10 for n in range(20)]
    assert found[1].columns[0] == [230.1 + n / 10 for n in range(20)]
    buffer.append(box.ids[1], Row(box.clock.mono + 1, (1 / 3,)))
    await buffer.flush()
    await box.kill()
    buffer = await box.open([COOLING, METER])
    assert (await blocks(buffer))[-1].columns[0] == [1 / 3]
    assert [d.schema for d in await buffer.schemas()] == [1, 2]
    await buffer.close()


async def test_a_telemetry_batch_says_how_far_the_urgent_lane_is_complete(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.seal()
    buffer.lost(box.ids[0], Lost(box.clock.mono, box.clock.mono + 5, 3, pb.GAP_UNREADABLE))
    box.row(2)
    await buffer.seal()
    assert [b.urgent_seq for b in await batches(buffer)] == [0, 1]
    assert [b.seq for b in await batches(buffer, pb.URGENT)] == [1]
    await buffer.close()


@pytest.mark.parametrize("sql", ["UPDATE lane SET acked = x'0102'", "UPDATE schema SET body = x'ffff'"])
async def test_facts_that_make_no_sense_are_set_aside_by_name_and_the_start_goes_on(box: Box, sql: str) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.close()
    with sqlite3.connect(box.folder / "sealed.db") as db:
        db.execute(sql)
    db.close()
    buffer = await box.open()
    box.row(2)
    await buffer.seal()
    assert (await values(buffer))[-1] == 0.2
    assert list(box.folder.glob("sealed.db.damaged-*"))
    await buffer.close()


async def test_an_emptied_store_is_damage_and_not_a_fresh_start(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.close()
    (box.folder / "sealed.db").write_bytes(b"")
    buffer = await box.open()
    assert list(box.folder.glob("sealed.db.damaged-*"))
    assert list(box.folder.glob("tail-*.log.damaged-*"))
    await buffer.close()


async def test_a_locked_store_is_not_damage(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = await box.open()
    await buffer.close()
    monkeypatch.setattr("gateway.buffer.sealed.BUSY_MS", 50)
    with sqlite3.connect(box.folder / "sealed.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        again = Box(box.folder, box.clock)
        with pytest.raises(OSError, match="locked"):
            await again.open()
        for thread in again.buffer._threads.values():
            thread.shutdown()
        other.execute("ROLLBACK")
    other.close()
    assert not list(box.folder.glob("sealed.db.damaged-*"))


async def test_nothing_is_written_while_nothing_is_read(box: Box) -> None:
    buffer = await box.open()
    box.row(1)
    await buffer.seal()
    await buffer.tidy()
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in box.folder.iterdir()}
    loops = asyncio.create_task(buffer.run())
    buffer.batch_interval_s = 0.1
    await asyncio.sleep(0.5)
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in box.folder.iterdir()}
    assert after == before
    await buffer.close()


async def test_the_first_rows_of_an_opening_are_sealed_without_waiting_for_the_interval(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LOOK_EVERY_S", 0.01)
    buffer = await box.open()
    buffer.batch_interval_s = 3600
    loops = asyncio.create_task(buffer.run())
    await asyncio.sleep(0.05)
    for n in range(3):
        box.row(n)
        await asyncio.sleep(0.3)
    assert await values(buffer) == [0.0]
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    await buffer.close()


async def test_a_batch_is_sealed_at_its_size_so_that_memory_stays_bounded(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "SEAL_AT_READINGS", 20)
    buffer = await box.open()
    for n in range(9):
        box.row(n)
    assert not buffer.wants_sealing()
    box.row(9)
    assert buffer.wants_sealing()
    await buffer.close()


# --- what is read changes while the buffer runs --------------------------------------------------------


async def test_groups_declared_later_get_new_ids_and_retired_ones_stay_declared(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open([COOLING])
    box.row(1)
    ids = await buffer.declare([METER])
    assert set(ids).isdisjoint(box.ids)
    buffer.append(ids[0], Row(box.clock.mono + 1000, (2.5,)))
    await buffer.seal()
    newest = (await buffer.schemas())[-1]
    assert {group.id: group.sensor for group in newest.groups} == {box.ids[0]: "cooling", ids[0]: "meter"}
    assert [block.columns[0] for block in await blocks(buffer)] == [[0.1], [2.5]]
    assert await buffer.declare([COOLING, METER]) == [box.ids[0], ids[0]]
    assert (await buffer.schemas())[-1] == newest
    await buffer.close()


async def test_rows_that_wait_when_a_group_is_declared_survive_a_kill(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open([COOLING])
    box.row(1)
    box.ids = await buffer.declare([COOLING, METER])
    box.row(2)
    buffer.append(box.ids[1], Row(box.clock.mono, (7.0,)))
    await buffer.flush()
    await box.kill()
    buffer = await box.open([COOLING, METER])
    assert {value for block in await blocks(buffer) for value in block.columns[0]} == {0.1, 0.2, 7.0}
    await buffer.close()


async def test_a_retired_group_is_in_no_restart_gap_neither_after_a_kill_nor_later(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open([COOLING, METER])
    box.row(1)
    buffer.append(box.ids[1], Row(box.clock.mono, (7.0,)))
    meter = box.ids[1]
    await buffer.declare([COOLING])
    for _ in range(2):
        box.row(2)
        await buffer.flush()
        await box.kill()
        buffer = await box.open([COOLING])
        box.row(3)
        await buffer.seal()
    found = await gaps(buffer)
    assert {gap.reason for gap in found} == {pb.GAP_RESTART}
    assert meter not in {gap.group for gap in found}
    await buffer.close()


async def test_a_group_retired_by_hand_is_in_one_restart_gap_only(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open([COOLING, METER])
    buffer.append(box.ids[1], Row(box.clock.mono + 5, (7.0,)))
    meter = box.ids[1]
    await buffer.seal()
    for _ in range(3):
        await box.kill()
        buffer = await box.open([COOLING])
    assert [gap.group for gap in await gaps(buffer)].count(meter) == 1
    await buffer.close()


async def test_a_group_retired_before_it_read_again_closes_its_restart_gap(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open([COOLING, METER])
    buffer.append(box.ids[1], Row(box.clock.mono + 5, (7.0,)))
    meter = box.ids[1]
    await buffer.seal()
    await box.kill()
    buffer = await box.open([COOLING, METER])
    await buffer.declare([COOLING])
    box.row(1)
    await buffer.close()
    buffer = await box.open([COOLING])
    assert [gap.group for gap in await gaps(buffer)].count(meter) == 1
    assert buffer._store.clean
    await buffer.close()


async def test_limits_can_change_while_it_runs(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()
    buffer.limit(BufferSection(limit_mb=7, seal_max_rows=1))
    box.row(1)
    assert buffer.wants_sealing()
    await buffer.tidy()
    assert buffer.usage().limit_bytes == 7_000_000
    await buffer.close()


# --- what a failing disk may not make untrue -----------------------------------------------------------


async def test_a_receipt_is_durable_only_when_both_files_of_the_tail_are_synced(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused sealing leaves rows in the file before the one that is written now."""
    buffer = await box.open()
    box.row(1)
    await buffer.flush()
    first = buffer._tail.end.generation & 1
    monkeypatch.setattr(buffer._store, "seal", _full)
    with pytest.raises(OSError, match="No space"):
        await buffer.seal()
    assert buffer._tail.end.generation & 1 != first
    synced: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    box.clock.mono += 1
    await buffer.append(box.ids[0], Row(box.clock.mono, (2, 0))).durable()
    assert set(synced) == set(buffer._tail._fds)
    await box.kill()


async def test_after_a_failed_sync_only_sealing_makes_a_row_durable(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of a page it could not write once, and the next sync of the same file succeeds."""
    monkeypatch.setattr(disk, "RETRY_S", 0.01)
    buffer = await box.open()
    box.clock.mono += 1
    receipt = buffer.append(box.ids[0], Row(box.clock.mono, (1, 0)))
    with monkeypatch.context() as patch:
        patch.setattr(buffer._tail, "sync", _full)
        patch.setattr(buffer._store, "seal", _full)
        waiting = asyncio.create_task(receipt.durable())
        await asyncio.sleep(0.05)
        patch.undo()
        patch.setattr(buffer._store, "seal", _full)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert buffer.refused()
        assert buffer.wants_sealing()
    await waiting
    assert [b.seq for b in await batches(buffer)] == [1]
    assert not buffer.refused()
    await buffer.close()


async def test_a_receipt_says_that_its_row_was_dropped(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MAX_UNSEALED_READINGS", 20)
    buffer = await box.open()
    with monkeypatch.context() as patch:
        patch.setattr(buffer._tail, "append", _full)
        receipts = []
        for n in range(11):
            box.clock.mono += 1000
            receipts.append(buffer.append(box.ids[0], Row(box.clock.mono, (n, 0))))
    with pytest.raises(Rejected, match="dropped"):
        await receipts[0].durable()
    await receipts[-1].durable()
    await buffer.close()


async def test_rows_that_outlast_a_drop_still_reach_the_tail(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MAX_UNSEALED_READINGS", 20)
    buffer = await box.open()
    with monkeypatch.context() as patch:
        patch.setattr(buffer._tail, "append", _full)
        for n in range(11):
            box.row(n)
            await buffer.flush()
    box.row(11)
    await buffer.flush()
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [n / 10 for n in range(5, 12)]
    assert [(g.reason, g.count) for g in await gaps(buffer)] == [(pb.GAP_DROPPED, 5)]
    await buffer.close()


async def test_a_hole_in_the_tail_is_a_gap_of_each_group_between_its_own_readings(box: Box) -> None:
    """A slow read is older than the quick ones handed over before it."""
    buffer = await box.open([COOLING, METER])
    box.row(0)
    buffer.append(box.ids[1], Row(box.clock.mono - 900, (0.0,)))
    await buffer.flush()
    box.row(1)
    await buffer.flush()
    lost_ms = box.clock.mono - 500
    buffer.append(box.ids[1], Row(lost_ms, (1.0,)))
    await buffer.flush()
    box.row(2)
    buffer.append(box.ids[1], Row(box.clock.mono - 400, (2.0,)))
    buffer._writer.forget()
    await buffer.flush()
    end = buffer._tail.end
    await box.kill()
    tail = box.folder / f"tail-{end.generation & 1}.log"
    data = bytearray(tail.read_bytes())
    third = [at for at in range(0, end.offset, 8) if data[at : at + 2] == b"\xb1\xc0"][3]
    data[third + 30] ^= 0xFF
    tail.write_bytes(data)
    buffer = await box.open([COOLING, METER])
    found = [g for g in await gaps(buffer) if g.reason == pb.GAP_UNREADABLE]
    assert {g.group for g in found} == set(box.ids)
    assert [g.from_mono_ms < lost_ms < g.to_mono_ms for g in found if g.group == box.ids[1]] == [True]
    await buffer.close()


async def test_a_gap_record_and_the_first_row_after_it_share_a_record_of_the_tail(box: Box) -> None:
    """Or a power cut could keep the row alone."""
    buffer = await box.open()
    box.row(1)
    buffer.lost(box.ids[0], Lost(box.clock.mono, box.clock.mono + 100, 1, pb.GAP_UNREADABLE))
    box.row(2)
    await buffer.flush()
    records = buffer._tail.scan(buffer._store.sealed_position())
    assert len([record for record in records if record.schema != witness.SCHEMA]) == 1
    await box.kill()
    buffer = await box.open()
    assert [(g.reason, g.count) for g in await gaps(buffer)] == [(pb.GAP_UNREADABLE, 1)]
    assert await values(buffer) == [0.1, 0.2]
    await buffer.close()


async def test_records_of_a_lost_store_are_never_taken_for_new_ones(box: Box) -> None:
    buffer = await box.open()
    for n in range(12):
        box.row(n)
        await buffer.flush()
        if n % 4 == 3:
            await buffer.seal()
    old = buffer._tail.end.generation
    assert old > 2
    box.row(99)
    await buffer.flush()
    await box.kill()
    for path in box.folder.glob("sealed.db*"):
        path.unlink()
    buffer = await box.open()
    assert buffer._tail.end.generation > old
    for n in range(3):
        box.row(n)
        await buffer.seal()
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [0.0, 0.1, 0.2]
    await buffer.close()


async def test_damage_found_while_it_runs_is_set_aside_at_the_next_start(box: Box) -> None:
    buffer = await box.open()
    for n in range(40):
        box.row(n)
        await buffer.seal()
    epoch = buffer.opening.epoch
    await buffer.close()
    path = box.folder / "sealed.db"
    data = bytearray(path.read_bytes())
    at = data.find((await _body(box))[:16])
    page = at // 1024 * 1024
    data[page : page + 8] = b"\x7f" * 8
    path.write_bytes(data)
    buffer = await box.open()
    with pytest.raises(OSError, match="malformed"):
        await batches(buffer)
    assert "malformed" in buffer.damaged()
    await buffer.close()
    buffer = await box.open()
    assert buffer.opening.epoch == epoch
    assert not buffer.damaged()
    assert 15 <= len(await batches(buffer)) < 40  # one page of three
    assert list(box.folder.glob("sealed.db.damaged-*"))
    await buffer.close()


async def test_a_salvage_cut_short_is_finished_by_the_next_start(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = await box.open()
    for n in range(3):
        box.row(n)
        await buffer.seal()
    epoch = buffer.opening.epoch
    await buffer.close()
    (box.folder / "sealed.db.suspect").touch()
    with monkeypatch.context() as patch:
        patch.setattr("gateway.buffer.salvage.finish", _killed)  # the damaged file has its new name, the copy not yet
        with pytest.raises(RuntimeError, match="killed"):
            Sealed.open(box.folder / "sealed.db", now_ms=1)
    buffer = await box.open()
    assert buffer.opening.epoch == epoch
    assert await values(buffer) == [0.0, 0.1, 0.2]
    await buffer.close()


async def test_a_block_of_the_tail_that_cannot_be_read_costs_only_its_own_rows(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of every start."""
    buffer = await box.open([TEXT])
    for n in range(9):
        box.clock.mono += 1000
        letters = "".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=2500))
        buffer.append(box.ids[0], Row(box.clock.mono, (n, letters)))
        await buffer.flush()
    await box.kill()
    real = os.pread

    def worn(fd: int, size: int, at: int) -> bytes:
        if at <= 8192 < at + size:
            raise OSError(5, "Input/output error")
        return real(fd, size, at)

    monkeypatch.setattr(os, "pread", worn)
    buffer = await box.open([TEXT])
    found = await values(buffer)
    assert 4 <= len(found) < 9
    assert [found[0], found[-1]] == [0, 8]
    assert [g.reason for g in await gaps(buffer)] == [pb.GAP_UNREADABLE]
    await buffer.close()


async def test_a_store_behind_what_the_tail_saw_committed_never_gives_a_number_twice(box: Box) -> None:
    """SQLite takes a damaged log for a shorter one, and opens without a word."""
    buffer = await box.open()
    for n in range(4):
        box.row(n)
        await buffer.seal()
    await box.kill()
    log = box.folder / "sealed.db-wal"
    data = log.read_bytes()
    log.write_bytes(data[: len(data) * 2 // 3])
    buffer = await box.open([COOLING, METER])
    assert list(box.folder.glob("sealed.db-wal.damaged-*"))
    assert (await buffer.views())[1].next_seq == 5
    assert len(await batches(buffer)) < 4
    box.row(9)
    await buffer.seal()
    assert (await batches(buffer))[-1].seq == 5
    assert {g.reason for g in await gaps(buffer)} == {pb.GAP_RESTART}
    numbers = [d.schema for d in await buffer.schemas()]
    assert len(set(numbers)) == len(numbers)
    await buffer.close()


async def _fallen_back(box: Box, act: Callable[[DiskBuffer], Awaitable[object]]) -> DiskBuffer:
    """The box opened again after the log lost what `act` committed."""
    await box.buffer.flush()
    log = box.folder / "sealed.db-wal"
    before = log.stat().st_size
    await act(box.buffer)
    assert log.stat().st_size > before
    await box.kill()
    with (box.folder / "sealed.db-wal").open("r+b") as file:
        file.truncate(before)
    return await box.open([COOLING, METER])


async def test_a_number_given_to_a_refusal_is_not_given_again(box: Box) -> None:
    await box.open([COOLING, METER])
    box.row(1)
    await box.buffer.seal()
    buffer = await _fallen_back(box, lambda buffer: buffer.reject(pb.TELEMETRY, 1, "over a limit"))
    assert list(box.folder.glob("sealed.db-wal.damaged-*"))
    assert [one.seq for one in await batches(buffer, pb.URGENT)] == [2], "what the store says of its damage"
    await buffer.close()


async def test_a_declaration_that_the_store_forgot_leaves_a_gap_of_everything(box: Box) -> None:
    """Rows of groups that it named may have been read, and nobody knows which."""
    await box.open()
    box.row(1)
    await box.buffer.seal()
    buffer = await _fallen_back(box, lambda buffer: buffer.declare([COOLING, METER]))
    assert [gap.group for gap in await gaps(buffer)] == [0]
    await buffer.close()


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


async def _body(box: Box) -> bytes:
    with sqlite3.connect(box.folder / "sealed.db") as db:
        (body,) = db.execute("SELECT body FROM batch WHERE lane = 0 AND seq = 20").fetchone()
    db.close()
    return bytes(body)
