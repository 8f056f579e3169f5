"""What goes first when space runs out, and that it is accounted for to the row."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import pytest

from gateway.buffer import balance, thinning
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.disk import DiskBuffer
from gateway.buffer.sealed import Sealed
from gateway.buffer.thinning import HIGH, LOW, NORMAL, Rows
from gateway.reading import GroupShape, Row, SeriesShape
from protos import columns
from protos.columns import ColumnSpec, DecodedBlock, GroupColumns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import Box, gaps, plain

MINUTE_MS, TEN_MS = thinning.STEPS_MS
CARGO = {"role": "cargo_temperature"}
TANK = GroupShape(sensor="tank", period_ms=1000, series=tuple(SeriesShape(name=f"t{i}", exp=2) for i in range(3)))
CARGO_BOX = GroupShape(sensor="cargo", period_ms=1000, series=(SeriesShape(name="temperature", exp=2, attrs=CARGO),))
FAN = GroupShape(
    sensor="fan", period_ms=1000, series=(SeriesShape(name="rpm"), SeriesShape(name="on", type=pb.VT_BOOL))
)


# --- which rows stay -----------------------------------------------------------------------------------


def rows(
    values: Sequence[object], codes: Sequence[int] = (), *, every_ms: int = 1000, type_: int = pb.VT_FLOAT64
) -> Rows:
    spec = ColumnSpec(id=1, name="n", type=pb.ValueType.ValueType(type_))
    made = Rows(GroupColumns(id=1, sensor="s", period_ms=every_ms, late_source=False, columns=(spec,)))
    times = [MINUTE_MS + every_ms * row for row in range(len(values))]
    made.add(DecodedBlock(1, times, [list(values)], [list(codes)] if codes else None))  # type: ignore[arg-type]
    return made


def test_the_extremes_and_the_last_of_a_minute_stay() -> None:
    assert thinning.kept_rows(rows([5.0, 9.0, 1.0, 5.0, 4.0]), MINUTE_MS) == [1, 2, 4]


def test_every_minute_keeps_its_own() -> None:
    values = [float(row % 7) for row in range(180)]
    kept = thinning.kept_rows(rows(values), MINUTE_MS)
    for start in (0, 60, 120):
        stay = [values[row] for row in kept if start <= row < start + 60]
        assert (min(stay), max(stay), stay[-1]) == (0.0, 6.0, values[start + 59])


def test_a_change_of_quality_stays_and_good_extremes_are_not_hidden_by_bad_ones() -> None:
    bad = pb.QUALITY_OUT_OF_RANGE
    codes = [0, 0, 0, bad, bad, 0, 0, 0]
    assert thinning.kept_rows(rows([1, 7, 3, 900, 901, 3, 3, 3], codes), MINUTE_MS) == [0, 1, 3, 4, 5, 7]


def test_values_that_are_not_there_and_no_numbers_hide_no_extreme() -> None:
    absent = pb.QUALITY_BAD_COMM
    assert thinning.kept_rows(rows([None, 4.0, 2.0, 3.0], [absent, 0, 0, 0]), MINUTE_MS) == [0, 1, 2, 3]
    assert thinning.kept_rows(rows([math.nan, 4.0, 2.0, 3.0, math.nan, 3.0]), MINUTE_MS) == [1, 2, 5]


def test_a_text_stays_where_it_changes() -> None:
    assert thinning.kept_rows(rows(["a", "a", "b", "b", "a", "a"], type_=pb.VT_STRING), MINUTE_MS) == [2, 4, 5]


def test_rows_that_came_out_of_order_are_thinned_by_their_times() -> None:
    made = rows([1.0, 2.0, 3.0])
    made.add(DecodedBlock(1, [MINUTE_MS + 500], [[9.0]]))
    made.sort()
    assert made.columns == [[1.0, 9.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("stage", "low", "normal", "high"),
    [
        (1, MINUTE_MS, None, None),
        (2, MINUTE_MS, MINUTE_MS, None),
        (3, MINUTE_MS, MINUTE_MS, MINUTE_MS),
        (4, TEN_MS, MINUTE_MS, MINUTE_MS),
        (5, TEN_MS, TEN_MS, MINUTE_MS),
        (6, TEN_MS, TEN_MS, TEN_MS),
    ],
)
def test_the_lowest_class_goes_first(stage: int, low: int | None, normal: int | None, high: int | None) -> None:
    assert [thinning.every_ms(stage, class_) for class_ in (LOW, NORMAL, HIGH)] == [low, normal, high]


# --- in the buffer -------------------------------------------------------------------------------------


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "buffer")
    yield box
    await box.buffer.close()


async def produce(box: Box, seconds: int, rng: random.Random, *, seal_every_s: int = 600) -> list[tuple[int, Row]]:
    """So many seconds of every group, sealed every ten minutes; returns (group, row)."""
    made: list[tuple[int, Row]] = []
    widths = [len(shape.series) for shape in SHAPES]
    for second in range(seconds):
        box.clock.mono += 1000
        box.clock.wall += 1000
        for group, width in zip(box.ids, widths, strict=True):
            values = tuple(2000 + rng.randint(-200, 200) if not i else rng.randint(0, 1) for i in range(width))
            row = Row(box.clock.mono, values)
            box.buffer.append(group, row)
            made.append((group, row))
        if second % seal_every_s == seal_every_s - 1:
            await box.buffer.seal()
    await box.buffer.seal()
    return made


SHAPES = (TANK, CARGO_BOX, FAN)


def at_rest(buffer: DiskBuffer) -> list[SealedBatch]:
    """What the store holds, without being sent."""
    whole, damaged = buffer._store.lease(pb.TELEMETRY, 0, 100_000)
    assert not damaged
    return whole


async def found(buffer: DiskBuffer, batches: Iterable[SealedBatch]) -> tuple[dict[int, list[int]], list[pb.Gap]]:
    """(times per group, gap records inside)."""
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    times: dict[int, list[int]] = {}
    inside: list[pb.Gap] = []
    for batch in batches:
        decoded = columns.decode(schemas[batch.schema], await plain(buffer, batch), count=batch.count)
        for block in decoded.blocks:
            times.setdefault(block.group, []).extend(block.times)
        inside += [pb.Gap.FromString(event.detail) for _, event in decoded.events]
    return times, inside


async def squeeze(box: Box, share: float) -> None:
    """Leave it so much of what its batches take now."""
    box.buffer._store.checkpoint()
    used = box.buffer._bytes()
    box.buffer._limit_bytes = used - round((1 - share) * sum(len(batch.body) for batch in at_rest(box.buffer)))
    await box.buffer.tidy()
    assert box.buffer.usage().bytes_on_disk <= box.buffer._limit_bytes


async def test_a_thinned_batch_says_what_it_stands_for_and_what_went(box: Box) -> None:
    buffer = await box.open(SHAPES)
    made = await produce(box, 3600, random.Random(1))
    before = {batch.seq for batch in at_rest(buffer)}
    await squeeze(box, 0.7)
    after = at_rest(buffer)
    thinned = [batch for batch in after if batch.replaces]
    assert thinned
    assert min(batch.seq for batch in thinned) > max(before)
    stood_for = {seq for batch in thinned for first, last in batch.replaces for seq in range(first, last + 1)}
    assert stood_for | {batch.seq for batch in after} >= before
    assert not stood_for & {batch.seq for batch in after}
    times, inside = await found(buffer, after)
    for group in box.ids:
        produced = [row.mono_ms for other, row in made if other == group]
        gone = sum(gap.count for gap in inside if gap.group == group)
        assert len(times[group]) + gone == len(produced)
        assert set(times[group]) <= set(produced)
        assert len(set(times[group])) == len(times[group])
    assert {(gap.reason, gap.lane, gap.count_exact) for gap in inside} == {(pb.GAP_THINNED, pb.TELEMETRY, True)}
    assert thinned[0].envelope(7).replaces == [pb.Range(first=f, last=t) for f, t in thinned[0].replaces]


async def test_hello_names_what_a_held_batch_stands_for_as_held(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 3600, random.Random(1))
    await squeeze(box, 0.6)
    (view,) = [view for view in await buffer.views() if view.lane == pb.TELEMETRY]
    assert list(view.held) == [(1, view.next_seq - 1)]


async def test_a_thinned_batch_is_complete_no_further_than_its_lane(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 3600, random.Random(1))
    said = max((batch.complete_boot, batch.complete_mono_ms) for batch in at_rest(buffer))
    await squeeze(box, 0.6)
    assert {(b.complete_boot, b.complete_mono_ms) for b in at_rest(buffer) if b.replaces} == {said}


async def test_cargo_temperature_outlasts_the_rest_and_a_low_class_goes_first(box: Box) -> None:
    buffer = await box.open(SHAPES)
    buffer.limit(BufferSection(), {"fan": LOW})
    await produce(box, 3600, random.Random(1))
    await squeeze(box, 0.9)
    times, inside = await found(buffer, at_rest(buffer))
    assert {gap.group for gap in inside} == {box.ids[2]}
    await squeeze(box, 0.7)
    times, inside = await found(buffer, at_rest(buffer))
    assert {gap.group for gap in inside} == {box.ids[0], box.ids[2]}
    assert len(times[box.ids[1]]) == 3600


async def test_every_value_that_stays_is_what_was_read_to_the_bit(box: Box) -> None:
    shape = GroupShape(
        sensor="odd",
        period_ms=1000,
        series=(
            SeriesShape(name="raw", raw=True),
            SeriesShape(name="scaled", scale=0.1, offset=-40.0),
            SeriesShape(name="count", type=pb.VT_UINT64),
            SeriesShape(name="words", type=pb.VT_STRING),
        ),
    )
    buffer = await box.open([shape])
    rng = random.Random(3)
    read = {}
    for second in range(3600):
        box.clock.mono += 1000
        values = (rng.random(), rng.randint(0, 900) if second % 50 else 0.123, (1 << 64) - rng.randint(1, 9), "on")
        quality = (0, pb.QUALITY_UNCERTAIN, 0, 0) if second % 400 < 40 else None
        if second % 100 == 0:
            values, quality = (*values[:3], None), (0, 0, 0, pb.QUALITY_BAD_SENSOR)  # type: ignore[assignment]
        read[box.clock.mono] = (values, quality)
        buffer.append(box.ids[0], Row(box.clock.mono, values, quality))
        if second % 600 == 599:
            await buffer.seal()
    spec = columns.Schema.from_declare((await buffer.schemas())[-1]).groups[box.ids[0]].columns[1]
    await squeeze(box, 0.6)
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    seen = 0
    for batch in at_rest(buffer):
        (block,) = columns.decode(schemas[batch.schema], await plain(buffer, batch), count=batch.count).blocks
        for row, at in enumerate(block.times):
            values, quality = read[at]
            assert [column[row] for column in block.columns] == [
                values[0],
                columns.from_wire(spec, [values[1]])[0] if not spec.raw else values[1],
                values[2],
                values[3],
            ]
            codes = [codes[row] if codes else 0 for codes in block.quality or [None] * 4]
            assert codes == list(quality or (0, 0, 0, 0))
            seen += 1
    assert 300 < seen < 3000


async def test_what_may_have_been_sent_is_not_thinned_until_a_welcome(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 3600, random.Random(1))
    await buffer.lease(pb.TELEMETRY, 0, 3)
    await squeeze(box, 0.85)
    assert [batch.seq for batch in at_rest(buffer)][:3] == [1, 2, 3]
    assert any(batch.replaces for batch in at_rest(buffer))
    await buffer.welcomed(1, {})
    await squeeze(box, 0.7)
    assert 1 not in {batch.seq for batch in at_rest(buffer)}


async def test_what_may_have_been_sent_is_remembered_over_a_kill_and_a_box_without_a_link_goes_on_thinning(
    box: Box,
) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 1800, random.Random(1))
    await buffer.lease(pb.TELEMETRY, 0, 1)  # sent; the acknowledgement never came
    await box.kill()
    buffer = await box.open(SHAPES)
    known = [batch.seq for batch in at_rest(buffer)]
    await produce(box, 3600, random.Random(2))
    await squeeze(box, 0.7)
    held = at_rest(buffer)
    assert [batch.seq for batch in held][: len(known)] == known  # in doubt, all that was sealed by then
    assert any(batch.replaces for batch in held)


async def test_acknowledged_batches_go_before_anything_is_thinned(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 3600, random.Random(1))
    await buffer.ack(pb.TELEMETRY, Ranges([(1, 3)]))
    await squeeze(box, 0.8)
    assert not any(batch.replaces for batch in at_rest(buffer))
    assert buffer.usage().thinned_readings == 0


async def test_thinned_twice_is_one_batch_with_one_record_of_all_that_went(box: Box) -> None:
    buffer = await box.open(SHAPES)
    made = await produce(box, 2 * 3600, random.Random(1))
    for share in (0.6, 0.6, 0.5):
        await squeeze(box, share)
    batches = at_rest(buffer)
    times, inside = await found(buffer, batches)
    for group in box.ids:
        assert len(times[group]) + sum(g.count for g in inside if g.group == group) == len(made) / len(box.ids)
    covered = Ranges(pair for batch in batches for pair in batch.replaces)
    covered.update(Ranges((batch.seq, batch.seq) for batch in batches))
    assert list(covered) == [(1, batches[-1].seq)]
    assert not any(gap.reason == pb.GAP_DROPPED for gap in await gaps(buffer))
    (thinned,) = {buffer.usage().thinned_readings}
    widths = dict(zip(box.ids, (3, 1, 2), strict=True))
    assert thinned == sum(gap.count * widths[gap.group] for gap in inside)


async def test_dropping_a_thinned_batch_accounts_for_all_it_stood_for(box: Box) -> None:
    buffer = await box.open(SHAPES)
    made = await produce(box, 2 * 3600, random.Random(1))
    buffer._limit_bytes = 0
    await buffer.tidy()
    assert at_rest(buffer) == []
    dropped = [gap for gap in await gaps(buffer) if gap.reason == pb.GAP_DROPPED]
    assert sum(gap.count for gap in dropped) == sum(len(row.values) for _, row in made)
    named = Ranges((r.first, r.last) for gap in dropped for r in gap.seqs)
    (view,) = [view for view in await buffer.views() if view.lane == pb.TELEMETRY]
    assert list(named) == [(1, view.next_seq - 1)]


async def test_a_rejected_thinned_batch_takes_what_it_stood_for_into_its_gap(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 3600, random.Random(1))
    await squeeze(box, 0.6)
    thinned = next(batch for batch in at_rest(buffer) if batch.replaces)
    await buffer.reject(pb.TELEMETRY, thinned.seq, "crc wrong twice")
    (gap,) = [gap for gap in await gaps(buffer) if gap.reason == pb.GAP_REJECTED]
    named = {seq for r in gap.seqs for seq in range(r.first, r.last + 1)}
    assert named == {thinned.seq} | {s for first, last in thinned.replaces for s in range(first, last + 1)}


async def test_rows_of_another_boot_or_schema_are_thinned_apart(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 1800, random.Random(1))
    await buffer.close()
    box.clock.boot, box.clock.mono = b"c" * 16, 5000
    buffer = await box.open(SHAPES)
    await produce(box, 1800, random.Random(2))
    await squeeze(box, 0.5)
    boots = set()
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    for batch in at_rest(buffer):
        boots.add(columns.decode(schemas[batch.schema], await plain(buffer, batch), count=batch.count).boot)
    assert boots == {1, 2}


async def test_damaged_bytes_are_not_made_into_readings(box: Box) -> None:
    buffer = await box.open(SHAPES)
    made = await produce(box, 3600, random.Random(1))
    query = "SELECT segment, body_at, body_size FROM batch WHERE lane = 0 AND seq = 2"
    segment, first, size = buffer._store.query(query).fetchone()
    path = box.folder / f"bodies-{segment}.seg"
    data = bytearray(path.read_bytes())
    for at in range(first + 40, first + size - 40, 97):
        data[at] ^= 1
    path.write_bytes(data)
    await buffer._in("store", buffer._thinner.step)
    whole, damaged = buffer._store.lease(pb.TELEMETRY, 0, 100_000)
    assert [batch.seq for batch in damaged] == [2]
    times, inside = await found(buffer, whole)
    for group in box.ids:
        produced = sum(other == group for other, _ in made)
        assert len(times[group]) + sum(g.count for g in inside if g.group == group) == produced - 600


async def test_a_kill_while_it_thins_leaves_one_or_the_other(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = await box.open(SHAPES)
    made = await produce(box, 3600, random.Random(1))
    removed = Sealed._remove

    def refuse(store: Sealed, *args: object) -> object:
        removed(store, *args)  # type: ignore[arg-type]
        raise OSError("killed here")

    before = [batch.crc32 for batch in at_rest(buffer)]
    monkeypatch.setattr(Sealed, "_remove", refuse)
    buffer._limit_bytes = 1
    with pytest.raises(OSError, match="killed here"):
        await buffer.tidy()
    monkeypatch.undo()
    await box.kill()
    buffer = await box.open(SHAPES)
    assert [batch.crc32 for batch in at_rest(buffer)] == before
    times, _ = await found(buffer, at_rest(buffer))
    assert sum(map(len, times.values())) == len(made)


async def test_a_step_is_short(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 3 * 3600, random.Random(1))
    steps: list[float] = []
    step = buffer._thinner.step

    def timed() -> bool:
        started = time.thread_time()
        try:
            return step()
        finally:
            steps.append(time.thread_time() - started)

    buffer._thinner.step = timed  # type: ignore[method-assign]
    await squeeze(box, 0.6)
    assert steps
    assert max(steps) < 0.5  # 0.05 on a machine that has nothing else to do


async def test_rows_are_written_while_a_step_takes_its_time(box: Box) -> None:
    buffer = await box.open(SHAPES)
    await produce(box, 600, random.Random(1))
    begun, end = threading.Event(), threading.Event()

    def slow() -> bool:
        begun.set()
        end.wait(10)
        return False

    buffer._thinner.step = slow  # type: ignore[method-assign]
    buffer._limit_bytes = 1
    tidying = asyncio.create_task(buffer.tidy())
    await asyncio.to_thread(begun.wait, 10)
    box.row(1, group=2)
    await buffer.flush()
    assert not buffer._unflushed
    assert not tidying.done()
    end.set()
    await tidying


async def test_a_thinned_batch_keeps_what_it_stands_for_over_a_change_of_epoch(box: Box) -> None:
    """Its own name changes, what it replaces has numbers of the epoch before: Hello says them, the batch no more."""
    buffer = await box.open(SHAPES)
    await produce(box, 3600, random.Random(1))
    await squeeze(box, 0.85)
    replaced = Ranges(span for batch in at_rest(buffer) for span in batch.replaces)
    bodies = [batch.body for batch in at_rest(buffer)]
    assert replaced
    await buffer.begin_epoch({})
    assert [batch.body for batch in at_rest(buffer)] == bodies
    assert [batch.seq for batch in at_rest(buffer)] == list(range(1, len(bodies) + 1))
    assert not any(batch.replaces for batch in at_rest(buffer))
    (moved,) = [one for one in (await buffer.descent()).moved if one.lane == pb.TELEMETRY]
    assert moved.replaced == replaced
    telemetry = (await buffer.views())[1]
    assert list(telemetry.held) == [(1, len(bodies))]
    await squeeze(box, 0.6)
    assert all(last <= telemetry.next_seq for batch in at_rest(buffer) for _, last in batch.replaces)


async def test_the_ledger_counts_each_row_once_however_often_it_is_thinned_and_then_dropped(box: Box) -> None:
    buffer = await box.open(SHAPES)
    made = await produce(box, 2 * 3600, random.Random(3))
    for share in (0.8, 0.5, 0.5, 0.0):
        if share:
            await squeeze(box, share)
        else:
            buffer._limit_bytes = 1
            await buffer.tidy()
        lines = balance.ledger(box.folder)
        assert sum(line.produced for line in lines) == sum(line.read for line in lines) == len(made)
        assert all(line.delivered == 0 for line in lines), "what went was counted as delivered"
        lost = Counter[str]()
        for line in lines:
            lost.update({reason: count for reason, count in line.lost.items() if count})
        assert set(lost) == ({"thinned"} if share else {"dropped"})
    assert sum(line.waiting for line in lines) == 0
    assert lost["dropped"] == len(made)
