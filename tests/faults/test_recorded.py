"""Was it recorded as a whole? A box's buffer, a journal, a projector, and a trip on which things happen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.api.completeness import Completeness, CompletenessItem, CompletenessQuery
from control_plane.api.problems import Problem
from control_plane.fleet.rights import EVERYTHING
from control_plane.projections.balances import Balances
from control_plane.projections.recorded import LATE_MS, NO_CLOCK, NOT_YET, NOTHING, Recorded
from control_plane.store.engine import Stores
from gateway.buffer import balance
from gateway.reading import Lost, Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS
from protos.ranges import Ranges
from tests.control_plane.conftest import START_MS, TurnedClock
from tests.control_plane.projections.conftest import Road, moment
from tests.control_plane.sealing import GATEWAY, OTHER, batch, hello, urgent
from tests.gateway.buffer.boxes import COOLING, METER, Box

BOOTED_MS = START_MS
"""Wall time of the boot's mono_ms 0."""
MINUTE_MS = 60_000


class Truck:
    """Its box, and the control plane that it reports to when there is a link."""

    def __init__(self, folder: Path, stores: Stores) -> None:
        self.box = Box(folder / "buffer")
        self.clock = TurnedClock()
        self.road = Road(stores, self.clock)
        self.box.clock.mono = HOUR_MS

    async def start(self) -> None:
        await self.box.open([COOLING, METER])
        epoch = self.box.buffer.opening.epoch
        self.road.hello(hello(epoch=epoch))
        anchor = pb.Anchor(boot=1, mono_ms=0, wall_ms=BOOTED_MS, err_ms=5, source=pb.CLOCK_NTP)
        self.box.buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())

    def drive(self, minutes: int) -> None:
        """A read of both sensors each ten seconds."""
        for n in range(minutes * 6):
            self.box.clock.mono += 10_000
            self.box.buffer.append(self.box.ids[0], Row(self.box.clock.mono, (n, 1)))
            self.box.buffer.append(self.box.ids[1], Row(self.box.clock.mono, (float(n),)))

    def fail(self, minutes: int, reads: int) -> None:
        """The cooling unit can't be read."""
        began = self.box.clock.mono
        self.box.clock.mono += minutes * MINUTE_MS
        self.box.buffer.lost(self.box.ids[0], Lost(began, self.box.clock.mono, reads, pb.GAP_UNREADABLE))

    @property
    def now(self) -> int:
        """Wall time on the road."""
        return BOOTED_MS + self.box.clock.mono

    async def deliver(self, *, twice: bool = False) -> None:
        """All that waits; `twice`: the answer is lost, and it comes again."""
        buffer = self.box.buffer
        await buffer.seal()
        await buffer._seal_urgent()
        self.clock.at_ms = self.now
        for declared in await buffer.schemas():
            self.road.declare(declared)
        for lane in (pb.URGENT, pb.TELEMETRY):
            found = await buffer.lease(lane, 0, 10_000)
            made = [one.envelope(buffer.opening.epoch) for one in found]
            self.road.arrive(*made)
            if twice:
                self.road.again(*made)
            await buffer.ack(lane, Ranges((one.seq, one.seq) for one in found))
        self.road.project()


@pytest.fixture
async def truck(tmp_path: Path, stores: Stores) -> AsyncIterator[Truck]:
    made = Truck(tmp_path, stores)
    await made.start()
    yield made
    await made.box.buffer.close()


@pytest.fixture
def road(stores: Stores) -> Road:
    return Road(stores, TurnedClock())


def completeness(stores: Stores, road: Road) -> Completeness:
    balances = Balances(journal=stores.journal, telemetry=stores.telemetry)
    recorded = Recorded(journal=stores.journal, telemetry=stores.telemetry, reader=road.reader(), balances=balances)
    return Completeness(store=stores.telemetry, recorded=recorded)


def asked(road: Road, from_ms: int, to_ms: int, **more: Any) -> CompletenessItem:
    query = CompletenessQuery(gateway=GATEWAY, from_=moment(from_ms), to=moment(to_ms), **more)
    (item,) = completeness(road.stores, road).list(query, EVERYTHING).items
    assert item.account is not None
    return item


def account(road: Road, from_ms: int, to_ms: int, **more: Any) -> Any:
    return asked(road, from_ms, to_ms, **more).account


def counts(told: Any) -> dict[str, tuple[int, int, int, int, dict[str, int]]]:
    return {
        one.sensor: (one.expected, one.received, one.late, one.duplicate, {lost.reason: lost.rows for lost in one.lost})
        for one in told.sensors
    }


def reasons(told: Any) -> set[tuple[str, str]]:
    return {(one.reason, one.sensor) for one in told.missing}


async def test_a_trip_with_an_outage_and_repeats_is_complete_once_everything_came(truck: Truck) -> None:
    began = truck.now
    truck.drive(20)
    await truck.deliver(twice=True)
    truck.drive(20)  # without a link for two hours
    ended = truck.now
    told = account(truck.road, began, ended)
    assert (told.complete, reasons(told)) == (False, {(NOT_YET, "")})
    (missing,) = told.missing
    assert (missing.from_, missing.to) == (moment(ended - 20 * MINUTE_MS - 1), moment(ended))
    truck.drive(120)
    await truck.deliver()
    told = account(truck.road, began + 1, ended + 1)
    assert told.complete, told.missing
    # Twenty minutes of six reads each came late, twenty came twice; the hours touched have more reads than the trip.
    assert {sensor: one[2:] for sensor, one in counts(told).items()} == {
        "cooling": (120, 120, {}), "meter": (120, 120, {}),
    }  # fmt: skip
    assert {one.by_period for one in told.sensors} == {2400}
    truck.road.seal()
    assert account(truck.road, began + 1, ended + 1) == told


async def test_what_was_dropped_and_could_not_be_read_is_told_and_the_box_says_the_same(truck: Truck) -> None:
    began = truck.now
    truck.drive(10)
    truck.fail(5, 30)
    truck.drive(10)
    await truck.deliver()
    truck.drive(10)
    await truck.box.buffer.seal()
    (waiting,) = await truck.box.buffer.lease(pb.TELEMETRY, 0, 10_000)
    await truck.box.buffer.reject(pb.TELEMETRY, waiting.seq, "over a limit")
    truck.drive(10)
    await truck.deliver()
    ended = truck.now
    truck.drive(5)
    await truck.deliver()
    told = account(truck.road, began, ended)
    assert not told.complete
    assert reasons(told) == {("unreadable", "cooling"), ("rejected", "cooling"), ("rejected", "meter")}
    (unreadable,) = [one for one in told.missing if one.reason == "unreadable"]
    assert (unreadable.rows, unreadable.rows_exact) == (30, True)
    assert (unreadable.from_, unreadable.to) == (moment(began + 10 * MINUTE_MS), moment(began + 15 * MINUTE_MS))
    mine = balance.ledger(truck.box.folder)
    for sensor, (expected, received, *_, lost) in counts(told).items():
        lines = [one for one in mine if one.sensor == sensor]
        assert expected == sum(one.produced for one in lines)
        assert received == sum(one.delivered for one in lines)
        assert lost == {reason: rows for one in lines for reason, rows in one.lost.items()}
    # What happened in the same hour, and not on this trip, is no fault of it.
    assert account(truck.road, began, began + 9 * MINUTE_MS, sensor="meter").missing[0].reason == "rejected"
    assert ("unreadable", "cooling") not in reasons(account(truck.road, began, began + 9 * MINUTE_MS))


def test_unknown_is_never_told_as_complete(road: Road) -> None:
    road.declare()
    begin = START_MS + 10 * MINUTE_MS
    road.arrive(urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5), complete=(1, 2 * HOUR_MS)))
    road.arrive(batch(1, *range(60), at_ms=10 * MINUTE_MS, complete=(1, 2 * HOUR_MS)))
    road.project()
    assert account(road, begin, begin + MINUTE_MS).complete
    assert reasons(account(road, begin + HOUR_MS, begin + HOUR_MS + 1)) == {(NOTHING, "")}
    assert reasons(account(road, begin - MINUTE_MS, begin)) == {(NOTHING, "")}, "whatever came later in that hour"
    assert reasons(account(road, begin, begin + MINUTE_MS, sensor="door")) == {(NOTHING, "door")}
    # Switched off in the middle of it: no ledger has a line there, the gap record has.
    stopped = pb.Gap(
        group=1, from_boot=1, from_mono_ms=3 * HOUR_MS, to_boot=1, to_mono_ms=9 * HOUR_MS, reason=pb.GAP_RESTART
    )
    road.arrive(
        urgent(2, stopped, complete=(1, 10 * HOUR_MS)), batch(2, 1, at_ms=9 * HOUR_MS, complete=(1, 10 * HOUR_MS))
    )
    road.project()
    assert ("restart", "probe") in reasons(account(road, START_MS + 5 * HOUR_MS, START_MS + 6 * HOUR_MS))
    # Nobody knows when: it may have been then, if it was not told before.
    vanished = pb.Gap(seqs=[pb.Range(first=90, last=91)], reason=pb.GAP_VANISHED)
    road.clock.at_ms = begin + 1
    road.arrive(urgent(3, vanished, complete=(1, 10 * HOUR_MS)))
    road.project()
    assert reasons(account(road, begin, begin + MINUTE_MS)) == {("vanished", "")}
    assert account(road, begin + 2, begin + 40_000).complete
    road.arrive(batch(3, 1, at_ms=5, boot=2, complete=(1, 10 * HOUR_MS)))
    road.project()
    assert (NO_CLOCK, "") in reasons(account(road, begin, begin + MINUTE_MS))


def test_a_sensor_that_fell_silent_is_missing_from_then_on(road: Road) -> None:
    road.declare()

    def said(kind: pb.EventKind.ValueType, since_ms: int) -> tuple[int, pb.Event]:
        detail = pb.Condition(since_mono_ms=since_ms).SerializeToString()
        return since_ms + MINUTE_MS, pb.Event(kind=kind, group=1, detail=detail)

    ends = (1, 2 * HOUR_MS)
    road.arrive(urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5), complete=ends))
    changes = [said(pb.EVENT_SENSOR_SILENT, 10 * MINUTE_MS), said(pb.EVENT_SENSOR_RECOVERED, 20 * MINUTE_MS)]
    road.arrive(batch(2, lane=pb.URGENT, events=changes, complete=ends))
    road.arrive(batch(1, *range(30), at_ms=0, step_ms=MINUTE_MS, complete=ends))
    road.project()
    minute = [START_MS + n * MINUTE_MS for n in range(31)]
    (silent,) = account(road, minute[1], minute[30]).missing
    assert (silent.reason, silent.sensor, silent.from_, silent.to) == (
        "silent", "probe", moment(minute[10]), moment(minute[20]),
    )  # fmt: skip
    assert reasons(account(road, minute[18], minute[30])) == {("silent", "probe")}
    assert account(road, minute[1], minute[10] + 1000).complete, "the next reading was not due yet"
    assert account(road, minute[20], minute[30]).complete
    assert account(road, minute[11], minute[12], sensor="door").missing[0].reason == NOTHING


def test_late_is_told_by_the_hour_in_which_it_was_read(road: Road) -> None:
    road.declare()
    road.arrive(urgent(1, pb.Anchor(boot=1, mono_ms=0, wall_ms=START_MS, err_ms=5), complete=(1, 9 * HOUR_MS)))
    road.clock.at_ms = START_MS + HOUR_MS + LATE_MS
    road.arrive(batch(1, *range(10), at_ms=1000))
    road.clock.at_ms += 1
    road.arrive(batch(2, *range(5), at_ms=60_000), batch(3, *range(7), at_ms=HOUR_MS, complete=(1, 9 * HOUR_MS)))
    road.project()
    told = account(road, START_MS, START_MS + 2 * HOUR_MS)
    assert counts(told)["probe"][:3] == (22, 22, 5)


def test_it_is_asked_of_one_gateway_and_of_what_is_there(road: Road) -> None:
    road.declare()
    road.arrive(batch(1, 1, 2))
    road.project()
    ends: dict[str, Any] = {"from_": moment(START_MS), "to": moment(START_MS + 1)}
    about = completeness(road.stores, road)
    for wrong in (
        {"gateway": GATEWAY, "from_": ends["from_"]}, {"gateway": GATEWAY, "sensor": "probe"}, ends,
        {"gateway": GATEWAY, "from_": ends["to"], "to": ends["from_"]},
        {"gateway": GATEWAY, "from_": moment(0), "to": moment(32 * 24 * HOUR_MS)},
    ):  # fmt: skip
        with pytest.raises(Problem) as caught:
            about.list(CompletenessQuery(**wrong), EVERYTHING)
        assert caught.value.status == 422
    with pytest.raises(Problem) as caught:
        about.list(CompletenessQuery(gateway=GATEWAY, sensor="nobody", **ends), EVERYTHING)
    assert caught.value.status == 404
    whole = about.list(CompletenessQuery(sensor=f"{GATEWAY}/probe/temperature", **ends), EVERYTHING)
    assert whole.items[0].account is not None
    stranger = EVERYTHING._replace(gateways=frozenset({OTHER}))
    with pytest.raises(Problem) as caught:
        about.list(CompletenessQuery(gateway=GATEWAY, **ends), stranger)
    assert caught.value.status == 404
    assert about.list(CompletenessQuery(gateway=GATEWAY), EVERYTHING).items[0].account is None
