"""What is resolved, how far a lane is complete, and what has vanished."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.projections import completeness
from control_plane.projections import projector as module
from control_plane.projections.completeness import MOST_MARKS, LaneProgress
from control_plane.store.tables import anchor, gap, integrity
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, batch, hello, ranges, urgent


def dropped(*pairs: tuple[int, int], count: int = 0) -> pb.Gap:
    return pb.Gap(seqs=ranges(pairs), reason=pb.GAP_DROPPED, count=count, from_boot=1, from_mono_ms=5, to_boot=1)


def test_the_watermark_is_that_of_the_contiguous_part(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10, complete=(1, 1000)), batch(3, 30, complete=(1, 3000)), batch(4, 40, complete=(1, 4000)))
    road.project()
    assert road.lane() == (1, (1, 1000))
    road.arrive(batch(2, 20, complete=(1, 2000)))
    road.project()
    assert road.lane() == (4, (1, 4000))


def test_what_a_hole_holds_back_survives_a_restart_of_the_worker(road: Road) -> None:
    road.declare()
    road.arrive(batch(2, 20, complete=(1, 2000)))
    road.project()
    road.projector = road.new_projector()
    road.arrive(batch(1, 10, complete=(1, 1000)))
    road.project()
    assert road.lane() == (2, (1, 2000))


def test_a_gap_record_resolves_what_it_names(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10, complete=(1, 1000)), batch(5, 50, complete=(1, 5000)), urgent(1, dropped((2, 4), count=7)))
    road.project()
    assert road.lane() == (5, (1, 5000))
    assert road.lane(pb.URGENT)[0] == 1
    (row,) = road.rows(gap)
    assert (row.gateway, row.epoch, row._mapping["count"], row.reason) == (GATEWAY, EPOCH, 7, pb.GAP_DROPPED)


def test_a_rejected_seq_is_resolved(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10), batch(3, 30, at_ms=3000))
    road.reject(2)
    road.project()
    assert road.lane() == (3, (1, 3000))


def test_a_heartbeat_moves_the_watermark_of_a_silent_lane(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10))
    road.heartbeat(1, 60_000)
    road.project()
    assert road.lane() == (1, (1, 60_000))
    road.arrive(batch(2, 20, at_ms=2000, complete=(1, 59_000)))  # an older word takes nothing back
    road.project()
    assert road.lane() == (2, (1, 60_000))


def test_a_heartbeat_above_a_hole_waits_for_it(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10, complete=(1, 1000)), batch(3, 30, complete=(1, 3000)))
    road.heartbeat(3, 60_000)
    road.project()
    assert road.lane() == (1, (1, 1000))
    road.arrive(batch(2, 20, complete=(1, 2000)))
    road.project()
    assert road.lane() == (3, (1, 60_000))


def test_anchors_are_facts_kept_once(road: Road) -> None:
    fact = pb.Anchor(boot=1, mono_ms=10, wall_ms=1_763_805_600_000, err_ms=12, source=pb.CLOCK_NTP)
    road.declare()
    road.arrive(urgent(1, fact), urgent(2, fact))
    road.project()
    assert [(row.boot, row.mono_ms, row.wall_ms, row.err_ms) for row in road.rows(anchor)] == [
        (1, 10, 1_763_805_600_000, 12)
    ]


def test_what_a_hello_leaves_unexplained_has_vanished(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10), batch(4, 40))
    road.hello(hello(telemetry=10, held=[(6, 8)]))
    road.project()
    assert road.gaps() == [("GAP_VANISHED", [(2, 3), (5, 5), (9, 9)])]
    assert road.lane()[0] == 5  # 6 to 8 are still to come
    (alert,) = road.rows(integrity)
    assert (alert.gateway, alert.kind) == (GATEWAY, "vanished")
    assert "4 batches vanished (seq 2-3, 5-5, 9-9)" in alert.text


def test_nothing_has_vanished_where_all_is_held_or_received(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10), batch(2, 20))
    road.hello(hello(telemetry=5, held=[(3, 4)]))
    road.project()
    assert road.gaps() == []


def test_vanished_waits_for_the_gap_records_that_urgent_still_holds(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 10))
    road.hello(hello(telemetry=4, urgent=2, urgent_held=[(1, 1)]))
    road.project()
    assert road.gaps() == []
    road.arrive(urgent(1, dropped((2, 3))))
    road.project()
    assert road.gaps() == [("GAP_DROPPED", [(2, 3)])]
    assert road.rows(integrity) == []


def test_vanished_is_decided_after_urgent_even_by_a_restarted_worker(road: Road) -> None:
    road.declare()
    road.hello(hello(telemetry=4, urgent=2, urgent_held=[(1, 1)]))
    road.project()
    road.projector = road.new_projector()
    road.arrive(urgent(1, dropped((1, 1))))
    road.project()
    assert road.gaps() == [("GAP_DROPPED", [(1, 1)]), ("GAP_VANISHED", [(2, 3)])]


def test_urgent_itself_can_vanish(road: Road) -> None:
    road.declare()
    road.hello(hello(telemetry=2, urgent=3))
    road.project()
    assert road.gaps() == [("GAP_VANISHED", [(1, 1)]), ("GAP_VANISHED", [(1, 2)])]
    assert road.lane(pb.URGENT)[0] == 2


@pytest.mark.parametrize(("limit", "value"), [("MAX_BATCHES", 2), ("MAX_READINGS", 2)])
def test_vanished_waits_until_the_journal_before_the_hello_is_projected(
    road: Road, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    road.declare()
    road.arrive(*[batch(seq, seq, seq) for seq in range(1, 8)])
    road.hello(hello(telemetry=8))
    assert road.projector.step()
    road.project()
    assert road.gaps() == []
    assert road.lane()[0] == 7


def test_gateways_do_not_mix(road: Road) -> None:
    road.declare()
    road.declare(gateway=OTHER)
    road.arrive(batch(1, 10))
    road.arrive(batch(1, 20), batch(2, 30, at_ms=2000), gateway=OTHER)
    road.project()
    assert (road.lane()[0], road.lane(gateway=OTHER)[0]) == (1, 2)
    assert (road.state()[1][2], road.state(OTHER)[1][2]) == (1.0, 3.0)


@pytest.mark.parametrize("most_marks", [0, 2, MOST_MARKS])
@given(order=st.permutations(range(1, 9)), as_gap=st.sets(st.integers(1, 8)))
def test_any_order_gives_the_same_watermark(most_marks: int, order: list[int], as_gap: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completeness, "MOST_MARKS", most_marks)
        _same_watermark(order, as_gap)


def test_days_of_new_data_beside_a_backlog_leave_few_promises() -> None:
    lane = LaneProgress()
    for seq in range(1001, 3001):
        lane.promise(seq, (1, seq))
        lane.resolve(seq)
        lane.promise(seq, (1, seq + 1))  # a heartbeat
    assert len(lane.marks) <= MOST_MARKS + 1
    lane.resolve(1, 999)
    assert lane.complete == (0, 0)
    lane.resolve(1000)
    assert (lane.cum, lane.complete) == (3000, (1, 3001))


def _same_watermark(order: list[int], as_gap: set[int]) -> None:
    lane = LaneProgress()
    for seq in order:
        if seq not in as_gap:
            lane.promise(seq, (1, seq * 10))
        lane.resolve(seq)
        contiguous = next(n for n in range(9) if n + 1 not in order[: order.index(seq) + 1])
        promised = [n * 10 for n in range(1, contiguous + 1) if n not in as_gap]
        assert (lane.cum, lane.complete) == (contiguous, (1, max(promised)) if promised else (0, 0))
    assert lane.marks == {}
