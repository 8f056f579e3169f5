"""The books of an epoch that is over, and of the one that took over."""

from __future__ import annotations

from control_plane.projections.completeness import CompletenessProjection
from control_plane.reconcile.watermark import watermark_ms
from control_plane.store.tables import gap, integrity, progress
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import EPOCH, GATEWAY, batch, declare, hello, ranges, urgent

NEXT = 0x1234


def successor(*moved: tuple[int, int], urgent_moved: tuple[int, int] | None = None, agreed: int = 100) -> wire.Hello:
    """Of a store that gave the predecessor's seqs new numbers and has sealed nothing since."""
    count = sum(last - first + 1 for first, last in moved)
    said = hello(epoch=NEXT, telemetry=count + 1, urgent=1, held=[(1, count)])
    said.predecessor_epoch = EPOCH
    said.moved.add(lane=pb.TELEMETRY, seqs=ranges(moved), agreed=agreed)
    if urgent_moved is not None:
        said.moved.add(lane=pb.URGENT, seqs=ranges([urgent_moved]), agreed=agreed)
        said.lanes[1].next_seq = urgent_moved[1] - urgent_moved[0] + 2
        said.lanes[1].held.add(first=1, last=said.lanes[1].next_seq - 1)
    return said


def cum(road: Road, epoch: int, lane: int = pb.TELEMETRY) -> int:
    return next((row.cum for row in road.rows(progress) if (row.epoch, row.lane) == (epoch, lane)), 0)


def test_what_never_came_and_does_not_live_on_has_vanished(road: Road) -> None:
    road.hello(hello(telemetry=9, held=[(1, 8)]))
    road.declare()
    road.arrive(batch(1, 10), batch(5, 50))
    road.hello(successor((3, 4)))
    road.project()
    assert road.gaps() == [("GAP_VANISHED", [(2, 2), (6, 8)])]
    assert cum(road, EPOCH) == 8
    assert [row.epoch for row in road.rows(gap)] == [EPOCH]
    assert {row.kind for row in road.rows(integrity)} == {"vanished"}
    road.hello(successor((3, 4)))  # a reconnect
    road.projector = road.new_projector()
    road.project()
    assert len(road.rows(gap)) == 1


def test_only_what_both_sides_agreed_on_counts_as_living_on(road: Road) -> None:
    road.hello(hello(telemetry=6, held=[(1, 5)]))
    road.hello(successor((1, 5), agreed=3))
    road.project()
    assert road.gaps() == [("GAP_VANISHED", [(3, 5)])]


def test_a_gap_record_that_moved_names_the_seqs_of_its_own_epoch(road: Road) -> None:
    road.hello(hello(telemetry=6, urgent=2, held=[(1, 5)], urgent_held=[(1, 1)]))
    road.hello(successor((1, 1), (4, 5), urgent_moved=(1, 1)))
    road.project()
    assert road.gaps() == []  # what explains them is still on the box
    road.declare(declare(epoch=NEXT))
    record = pb.Gap(seqs=ranges([(2, 3)]), reason=pb.GAP_DROPPED, count=7, count_exact=True)
    moved = urgent(1, record)
    moved.epoch = NEXT
    own = urgent(2, pb.Gap(seqs=ranges([(2, 2)]), reason=pb.GAP_DROPPED))
    own.epoch = NEXT
    road.arrive(moved, own)
    road.project()
    assert [(row.epoch, road.gaps()[0][0]) for row in road.rows(gap)] == [(EPOCH, "GAP_DROPPED"), (NEXT, "GAP_DROPPED")]
    assert cum(road, EPOCH) == 5
    assert cum(road, NEXT) == 0  # 2 is resolved, 1 and 3 are still to come


def test_the_watermark_is_that_of_the_new_epoch_from_its_first_hello_on(road: Road) -> None:
    """What moved counts as resolved in the old one although it is still on the box."""
    road.hello(hello(telemetry=4, held=[(2, 2)]))
    road.declare()
    anchor = pb.Anchor(boot=1, mono_ms=0, wall_ms=1_700_000_000_000, err_ms=1, source=pb.CLOCK_NTP)
    road.arrive(
        batch(1, 10, complete=(1, 1000)), batch(3, 30, complete=(1, 3000)), urgent(1, anchor, complete=(1, 9000))
    )
    road.project()
    assert mark(road) == 1_700_000_001_000
    road.hello(successor((2, 2)))
    road.project()
    assert cum(road, EPOCH) == 3
    assert mark(road) is None
    road.declare(declare(epoch=NEXT))
    told = urgent(1, anchor, complete=(1, 9000))
    told.epoch = NEXT
    road.arrive(told, batch(1, 20, at_ms=2000, epoch=NEXT, complete=(1, 2000)))
    road.project()
    assert mark(road) == 1_700_000_002_000


def mark(road: Road) -> int | None:
    with road.stores.telemetry.read() as connection:
        return watermark_ms(connection, GATEWAY)


def test_an_order_is_noted_once_and_says_nothing_of_what_is_there(road: Road) -> None:
    road.hello(hello(opens=5, telemetry=2, held=[(1, 1)]))
    for _ in range(2):
        road.hello(hello(opens=3, telemetry=50))
    road.project()
    assert road.gaps() == []
    (note,) = road.rows(integrity)
    assert (note.kind, "restored or cloned" in note.text) == ("epoch", True)


def test_rows_of_one_boot_that_two_stores_hold_are_read_once(road: Road) -> None:
    """They stood in the tail when the image was taken, and each life sealed them in a batch of its own."""
    anchor = pb.Anchor(boot=1, mono_ms=0, wall_ms=1_700_000_000_000, err_ms=1, source=pb.CLOCK_NTP)
    road.hello(hello(telemetry=2))
    road.declare()
    road.arrive(batch(1, 10, 20, 30, at_ms=1000), urgent(1, anchor))
    road.hello(successor((2, 2)))
    road.declare(declare(epoch=NEXT))
    told = urgent(1, anchor)
    told.epoch = NEXT
    road.arrive(batch(1, 10, 20, at_ms=1000, epoch=NEXT), batch(2, 40, at_ms=4000, epoch=NEXT), told)
    road.project()
    found = road.temperatures(from_ms=1_700_000_000_000, to_ms=1_700_000_010_000)
    assert [value for _, value in found] == [1, 2, 3, 4]


def test_lineages_are_read_again_after_a_failed_transaction() -> None:
    made = CompletenessProjection()
    made.lineage(GATEWAY).add(successor((1, 2)))
    made.forget()
    assert made.lineage(GATEWAY).epochs == set()
