"""What the URGENT lane does when its share of the disk runs out: nothing goes, less is written, field events wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.buffer import ledger
from gateway.buffer.disk import DiskBuffer
from gateway.errors import Rejected
from gateway.reading import Lost
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import Box, batches, gaps

LIMIT_MB = 0.008


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "buffer", settings=BufferSection(urgent_limit_mb=LIMIT_MB))
    await box.open()
    yield box
    await box.buffer.close()


async def fill(box: Box, share: float) -> None:
    """Events that nobody waits for, until so much of the quota is used."""
    while box.buffer._quota.used_bytes < share * LIMIT_MB * 1e6:
        box.clock.mono += 1000
        box.buffer.event(pb.EVENT_INTEGRITY, b"x" * 300)
        await box.buffer._seal_urgent()


def alarm(box: Box, kind: pb.EventKind.ValueType, *, quantity: str = "temperature") -> None:
    box.clock.mono += 1000
    said = pb.Condition(name="warm", quantity=quantity, value=9, limit=8, since_mono_ms=box.clock.mono)
    box.buffer.event(kind, said.SerializeToString(), group=box.ids[0], severity=pb.SEVERITY_ALARM)


async def events(buffer: DiskBuffer, *kinds: pb.EventKind.ValueType) -> list[pb.Event]:
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    found = []
    for batch in await batches(buffer, pb.URGENT):
        body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
        found += [event for _, event in columns.decode(schemas[batch.schema], body, count=batch.count).events]
    return [event for event in found if event.kind in kinds]


@pytest.mark.parametrize("kind", [pb.EVENT_FIELD_ACT, pb.EVENT_PAIRING])
async def test_at_the_limit_a_field_event_is_refused_before_it_is_acknowledged(
    box: Box, kind: pb.EventKind.ValueType
) -> None:
    await fill(box, 1.0)
    with pytest.raises(Rejected, match="keep this one and send it again"):
        box.buffer.event(kind, b"delivered")
    await box.buffer._seal_urgent()
    assert await events(box.buffer, kind) == []


async def test_what_waits_to_be_sealed_counts_too(box: Box) -> None:
    for _ in range(16):
        box.buffer.event(pb.EVENT_FIELD_ACT, b"x" * 400)
    with pytest.raises(Rejected):
        box.buffer.event(pb.EVENT_FIELD_ACT, b"x" * 400)
    await box.buffer._seal_urgent()
    assert len(await events(box.buffer, pb.EVENT_FIELD_ACT)) == 16


async def test_gap_records_and_anchors_are_taken_whatever_the_quota(box: Box) -> None:
    await fill(box, 1.1)
    box.buffer.event(pb.EVENT_ANCHOR, pb.Anchor(boot=1).SerializeToString())
    box.buffer.lost(box.ids[0], Lost(5, 9, 3, pb.GAP_UNREADABLE))
    await box.buffer._seal_urgent()
    assert len(await events(box.buffer, pb.EVENT_ANCHOR)) == 1
    assert [gap.count for gap in await gaps(box.buffer)] == [3]


async def test_a_delivered_lane_takes_field_events_again(box: Box) -> None:
    await fill(box, 1.0)
    newest = box.buffer._store.lanes[pb.URGENT].next_seq - 1
    await box.buffer.ack(pb.URGENT, Ranges([(1, newest)]))
    await box.buffer.tidy()
    assert box.buffer.usage().urgent_bytes == 0  # what is kept for a restored server goes first
    await asyncio.gather(box.buffer.event(pb.EVENT_FIELD_ACT, b"delivered").durable(), box.buffer._seal_urgent())


async def test_below_half_every_alarm_is_sealed_by_itself(box: Box) -> None:
    for _ in range(3):
        alarm(box, pb.EVENT_ALARM_RAISED)
        alarm(box, pb.EVENT_ALARM_CLEARED)
    await box.buffer._seal_urgent()
    assert len(await events(box.buffer, pb.EVENT_ALARM_RAISED, pb.EVENT_ALARM_CLEARED)) == 6


async def test_above_half_repeated_alarms_of_one_key_become_first_last_and_count(box: Box) -> None:
    await fill(box, 0.6)
    box.buffer._urgent.news.clear()
    alarm(box, pb.EVENT_ALARM_RAISED)
    first_ms = box.clock.mono
    assert box.buffer._urgent.news.is_set()  # what is new goes at once
    await box.buffer._seal_urgent()
    box.buffer._urgent.news.clear()
    for _ in range(4):
        alarm(box, pb.EVENT_ALARM_CLEARED)
        alarm(box, pb.EVENT_ALARM_RAISED)
    alarm(box, pb.EVENT_ALARM_RAISED, quantity="humidity")
    await box.buffer._seal_urgent()
    first, repeated, other = await events(box.buffer, pb.EVENT_ALARM_RAISED, pb.EVENT_ALARM_CLEARED)
    assert pb.Condition.FromString(first.detail).count == 0
    said = pb.Condition.FromString(repeated.detail)
    assert repeated.kind == pb.EVENT_ALARM_RAISED
    assert (said.count, said.first_mono_ms, said.since_mono_ms) == (8, first_ms + 1000, first_ms + 8000)
    assert pb.Condition.FromString(other.detail).quantity == "humidity"


async def test_above_half_what_repeats_is_sealed_within_a_minute_and_not_before(box: Box) -> None:
    await fill(box, 0.6)
    alarm(box, pb.EVENT_ALARM_RAISED)
    await box.buffer._seal_urgent()
    box.buffer._urgent.news.clear()
    alarm(box, pb.EVENT_ALARM_CLEARED)
    box.buffer.lost(box.ids[0], Lost(5, 9, 3, pb.GAP_UNREADABLE))
    assert not box.buffer._urgent.news.is_set()
    assert not box.buffer._urgent.due(box.clock.mono)
    assert box.buffer._urgent.due(box.clock.mono + 60_000)
    alarm(box, pb.EVENT_ALARM_RAISED)
    box.clock.mono += 60_000
    alarm(box, pb.EVENT_ALARM_CLEARED)
    assert box.buffer._urgent.news.is_set()


async def test_a_joined_alarm_tells_everyone_who_waits_that_it_is_durable(box: Box) -> None:
    await fill(box, 0.6)
    alarm(box, pb.EVENT_ALARM_RAISED)
    await box.buffer._seal_urgent()
    detail = pb.Condition(name="warm", quantity="temperature").SerializeToString()
    receipts = [box.buffer.event(pb.EVENT_ALARM_CLEARED, detail, group=box.ids[0]) for _ in range(3)]
    await asyncio.gather(*(receipt.durable() for receipt in receipts), box.buffer._seal_urgent())


async def test_above_half_gap_records_that_are_near_are_one_and_completeness_waits_for_them(box: Box) -> None:
    await fill(box, 0.6)
    start = box.clock.mono
    for n in range(5):
        box.buffer.lost(box.ids[0], Lost(start + 10_000 * n, start + 10_000 * n + 2000, 2, pb.GAP_UNREADABLE))
    box.buffer.lost(box.ids[0], Lost(start + 500_000, start + 501_000, 7, pb.GAP_UNREADABLE))
    box.row(1, after_ms=600_000)
    await box.buffer.seal()
    near, far = await gaps(box.buffer)
    assert (near.from_mono_ms, near.to_mono_ms, near.count, near.count_exact) == (start, start + 42_000, 10, True)
    assert far.count == 7


async def test_usage_and_restart_know_what_the_lane_takes(box: Box) -> None:
    await fill(box, 1.0)
    await box.buffer.tidy()
    usage = box.buffer.usage()
    assert usage.urgent_limit_bytes == 8000
    assert usage.urgent_bytes >= 8000
    await box.kill()
    buffer = await box.open()
    with pytest.raises(Rejected):
        buffer.event(pb.EVENT_FIELD_ACT, b"delivered")


def test_gaps_are_not_joined_over_a_boot_or_another_reason() -> None:
    def gap(boot: int, at_ms: int, reason: pb.GapReason.ValueType = pb.GAP_UNREADABLE) -> pb.Gap:
        return ledger.lost_gap(1, boot, Lost(at_ms, at_ms + 10, 1, reason))

    some = [gap(1, 0), gap(1, 50), gap(2, 60), gap(1, 100, pb.GAP_REFUSED)]
    assert [g.count for g in ledger.coalesce(some, near_ms=1000)] == [2, 1, 1]
    assert [g.count for g in ledger.coalesce(some)] == [1, 1, 1, 1]
