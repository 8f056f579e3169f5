"""GET /readings as its view answers, over a projected journal."""

from __future__ import annotations

import pytest

from control_plane.api.problems import Problem
from control_plane.api.readings import ReadingsQuery, ReadingsRoutes, SeriesGap
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.conftest import START_MS
from tests.control_plane.projections.conftest import Road, moment
from tests.control_plane.sealing import GATEWAY, batch, ranges, urgent

PROBE = f"{GATEWAY}/probe/temperature"
DOOR = f"{GATEWAY}/door/open"
LAST_MS = START_MS + 3_600_000


@pytest.fixture(params=[False, True], ids=["batches", "chunks"])
def road(road: Road, request: pytest.FixtureRequest) -> Road:
    """Whether read from batches or from chunks, it is the same."""
    road.sealing = request.param
    return road


def anchor(mono_ms: int, wall_ms: int, *, boot: int = 1, err_ms: int = 5) -> pb.Anchor:
    return pb.Anchor(boot=boot, mono_ms=mono_ms, wall_ms=wall_ms, err_ms=err_ms, source=pb.CLOCK_NTP)


def test_readings_come_in_wall_time_sorted_whatever_their_arrival(road: Road) -> None:
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(2, 30, 40, at_ms=3000), batch(1, 10, 20, at_ms=1000))
    road.project()
    answer = road.readings(PROBE, from_ms=START_MS, to_ms=LAST_MS)
    (found,) = answer.series
    assert found.times_ms == [START_MS + ms for ms in (1000, 2000, 3000, 4000)]
    assert found.values == [1.0, 2.0, 3.0, 4.0]
    assert found.quality == ["good"] * 4
    assert (found.unit, found.clock_err_ms, answer.resolution) == (
        "Cel",
        6,
        "raw",
    )  # 5 of the anchor, and the drift of 4 s


def test_what_was_known_at_an_instant_is_without_what_came_later(road: Road) -> None:
    def known(as_of_ms: int) -> list[object]:
        routes = ReadingsRoutes(telemetry=road.stores.telemetry, reader=road.reader(), clock=road.clock)
        query = ReadingsQuery(series=[PROBE], from_=moment(START_MS), to=moment(LAST_MS), as_of=moment(as_of_ms))
        answer = routes.readings(query)
        assert answer.as_of == moment(as_of_ms)
        assert isinstance(answer.series[0].values, list)
        return list(answer.series[0].values)

    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(2, 30, 40, at_ms=3000))
    first_ms = road.clock.now_ms()
    road.clock.forward(seconds=7200)
    road.arrive(batch(1, 10, 20, at_ms=1000))
    later_ms = road.clock.now_ms()
    road.project()
    assert known(first_ms - 1) == []
    assert known(first_ms) == known(later_ms - 1) == [3.0, 4.0]
    assert known(later_ms) == [1.0, 2.0, 3.0, 4.0]


def test_the_end_is_excluded_and_the_start_included(road: Road) -> None:
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(1, 10, 20, 30, at_ms=0))
    road.project()
    assert road.temperatures(from_ms=START_MS + 1000, to_ms=START_MS + 2000) == [(START_MS + 1000, 2.0)]


def test_types_come_back_as_declared(road: Road) -> None:
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(1, 1, 0, at_ms=0, group=2))
    road.project()
    (found,) = road.readings(DOOR, from_ms=START_MS, to_ms=LAST_MS).series
    assert found.values == [True, False]


def test_a_late_anchor_makes_its_boots_readings_readable(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10, 20, at_ms=1000))
    road.project()
    assert road.temperatures(from_ms=START_MS, to_ms=LAST_MS) == []
    road.arrive(urgent(1, anchor(500_000, START_MS + 500_000)))
    road.project()
    assert road.temperatures(from_ms=START_MS, to_ms=LAST_MS) == [(START_MS + 1000, 1.0), (START_MS + 2000, 2.0)]


def test_two_boots_are_placed_by_their_own_anchors(road: Road) -> None:
    road.declare()
    road.arrive(
        urgent(1, anchor(0, START_MS + 10_000), anchor(0, START_MS, boot=2)),
        batch(1, 10, at_ms=0),
        batch(2, 20, at_ms=0, boot=2),
    )
    road.project()
    assert road.temperatures(from_ms=START_MS, to_ms=LAST_MS) == [(START_MS, 2.0), (START_MS + 10_000, 1.0)]


def test_between_two_anchors_time_is_stretched(road: Road) -> None:
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS), anchor(10_000, START_MS + 10_100)), batch(1, 10, at_ms=5000))
    road.project()
    assert road.temperatures(from_ms=START_MS, to_ms=LAST_MS) == [(START_MS + 5050, 1.0)]


def test_a_clock_put_back_hides_no_reading(road: Road) -> None:
    """The second anchor corrects the first by minus an hour."""
    road.declare()
    road.arrive(
        urgent(1, anchor(0, START_MS + 3_600_000), anchor(60_000, START_MS + 60_000)),
        *[batch(seq, seq, at_ms=seq * 10_000) for seq in range(1, 12)],
    )
    road.project()
    found = road.temperatures(from_ms=START_MS, to_ms=LAST_MS + 60_000)
    assert sorted(value for _, value in found) == [seq / 10 for seq in range(1, 12)]
    late = road.temperatures(from_ms=START_MS + 60_000, to_ms=START_MS + 120_000)
    assert [value for _, value in late] == [0.6, 0.7, 0.8, 0.9, 1.0, 1.1]


def test_max_points_chooses_the_shortest_step_that_fits(road: Road) -> None:
    tenths = list(range(600))
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(1, *tenths, at_ms=0))
    road.project()
    to_ms = START_MS + 600_000
    assert road.readings(PROBE, from_ms=START_MS, to_ms=to_ms, max_points=600).resolution == "raw"
    assert road.readings(PROBE, from_ms=START_MS, to_ms=to_ms, max_points=599).resolution == "5s"
    answer = road.readings(PROBE, from_ms=START_MS, to_ms=to_ms, max_points=10)
    (found,) = answer.series
    assert answer.resolution == "1m"
    assert found.times_ms == [START_MS + 60_000 * minute for minute in range(10)]
    assert found.count == [60] * 10
    assert isinstance(found.min, list)
    assert isinstance(found.mean, list)
    assert found.min[1] == 6.0
    assert found.mean[1] == pytest.approx(8.95)
    assert isinstance(found.max, list)
    assert isinstance(found.last, list)
    assert (found.max[1], found.last[1]) == (11.9, 11.9)


def test_coverage_is_what_came_of_what_was_to_come(road: Road) -> None:
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS)), batch(1, *range(30), at_ms=0))
    road.project()
    (found,) = road.readings(PROBE, from_ms=START_MS, to_ms=START_MS + 60_000).series
    assert found.coverage == 0.5


def test_gaps_are_placed_in_wall_time_across_boots_and_cut_to_the_question(road: Road) -> None:
    gap = pb.Gap(group=1, from_boot=1, from_mono_ms=5000, to_boot=2, to_mono_ms=1000, reason=pb.GAP_RESTART)
    other = pb.Gap(group=2, from_boot=1, from_mono_ms=1, to_boot=1, to_mono_ms=2, reason=pb.GAP_SILENT)
    road.declare()
    road.arrive(
        urgent(1, anchor(0, START_MS), anchor(0, START_MS + 60_000, boot=2), gap, other), batch(1, 10, at_ms=5000)
    )
    road.project()
    answer = road.readings(PROBE, from_ms=START_MS, to_ms=LAST_MS)
    assert answer.gaps == [SeriesGap(PROBE, START_MS + 5000, START_MS + 61_000, "restart")]
    cut = road.readings(PROBE, from_ms=START_MS + 10_000, to_ms=START_MS + 20_000)
    assert cut.gaps == [SeriesGap(PROBE, START_MS + 10_000, START_MS + 20_000, "restart")]
    assert road.readings(PROBE, from_ms=START_MS + 61_000, to_ms=LAST_MS).gaps == []


def test_a_gap_of_all_groups_is_every_series_gap(road: Road) -> None:
    gap = pb.Gap(from_boot=1, from_mono_ms=10, to_boot=1, to_mono_ms=20, reason=pb.GAP_DROPPED, seqs=ranges([(2, 2)]))
    road.declare()
    road.arrive(urgent(1, anchor(0, START_MS), gap), batch(1, 10))
    road.project()
    found = road.readings(PROBE, DOOR, from_ms=START_MS, to_ms=LAST_MS).gaps
    assert [(one.series, one.reason) for one in found] == [(PROBE, "dropped"), (DOOR, "dropped")]


def test_an_unknown_series_is_said(road: Road) -> None:
    with pytest.raises(Problem, match="no series"):
        road.readings("gw-x/y/z", from_ms=START_MS, to_ms=LAST_MS)
