"""Gap records, alarms and silence become events with a beginning and an end, through the real road."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Row, select

from control_plane.store.engine import Stores
from control_plane.store.tables import STORES, gap
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.reconcile.plant import GROUP, WALL0_MS, Gateway, Road

RAISED, CLEARED = pb.EVENT_ALARM_RAISED, pb.EVENT_ALARM_CLEARED
SILENT, RECOVERED = pb.EVENT_SENSOR_SILENT, pb.EVENT_SENSOR_RECOVERED
OPEN, SHUT = "data.gap.opened", "data.gap.closed"
FAR = (1, 10_000_000)


@pytest.fixture
def road(stores: Stores) -> Road:
    return Road(stores)


@pytest.fixture
def box() -> Gateway:
    return Gateway("gw-aaaaaaaaaa", attrs={})


def lost(from_s: float, to_s: float, reads: int = 1, reason: pb.GapReason.ValueType = pb.GAP_UNREADABLE) -> pb.Event:
    record = pb.Gap(
        group=GROUP,
        from_boot=1,
        from_mono_ms=round(from_s * 1000),
        to_boot=1,
        to_mono_ms=round(to_s * 1000),
        count=reads,
        count_exact=True,
        reason=reason,
    )
    return pb.Event(group=GROUP, kind=pb.EVENT_GAP, detail=record.SerializeToString())


def said(kind: pb.EventKind.ValueType, since_s: float, *, value: float = 9.0) -> pb.Event:
    condition = pb.Condition(since_mono_ms=round(since_s * 1000))
    if kind in {RAISED, CLEARED}:
        condition = pb.Condition(
            name="warm", quantity="temperature", value=value, limit=8.0, since_mono_ms=round(since_s * 1000)
        )
    return pb.Event(group=GROUP, kind=kind, severity=pb.SEVERITY_ALARM, detail=condition.SerializeToString())


def urgent(box: Gateway, *some: tuple[float, pb.Event], complete_s: float) -> pb.Batch:
    events = [(round(at_s * 1000), event) for at_s, event in some]
    return box.events(*events, complete=(1, round(complete_s * 1000)))


def story(road: Road, *, only_current: bool = False) -> list[tuple[str, str, str, float]]:
    """(type, change, finality, s) of every version, oldest first."""
    rows = [row for row in road.versions() if row.current or not only_current]
    rows.sort(key=lambda row: (row.recorded_ms, row.time_ms, row.type, row.version))
    return [(short(row), row.change, row.finality, (row.time_ms - WALL0_MS) / 1000) for row in rows]


def short(row: Row[Any]) -> str:
    return str(row.type).removeprefix("comboio.").removesuffix(".v1")


def start(road: Road, box: Gateway, *, complete_s: float = 0.001) -> None:
    """Boot 1 began at WALL0, and the other lane is complete."""
    road.deliver(box, [box.anchors((1, 0, WALL0_MS), complete=(1, round(complete_s * 1000)))])
    road.deliver(box, [box.readings([(1, 4.0)], complete_ms=FAR[1])])


def test_a_gap_opens_at_once_and_closes_when_nothing_adjacent_can_come(road: Road, box: Gateway) -> None:
    start(road, box)
    road.deliver(box, [urgent(box, (11, lost(5, 10, 3)), complete_s=10)])
    road.settle()
    assert story(road) == [(OPEN, "create", "final", 5)]
    road.heartbeat(box, boot=1, mono_ms=10_001)
    road.settle()
    assert story(road) == [(OPEN, "create", "final", 5), (SHUT, "create", "final", 10)]
    closed = json.loads(road.versions()[-1].data)
    assert (closed["reason"], closed["readings_lost"], closed["count_exact"], closed["duration_s"]) == (
        "unreadable", 3, True, 5.0,
    )  # fmt: skip
    assert road.versions()[-1].subject == "gw-aaaaaaaaaa/cargo"


def test_what_a_dead_sensor_says_every_minute_is_one_gap(road: Road, box: Gateway) -> None:
    start(road, box)
    for minute in range(5):
        begin = 60 * minute
        road.deliver(box, [urgent(box, (begin + 61, lost(begin, begin + 60, 60)), complete_s=begin + 60)])
        road.settle()
    road.heartbeat(box, boot=1, mono_ms=301_000)
    road.settle()
    assert story(road) == [(OPEN, "create", "final", 0), (SHUT, "create", "final", 300)]
    assert json.loads(road.versions()[-1].data)["readings_lost"] == 300
    with road.stores.telemetry.read() as connection:
        assert len(connection.execute(select(gap)).all()) == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_touching_records_are_one_gap_whatever_their_order(road: Road, box: Gateway, order: tuple[int, ...]) -> None:
    start(road, box)
    batches = [urgent(box, (n, lost(10 * n, 10 * (n + 1))), complete_s=10 * (n + 1)) for n in range(3)]
    for n in order:
        road.deliver(box, [batches[n]])
        road.settle()
    road.heartbeat(box, boot=1, mono_ms=31_000)
    road.settle()
    standing = [one for one in story(road, only_current=True) if one[1] != "retract"]
    assert [(kind, finality, at) for kind, _, finality, at in standing] == [(OPEN, "final", 0), (SHUT, "final", 30)]


def test_gaps_of_other_reasons_or_with_a_reading_between_stay_apart(road: Road, box: Gateway) -> None:
    start(road, box)
    some = [(1, lost(0, 10)), (2, lost(10, 20, reason=pb.GAP_REFUSED)), (3, lost(21, 30))]
    road.deliver(box, [urgent(box, *some, complete_s=40)])
    road.settle()
    assert sum(kind == SHUT for kind, *_ in story(road)) == 3


def test_lost_batches_are_a_gap_between_the_batches_around_them(road: Road, box: Gateway) -> None:
    start(road, box)
    first = box.readings([(2000, 4.0), (3000, 4.0)], complete_ms=FAR[1])
    box.readings([(4000, 4.0)], complete_ms=FAR[1])  # never arrives
    last = box.readings([(5000, 4.0)], complete_ms=FAR[1])
    road.deliver(box, [first, last])
    record = pb.Gap(seqs=[pb.Range(first=3, last=3)], count=1, count_exact=True, reason=pb.GAP_DROPPED)
    dropped = pb.Event(kind=pb.EVENT_GAP, detail=record.SerializeToString())
    road.deliver(box, [urgent(box, (6, dropped), complete_s=6)])
    road.settle()
    assert story(road) == [(OPEN, "create", "final", 3), (SHUT, "create", "final", 5)]
    assert road.versions()[-1].subject == "gw-aaaaaaaaaa"


def test_an_alarm_is_raised_and_cleared_and_what_is_said_twice_says_nothing_new(road: Road, box: Gateway) -> None:
    start(road, box)
    said_ = [(1, said(CLEARED, 1)), (70, said(RAISED, 10)), (100, said(RAISED, 100)), (200, said(CLEARED, 200))]
    road.deliver(box, [urgent(box, *said_, (300, said(CLEARED, 300)), complete_s=400)])
    road.settle()
    assert story(road) == [("alarm.raised", "create", "final", 10), ("alarm.cleared", "create", "final", 200)]
    raised, cleared = (json.loads(row.data) for row in road.versions())
    assert (raised["alarm"], raised["limit"], raised["comparison"], raised["severity"]) == ("warm", 8, "above", "alarm")
    assert cleared["duration_s"] == 190
    assert road.versions()[0].subject == "gw-aaaaaaaaaa/cargo/temperature"


def test_silence_is_told_in_event_time_however_late_it_arrives(road: Road, box: Gateway) -> None:
    start(road, box)
    road.clock.at_ms += 7_200_000
    road.deliver(box, [urgent(box, (70, said(SILENT, 9)), (500, said(RECOVERED, 498)), complete_s=600)])
    road.settle()
    assert story(road) == [("sensor.silent", "create", "final", 9), ("sensor.recovered", "create", "final", 498)]


def test_the_beginning_is_provisional_until_the_watermark_passes(road: Road, box: Gateway) -> None:
    start(road, box)
    road.deliver(box, [urgent(box, (70, said(RAISED, 10)), complete_s=60)])
    road.settle()
    assert story(road) == [("alarm.raised", "create", "provisional", 10)]
    road.heartbeat(box, boot=1, mono_ms=70_001)
    road.settle()
    assert story(road, only_current=True) == [("alarm.raised", "amend", "final", 10)]


def test_without_the_watermark_they_wait_no_longer_than_they_may(road: Road, box: Gateway) -> None:
    start(road, box)
    road.deliver(box, [urgent(box, (11, lost(5, 10)), complete_s=4)])
    road.settle()
    assert story(road) == [(OPEN, "create", "provisional", 5)]
    road.clock.at_ms += 2 * 86_400_000 + 1000
    road.settle()
    assert [(row.finality, row.held) for row in road.versions() if row.current] == [("final", "expired")] * 2


def test_a_better_anchor_moves_what_had_been_told(road: Road, box: Gateway) -> None:
    start(road, box)
    road.deliver(box, [urgent(box, (11, lost(5, 10)), complete_s=20)])
    road.settle()
    road.deliver(box, [box.anchors((1, 1, WALL0_MS + 60_001), complete=(1, 30_000))])
    road.settle()
    moved = story(road, only_current=True)
    assert [(kind, change) for kind, change, _, _ in moved] == [(OPEN, "supersede"), (SHUT, "supersede")]
    assert [at for *_, at in moved] == [pytest.approx(65, abs=1), pytest.approx(70, abs=1)]


def test_a_killed_worker_goes_on_where_it_was(road: Road, box: Gateway) -> None:
    start(road, box)
    road.deliver(box, [urgent(box, (11, lost(5, 10)), (12, said(RAISED, 12)), complete_s=10)])
    road.settle()
    road.restart()
    road.heartbeat(box, boot=1, mono_ms=60_000)
    road.settle()
    assert sorted(story(road, only_current=True)) == [
        ("alarm.raised", "amend", "final", 12),
        (SHUT, "create", "final", 10),
        (OPEN, "create", "final", 5),
    ]
    assert road.settle() == 0


def test_the_erp_is_told_finals_only_and_dispatch_at_once(road: Road, box: Gateway) -> None:
    start(road, box)
    road.deliver(box, [urgent(box, (70, said(RAISED, 10)), complete_s=60)])
    road.settle()
    assert (len(road.posted("erp")), len(road.posted("dispatch"))) == (0, 1)
    road.heartbeat(box, boot=1, mono_ms=70_001)
    road.settle()
    assert (len(road.posted("erp")), len(road.posted("dispatch"))) == (1, 2)


def test_a_condition_that_can_not_be_read_is_noted_and_costs_nothing_else(road: Road, box: Gateway) -> None:
    start(road, box)
    broken = pb.Event(group=GROUP, kind=RAISED, detail=b"\xff\xff\xff")
    named = pb.Condition(name="x" * 500).SerializeToString()
    too_long = pb.Event(group=GROUP, kind=RAISED, detail=named)
    road.deliver(box, [urgent(box, (1, broken), (2, too_long), (70, said(RAISED, 10)), complete_s=100)])
    road.settle()
    assert story(road) == [("alarm.raised", "create", "final", 10)]


@st.composite
def facts_of(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Gap records as a ledger makes them: they may touch, they never overlap. Alarms at instants of their own."""
    cuts = sorted(draw(st.sets(st.integers(0, 12), min_size=2, max_size=6)))
    gaps = [("gap", begin, end - begin) for begin, end in itertools.pairwise(cuts) if draw(st.booleans())]
    alarms = draw(st.dictionaries(st.integers(0, 12), st.sampled_from(["raised", "cleared"]), max_size=4))
    return gaps + [(kind, at, 0) for at, kind in alarms.items()]


@given(facts_of(), st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_batching_of_the_same_records_gives_the_same_events(
    stores: Stores, facts: list[tuple[str, int, int]], rng: Any
) -> None:
    def told(order: list[int], portions: int) -> list[tuple[Any, ...]]:
        for store in (stores.journal, stores.telemetry, stores.business):
            with store.write() as connection:
                for table in STORES[store.name].tables.values():
                    connection.execute(table.delete())
        road, box = Road(stores), Gateway("gw-aaaaaaaaaa", attrs={})
        start(road, box)
        batches = [urgent(box, (at + 50, _event(kind, at, long)), complete_s=100) for kind, at, long in facts]
        for number, index in enumerate(order):
            road.deliver(box, [batches[index]])
            if number % portions == 0:
                road.settle()
        road.settle()
        return sorted(
            (row.type, row.subject, row.time_ms, row.data, row.change == "retract")
            for row in road.versions()
            if row.current and row.finality == "final" and row.change != "retract"
        )

    order = list(range(len(facts)))
    first = told(order, 1)
    rng.shuffle(order)
    assert told(order, rng.randint(1, 3)) == first


def _event(kind: str, at: int, long: int) -> pb.Event:
    if kind == "gap":
        return lost(at, at + long, long)
    return said(RAISED if kind == "raised" else CLEARED, at)


def test_a_gap_of_thinning_is_taken_back_when_the_originals_come_after_all(road: Road, box: Gateway) -> None:
    start(road, box)
    original = box.readings([(10_000 + 1000 * n, 4.0) for n in range(10)])
    went = lost(10.999, 18.001, reads=8, reason=pb.GAP_THINNED)
    thinned = box.readings([(10_000, 4.0), (19_000, 4.0)], events=[(19_000, went)])
    thinned.replaces.add(first=original.seq, last=original.seq)
    road.deliver(box, [thinned])
    road.settle()
    assert [(type_, change) for type_, change, _, _ in story(road)][:1] == [(OPEN, "create")]
    road.deliver(box, [original])
    road.settle()
    assert {change for _, change, _, _ in story(road, only_current=True)} == {"retract"}
