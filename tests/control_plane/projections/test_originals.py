"""Whatever of a stretch comes, whole or thinned and in which order: each reading counts and shows once."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from control_plane.store.tables import gap, state
from protos.columns import Block, Schema, encode
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.conftest import START_MS
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import batch, declare, hello, ranges, urgent
from tests.gateway.buffer.boxes import Box
from tests.gateway.buffer.test_thinning import SHAPES, at_rest, produce, squeeze

LAST_MS = START_MS + 3_600_000
FIRST = tuple(range(100, 110))
SECOND = tuple(range(200, 210))


@pytest.fixture(params=[False, True], ids=["batches", "chunks"])
def road(road: Road, request: pytest.FixtureRequest) -> Road:
    """Whether read from batches or from chunks, it is the same."""
    road.sealing = request.param
    return road


def anchored() -> pb.Batch:
    return urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5, source=pb.CLOCK_NTP))


def whole(seq: int) -> pb.Batch:
    """Batch 1 holds ten seconds from 1000 ms on, batch 2 the next ten."""
    return batch(1, *FIRST, at_ms=1000) if seq == 1 else batch(2, *SECOND, at_ms=11_000)


def record(count: int, *, group: int = 1, to_ms: int = 21_000) -> tuple[int, pb.Event]:
    said = pb.Gap(
        group=group,
        from_boot=1,
        from_mono_ms=1001,
        to_boot=1,
        to_mono_ms=to_ms,
        count=count,
        count_exact=True,
        reason=pb.GAP_THINNED,
    )
    return to_ms, pb.Event(group=group, kind=pb.EVENT_GAP, detail=said.SerializeToString())


def made(seq: int, rows: dict[int, int], *, gone: int, replaces: Sequence[tuple[int, int]]) -> pb.Batch:
    """A thinned batch: mono ms → tenths of what stayed, and how many rows went."""
    block = Block(1, list(rows), [list(rows.values())])
    schema = Schema.from_declare(declare())
    body, count = encode(schema, boot=1, blocks=[block], events=[record(gone)])
    result = batch(seq, complete=(1, 20_000))
    result.body, result.count, result.body_len, result.crc32 = body, count, len(body), zlib.crc32(body)
    result.replaces.extend(ranges(replaces))
    return result


def thinned() -> pb.Batch:
    """First and last of each of both: 4 rows of 20."""
    return made(3, {1000: 100, 10_000: 109, 11_000: 200, 20_000: 209}, gone=16, replaces=[(1, 2)])


def thinned_again() -> pb.Batch:
    """First and last of all."""
    return made(4, {1000: 100, 20_000: 209}, gone=18, replaces=[(1, 3)])


def shown(road: Road) -> list[float]:
    return [10 * value for _, value in road.temperatures(from_ms=START_MS, to_ms=LAST_MS)]


def counted(road: Road) -> int:
    (row,) = road.rows(state)
    return int(row.readings)


def lost(road: Road) -> list[int]:
    """What the gap records that stand say, in rows."""
    return [row._mapping["count"] for row in road.rows(gap) if row.joined_to is None]


def test_thinned_alone_shows_what_stayed_and_says_what_went(road: Road) -> None:
    road.declare()
    road.arrive(anchored(), thinned())
    road.project()
    assert shown(road) == [100, 109, 200, 209]
    assert (counted(road), lost(road)) == (4, [16])
    assert road.lane() == (3, (1, 20_000))  # what it stands for is resolved


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))), ids=str)
def test_originals_win_whenever_they_come(road: Road, order: tuple[int, ...]) -> None:
    road.declare()
    road.arrive(anchored())
    for seq in order:
        road.arrive(thinned() if seq == 3 else whole(seq))
        road.project()
    assert shown(road) == [*FIRST, *SECOND]
    assert (counted(road), lost(road)) == (20, [])
    assert road.state()[1] == (1, 20_000, 20.9)


@pytest.mark.parametrize("order", [(1, 3), (3, 1)], ids=str)
def test_of_half_of_the_originals_the_gap_keeps_the_other_half(road: Road, order: tuple[int, ...]) -> None:
    road.declare()
    road.arrive(anchored())
    for seq in order:
        road.arrive(thinned() if seq == 3 else whole(seq))
        road.project()
    assert shown(road) == [*FIRST, 200, 209]
    assert (counted(road), lost(road)) == (12, [8])


@pytest.mark.parametrize("order", [(1, 3, 4), (4, 3, 1), (3, 1, 4)], ids=str)
def test_thinned_twice_and_both_sent_is_as_one(road: Road, order: tuple[int, ...]) -> None:
    """Of 18 rows that went with batch 4, 16 had gone with batch 3 already, and half of those came with batch 1."""
    road.declare()
    road.arrive(anchored())
    come = {1: whole(1), 3: thinned(), 4: thinned_again()}
    for seq in order:
        road.arrive(come[seq])
        road.project()
    assert shown(road) == [*FIRST, 200, 209]
    assert (counted(road), lost(road)) == (12, [8])


def test_a_restarted_worker_goes_on_correcting(road: Road) -> None:
    road.declare()
    road.arrive(anchored(), thinned())
    road.project()
    road.projector = road.new_projector()
    road.arrive(whole(1))
    road.project()
    road.projector = road.new_projector()
    road.arrive(whole(2))
    road.project()
    assert (counted(road), lost(road)) == (20, [])


def test_projecting_everything_anew_gives_the_same(road: Road) -> None:
    road.declare()
    road.arrive(anchored(), whole(2), thinned(), whole(1))
    road.project()
    before = [(counted(road), lost(road), shown(road))]
    road.wipe()
    road.projector = road.new_projector()
    road.project()
    assert [(counted(road), lost(road), shown(road))] == before


def test_what_a_held_batch_stands_for_has_not_vanished(road: Road) -> None:
    road.declare()
    road.hello(hello(telemetry=4, urgent=2, held=[(1, 3)], urgent_held=[(1, 1)]))
    road.arrive(anchored())
    road.project()
    assert lost(road) == []
    road.arrive(thinned())
    road.project()
    assert lost(road) == [16]


def test_a_thinned_batch_that_cannot_be_decoded_takes_what_it_stood_for_into_its_gap(road: Road) -> None:
    broken = thinned()
    broken.count = 99
    road.declare()
    road.arrive(broken)
    road.project()
    assert road.gaps() == [("GAP_UNDECODABLE", [(1, 3)])]
    assert road.lane()[0] == 3


def test_ranges_that_make_no_sense_name_nothing(road: Road) -> None:
    odd = batch(1, 10, at_ms=1000)
    odd.replaces.add(first=9, last=2)
    odd.replaces.add(first=5, last=1 << 63)
    road.declare()
    road.arrive(odd)
    road.project()
    assert road.lane()[0] == 1
    assert counted(road) == 1


async def test_what_a_gateway_really_thinned_balances_alone_and_with_its_originals(road: Road, tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open(SHAPES)
    try:
        produced = await produce(box, 1800, random.Random(5), seal_every_s=300)
        epoch = buffer.opening.epoch
        originals = [one.envelope(epoch) for one in at_rest(buffer)]
        await squeeze(box, 0.5)
        sent = [one.envelope(epoch) for one in at_rest(buffer)]
        road.hello(hello(epoch=epoch))
        for said in await buffer.schemas():
            road.declare(said)
    finally:
        await buffer.close()
    readings = sum(len(row.values) for _, row in produced)
    road.arrive(*sent)
    road.project()
    assert any(one.replaces for one in sent)
    widths = dict(zip(box.ids, map(len, (shape.series for shape in SHAPES)), strict=True))
    gone = sum(row._mapping["count"] * widths[row.group_id] for row in road.rows(gap))
    assert gone > 0
    assert counted(road) + gone == readings
    assert road.lane()[0] == max(one.seq for one in sent)
    road.arrive(*(one for one in originals if one.seq not in {other.seq for other in sent}))
    road.project()
    assert (counted(road), lost(road)) == (readings, [])
