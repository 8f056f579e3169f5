from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, update

from control_plane.projections.placing import Placing, share
from control_plane.projections.walltime import DRIFT, load_all
from control_plane.reconcile.watermark import watermark_ms
from control_plane.store.tables import gateway
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.conftest import START_MS
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import EPOCH, GATEWAY, batch, urgent

HOLD_S = 3600.0
HOUR_MS = 3_600_000
PAUSES = st.lists(st.tuples(st.integers(0, 10 * HOUR_MS), st.integers(0, 1000 * HOUR_MS)), min_size=1, max_size=5)


@given(PAUSES, st.integers(0, 10 * HOUR_MS), st.floats(-DRIFT, DRIFT))
def test_the_truth_is_always_within_the_error_and_the_order_is_kept(
    boots: list[tuple[int, int]], last_pause_ms: int, drift: float
) -> None:
    """Boots that began after a pause each and lasted so long by their own clock, which was off."""
    lasted = [length for _, length in boots]
    steps = [(pause, length * (1 + drift)) for pause, length in boots]
    ends = list(accumulate(pause + length for pause, length in steps))
    truths = [end - length for end, (_, length) in zip(ends, steps, strict=True)]
    places = share(lasted, after_ms=0, before_ms=round(ends[-1]) + last_pause_ms)
    for place, truth in zip(places, truths, strict=True):
        assert abs(place.wall_ms - truth) <= place.err_ms
    for one, following, length in zip(places, places[1:], lasted, strict=False):
        assert following.wall_ms >= one.wall_ms + length - 1


def placing(road: Road) -> Placing:
    return Placing(stores=road.stores, clock=road.clock, hold_max_s=HOLD_S)


def enrolled(road: Road, at_ms: int) -> None:
    row = {"id": GATEWAY, "name": "", "hardware": "", "serial": "", "signing_key": b"", "created_ms": at_ms}
    with road.stores.business.write() as connection:
        connection.execute(insert(gateway).values(row | {"enrolled_ms": at_ms}))


def anchored(seq: int, boot: int, wall_ms: int, *, mono_ms: int = 0) -> pb.Batch:
    anchor = pb.Anchor(boot=boot, mono_ms=mono_ms, wall_ms=wall_ms, err_ms=10, source=pb.CLOCK_SERVER)
    return urgent(seq, anchor, boot=boot, complete=(boot, 60_000))


def mark(road: Road) -> int | None:
    with road.stores.telemetry.read() as connection:
        return watermark_ms(connection, GATEWAY)


def place(road: Road, boot: int) -> tuple[int, int] | None:
    """Wall time and error of its mono_ms 0."""
    with road.stores.telemetry.read() as connection:
        wall = load_all(connection, GATEWAY).get((EPOCH, boot))
    return (wall.wall(0), wall.err_ms(0)) if wall else None


@pytest.fixture
def between(road: Road) -> Road:
    """Boots 1 and 4 have anchors, 2 and 3 between them have none."""
    road.declare()
    road.arrive(anchored(1, 1, START_MS), batch(1, 1, 2, at_ms=10_000))
    road.arrive(batch(2, 3, 4, at_ms=5000, boot=2), batch(3, 5, 6, at_ms=5000, boot=3))
    road.arrive(anchored(2, 4, START_MS + HOUR_MS), batch(4, 7, 8, at_ms=30_000, boot=4))
    road.project()
    return road


def test_two_boots_without_time_lie_between_their_neighbours_once_nobody_will_know_better(between: Road) -> None:
    placing(between).step()
    assert place(between, 2) is None
    assert mark(between) == START_MS + 11_000, "it does not pass a boot that has no place yet"
    between.clock.forward(seconds=HOLD_S)
    placing(between).step()
    first, second = place(between, 2), place(between, 3)
    assert first is not None
    assert second is not None
    assert first[0] >= START_MS + 11_000
    assert first[0] + 6000 <= second[0]
    assert second[0] + 6000 <= START_MS + HOUR_MS + 20
    assert first[1] == second[1] == pytest.approx((HOUR_MS - 11_000 - 12_000) / 2, abs=30)
    found = between.temperatures(from_ms=START_MS, to_ms=START_MS + 2 * HOUR_MS)
    assert [value for _, value in found] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert mark(between) == START_MS + HOUR_MS + 31_000


def test_an_anchor_that_comes_later_wins_and_the_neighbour_moves(between: Road) -> None:
    between.clock.forward(seconds=HOLD_S)
    placing(between).step()
    before = place(between, 3)
    between.arrive(anchored(3, 2, START_MS + 30 * 60_000))
    between.project()
    assert place(between, 2) == (START_MS + 30 * 60_000, 10)
    placing(between).step()
    after = place(between, 3)
    assert before is not None
    assert after is not None
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_the_first_boot_of_all_lies_after_the_enrolment(road: Road) -> None:
    enrolled(road, START_MS)
    road.declare()
    road.arrive(batch(1, 1, at_ms=5000), anchored(1, 2, START_MS + HOUR_MS), batch(2, 2, at_ms=7000, boot=2))
    road.project()
    assert mark(road) is None
    road.clock.forward(seconds=HOLD_S)
    placing(road).step()
    found = place(road, 1)
    assert found is not None
    assert found[0] - found[1] <= START_MS <= found[0]
    assert mark(road) == START_MS + HOUR_MS + 7000


def test_the_last_boot_of_a_retired_gateway_does_not_wait(road: Road) -> None:
    enrolled(road, START_MS)
    road.declare()
    road.arrive(batch(1, 1, at_ms=5000))
    road.project()
    placing(road).step()
    assert place(road, 1) is None, "it may still get an anchor"
    with road.stores.business.write() as connection:
        connection.execute(update(gateway).values(retired_ms=START_MS + HOUR_MS))
    placing(road).step()
    found = place(road, 1)
    assert found is not None
    assert found[0] - found[1] <= START_MS <= found[0] <= START_MS + HOUR_MS


def test_placing_again_changes_nothing(between: Road) -> None:
    between.clock.forward(seconds=HOLD_S)
    placing(between).step()
    before = between.everything()
    between.clock.forward(seconds=5)
    placing(between).step()
    assert between.everything() == before
