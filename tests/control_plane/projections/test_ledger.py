from __future__ import annotations

import pytest

from control_plane.api.ledger import Ledger, LedgerItem, LedgerQuery
from control_plane.fleet.rights import EVERYTHING
from control_plane.projections.balances import Balances
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS
from tests.control_plane.projections.conftest import Road, moment
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, batch, urgent

WALL_MS = 1_763_800_000_000


def walked(road: Road, limit: int = 100, **asked: object) -> list[LedgerItem]:
    """Every item, page by page."""
    ledger = Ledger(balances=Balances(journal=road.stores.journal, telemetry=road.stores.telemetry))
    items: list[LedgerItem] = []
    cursor = None
    while True:
        page = ledger.list(LedgerQuery(**({"gateway": GATEWAY, "limit": limit, "cursor": cursor} | asked)))  # type: ignore[arg-type]
        items += page.items
        cursor = page.next
        if cursor is None:
            return items


def short(items: list[LedgerItem]) -> list[tuple[str, int, int, list[tuple[str, int, bool]]]]:
    return [
        (one.sensor, one.hour, one.received, [(lost.reason, lost.rows, lost.unknown) for lost in one.lost])
        for one in items
    ]


@pytest.fixture
def lived(road: Road) -> Road:
    """Two sensors over a border of hours; some reads lost, some unknown; one boot without an anchor."""
    road.declare()
    anchor = pb.Anchor(boot=1, mono_ms=0, wall_ms=WALL_MS, err_ms=10, source=pb.CLOCK_NTP)
    failed = pb.Gap(
        group=1, from_boot=1, from_mono_ms=HOUR_MS - 30_000, to_boot=1, to_mono_ms=HOUR_MS + 10_000, count=40,
        count_exact=True, reason=pb.GAP_UNREADABLE,
    )  # fmt: skip
    stopped = pb.Gap(group=2, from_boot=1, from_mono_ms=2 * HOUR_MS, to_boot=2, to_mono_ms=500, reason=pb.GAP_RESTART)
    dropped = pb.Gap(seqs=[pb.Range(first=9, last=9)], count=12, count_exact=True, reason=pb.GAP_DROPPED)
    dropped.rows.add(group=1, boot=1, hour=2, rows=12)
    road.arrive(urgent(1, anchor, failed, stopped, dropped))
    road.arrive(batch(1, *range(10), at_ms=HOUR_MS - 3000), batch(2, 0, 1, group=2, at_ms=2 * HOUR_MS - 1000))
    road.project()
    road.arrive(batch(3, 5, 6, at_ms=HOUR_MS + 60_000), batch(4, 7, at_ms=500, boot=2))
    road.project()
    return road


def test_rows_and_losses_stand_in_the_hours_they_belong_to(lived: Road) -> None:
    items = walked(lived)
    assert short(items) == [
        ("probe", 0, 3, [("unreadable", 30, False)]),
        ("probe", 1, 9, [("unreadable", 10, False)]),
        ("door", 1, 1, []),
        ("probe", 2, 0, [("dropped", 12, False)]),
        ("door", 2, 1, [("restart", 0, True)]),
        ("probe", 0, 1, []),
        ("door", 0, 0, [("restart", 0, True)]),
    ]
    assert [one.start for one in items if one.boot == 1][:2] == [moment(WALL_MS), moment(WALL_MS + HOUR_MS)]
    assert [one.start for one in items if one.boot == 2] == [None, None]
    assert {(one.gateway, one.epoch, one.period_ms) for one in items} == {(GATEWAY, EPOCH, 1000)}


def test_it_is_paged_without_losing_or_repeating_a_line(lived: Road) -> None:
    assert walked(lived, limit=1) == walked(lived, limit=3) == walked(lived)


def test_it_is_asked_by_sensor_by_series_and_by_time(lived: Road) -> None:
    assert {one.sensor for one in walked(lived, sensor="door")} == {"door"}
    assert walked(lived, sensor="probe/temperature") == walked(lived, sensor="probe") != []
    assert walked(lived, sensor="probe/open") == walked(lived, gateway=OTHER) == []
    found = walked(lived, from_=moment(WALL_MS + HOUR_MS), to=moment(WALL_MS + 2 * HOUR_MS))
    assert {(one.boot, one.hour) for one in found} == {(1, 1)}


def test_a_caller_sees_its_own_gateways_only(lived: Road) -> None:
    ledger = Ledger(balances=Balances(journal=lived.stores.journal, telemetry=lived.stores.telemetry))
    stranger = EVERYTHING._replace(gateways=frozenset({OTHER}))
    assert ledger.list(LedgerQuery(gateway=GATEWAY), stranger).items == []


def test_a_restarted_worker_counts_on_and_a_gap_said_twice_counts_once(lived: Road) -> None:
    before = short(walked(lived))
    lived.projector = lived.new_projector()
    again = pb.Gap(
        group=1, from_boot=1, from_mono_ms=HOUR_MS - 30_000, to_boot=1, to_mono_ms=HOUR_MS + 10_000, count=40,
        count_exact=True, reason=pb.GAP_UNREADABLE,
    )  # fmt: skip
    lived.arrive(urgent(2, again), batch(5, 8, 9, at_ms=1000))
    lived.project()
    assert short(walked(lived))[0] == ("probe", 0, 5, [("unreadable", 30, False)])
    assert short(walked(lived))[1:] == before[1:]


def test_a_batch_nobody_can_read_is_unknown_not_fine(road: Road) -> None:
    road.declare()
    bad = batch(1, 1, 2, 3)
    bad.count += 1
    road.arrive(bad)
    road.project()
    assert short(walked(road)) == [("", 0, 0, [("undecodable", 0, True)])]
