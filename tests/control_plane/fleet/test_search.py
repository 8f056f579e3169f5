"""The index of the fleet: it follows the three stores, and what it finds is what a look at everything would."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, get_args

import msgspec
import pytest
from sqlalchemy import insert, update

from control_plane.fleet.index import FleetIndex
from control_plane.fleet.presence import Fleet, Standing, Status
from control_plane.fleet.rights import EVERYTHING, Caller, Role
from control_plane.fleet.search import FleetSearch, Key, Order, Wanted
from control_plane.fleet.status import Way
from control_plane.store.engine import Stores
from control_plane.store.tables import (
    certificate,
    clone,
    config_desired,
    config_status,
    gateway,
    gateway_group_member,
    gateway_index,
    presence,
    series,
    state,
)
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.conftest import TurnedClock

MANY = 240
DAY_MS, MINUTE_MS = 86_400_000, 60_000


def chance(random_: random.Random, *values: Any) -> Any:
    return random_.choice(values)


def put(stores: Stores, now_ms: int) -> None:
    """A fleet in every state there is, drawn from a seed."""
    draw = random.Random(5)
    gateways, heard, held, issued, members, wanted = [], [], [], [], [], []
    declared = []
    for number in range(MANY):
        one = f"gw-{number:010d}"
        ago = [0, 20_000, 80_000, 200_000, 800_000, 2_000_000]
        asset = chance(draw, None, "north", "north/17", f"south/{number}")
        retired_ms = chance(draw, now_ms - 5, None, None, None, None)
        known = {
            "hardware": chance(draw, "cm4", "uno"),
            "serial": "1",
            "signing_key": b"",
            "created_ms": now_ms - number,
        }
        gateways.append({"id": one, "name": f"Truck {number % 90}", "asset": asset, "retired_ms": retired_ms, **known})
        if draw.random() < 0.3:
            members.append({"slug": "cold", "gateway": one})
        if draw.random() < 0.8:
            issued.append(
                {
                    "serial": one,
                    "gateway": one,
                    "issued_ms": 0,
                    "not_after_ms": now_ms + draw.randrange(-5, 90) * DAY_MS,
                    "revoked_ms": chance(draw, None, None, 5),
                }
            )
        if draw.random() < 0.85:
            oldest_ms = chance(draw, 0, now_ms - 10_000, now_ms - 900_000)
            beat = wire.Heartbeat(
                backlog=wire.Backlog(batches=chance(draw, 0, 1, 29, 30, 400), bytes=7, oldest_wall_ms=oldest_ms),
                clock=wire.ClockState(err_ms=chance(draw, 3, 40, 5000), source=pb.CLOCK_RTC),
                sensors_silent=chance(draw, 0, 0, 2),
            )
            runs = wire.RunningConfig(generation=1, pushed_hash=b"\1" * 32, phase=chance(draw, wire.CONFIG_IN_SYNC, 3))
            heard.append(
                {
                    "gateway": one,
                    "session": 1,
                    "connected_ms": now_ms - chance(draw, *ago),
                    "heard_ms": now_ms - chance(draw, *ago),
                    "left_ms": chance(draw, None, None, now_ms - 10_000, now_ms - 90_000),
                    "version": chance(draw, "0.1.0", "0.2.0"),
                    "heartbeat": chance(draw, None, beat.SerializeToString(), beat.SerializeToString()),
                    "running": chance(draw, None, runs.SerializeToString()),
                    "why": "",
                }
            )
        if draw.random() < 0.8:
            row = {"gateway": one, "epoch": 1, "updated_ms": now_ms - chance(draw, *ago), "readings": number}
            held.append(row | {"body": b"\0\0\0\0"})
            key = {
                "key": f"{one}/a/b",
                "gateway": one,
                "sensor": "a",
                "name": "b",
                "unit": "",
                "type": 1,
                "attrs": "{}",
            }
            period = {
                "period_ms": chance(draw, 0, 1000, 3_600_000),
                "epoch": 1,
                "schema": 1,
                "group_id": 1,
                "attrs": "{}",
            }
            declared.append(key | period | {"series_id": 1})
        if draw.random() < 0.5:
            wanted.append({"gateway": one, "generation": 1, "hash": chance(draw, "01", "02") * 32, "change": 1})
    with stores.business.write() as connection:
        for table, rows in (
            (gateway, gateways), (certificate, issued), (gateway_group_member, members), (config_desired, wanted),
        ):  # fmt: skip
            connection.execute(insert(table), rows)
    with stores.journal.write() as connection:
        connection.execute(insert(presence), heard)
        paused = {"gateway": "gw-0000000007", "since_ms": now_ms, "why": "", "hello_id": 1, "released_ms": None}
        connection.execute(insert(clone).values(paused))
    with stores.telemetry.write() as connection:
        connection.execute(insert(state), held)
        connection.execute(insert(series), declared)


@pytest.fixture
def index(stores: Stores, clock: TurnedClock) -> FleetIndex:
    put(stores, clock.now_ms())
    made = FleetIndex(stores=stores, clock=clock)
    made.step()
    return made


@pytest.fixture
def search(stores: Stores, clock: TurnedClock, index: FleetIndex) -> FleetSearch:
    return FleetSearch(telemetry=stores.telemetry, clock=clock)


def everything(stores: Stores, clock: TurnedClock) -> dict[str, Standing]:
    return {one.id: one for one in Fleet(stores=stores, clock=clock).all()}


def ids(search: FleetSearch, wanted: Wanted, caller: Caller = EVERYTHING) -> set[str]:
    return {one.standing.id for one in search.rows(caller, wanted, limit=MANY)}


def test_each_row_stands_as_a_look_at_the_three_stores_says_whatever_the_time(
    search: FleetSearch, stores: Stores, clock: TurnedClock
) -> None:
    for seconds in (0, 15, 45, 300, 4_000, 20_000):
        clock.forward(seconds=seconds)
        there = everything(stores, clock)
        for status in Status:
            found = search.rows(EVERYTHING, Wanted(statuses=frozenset({status})), limit=MANY)
            assert {one.standing.id for one in found} == {one.id for one in there.values() if one.status == status}
            for one in found:
                whole = there[one.standing.id]
                assert (one.standing.status, one.standing.why) == (whole.status, whole.why)
        assert search.counts(EVERYTHING, Wanted()) == Counter(one.status for one in there.values())
    assert len(set(search.counts(EVERYTHING, Wanted()))) >= 3


@pytest.mark.parametrize("falling", [False, True])
def test_every_order_pages_without_missing_or_repeating_one(search: FleetSearch, falling: bool) -> None:
    for order in get_args(Order):
        walked: list[Key] = []
        while len(more := search.rows(
            EVERYTHING, Wanted(), order=order, falling=falling, after=walked[-1] if walked else None, limit=37
        )):  # fmt: skip
            walked += [one.key for one in more]
        assert len(walked) == len({key.gateway for key in walked}) == MANY, order
        numbers = [key.value for key in walked if isinstance(key.value, int)]
        assert numbers == sorted(numbers, reverse=falling), order
        blanks = [key.value is None for key in walked]
        assert blanks == sorted(blanks), f"{order}: what has no value comes last"


def test_filters_are_what_they_say(search: FleetSearch, stores: Stores, clock: TurnedClock) -> None:
    there, now_ms = everything(stores, clock).values(), clock.now_ms()

    def those(condition: Any) -> set[str]:
        found = {one.id for one in there if condition(one)}
        assert 0 < len(found) < MANY
        return found

    assert ids(search, Wanted(ways=frozenset({Way.DRIFTED, Way.PENDING}))) == those(
        lambda one: one.way in {Way.DRIFTED, Way.PENDING}
    )
    assert ids(search, Wanted(text="tRuCk 7")) == those(lambda one: "truck 7" in one.name.lower())
    assert ids(search, Wanted(text="%")) == set()
    assert ids(search, Wanted(asset="north")) == those(lambda one: (one.asset or "").startswith("north"))
    assert ids(search, Wanted(retired=True)) == those(lambda one: one.retired_ms)
    assert ids(search, Wanted(backlog=30)) == those(
        lambda one: one.presence and (one.presence.backlog_batches or 0) >= 30
    )
    assert ids(search, Wanted(clock_err_ms=40)) == those(
        lambda one: one.presence and (one.presence.clock_err_ms or 0) >= 40
    )
    assert ids(search, Wanted(silent=1)) == those(lambda one: one.presence and one.presence.sensors_silent)
    assert ids(search, Wanted(version="0.2.0")) == those(lambda one: one.presence and one.presence.version == "0.2.0")
    assert ids(search, Wanted(quiet_s=60)) == those(lambda one: (one.data_ms or 0) <= now_ms - 60_000)
    assert ids(search, Wanted(certificate_days=30)) == those(
        lambda one: (
            one.certificate_expires_ms and not one.retired_ms and one.certificate_expires_ms < now_ms + 30 * DAY_MS
        )
    )
    grouped = ids(search, Wanted(group="cold"))
    assert grouped
    assert ids(search, Wanted(group="col")) == set()
    some = frozenset(sorted(grouped)[:5])
    mine = Caller("", "", Role.VIEWER, gateways=some, groups=frozenset({"cold"}))
    assert ids(search, Wanted(), mine) == some
    assert search.counts(mine, Wanted()).total() == 5


def test_what_is_said_and_registered_is_in_the_index_after_a_step(
    search: FleetSearch, index: FleetIndex, stores: Stores, clock: TurnedClock
) -> None:
    def found(gateway_id: str) -> Standing:
        return search.some([gateway_id])[gateway_id].standing

    one = next(iter(ids(search, Wanted(statuses=frozenset({Status.OFFLINE}), version="0.1.0"))))
    clock.forward(seconds=30)
    before = search.cursor()
    index.step()
    assert search.cursor() == before, "nothing was said"
    with stores.journal.write() as connection:
        changed = {"heard_ms": clock.now_ms(), "left_ms": None, "version": "9"}
        connection.execute(update(presence).where(presence.c.gateway == one).values(**changed))
        status = {"gateway": one, "generation": 7, "hash": b"", "phase": 1, "reason": 0, "pointer": "", "text": ""}
        connection.execute(insert(config_status).values(**status, retry_at_ms=0, received_ms=0))
    clock.forward(seconds=1)
    index.step()
    assert search.cursor() != before
    assert found(one).presence is not None
    assert found(one) == without_running(everything(stores, clock)[one])
    with stores.business.write() as connection:
        row = {"id": "gw-new", "name": "New", "hardware": "", "serial": "", "signing_key": b"", "created_ms": 1}
        connection.execute(insert(gateway).values(row))
    index.step()
    assert found("gw-new").status is Status.NEVER
    with stores.business.write() as connection:
        connection.execute(update(gateway).where(gateway.c.id == "gw-new").values(name="Renamed", version=2))
    index.step()
    assert ids(search, Wanted(text="renamed")) == {"gw-new"}
    assert search.looked_ms() == clock.now_ms()


def test_a_row_that_was_spoilt_is_right_again_within_a_minute(
    search: FleetSearch, index: FleetIndex, stores: Stores, clock: TurnedClock
) -> None:
    with stores.telemetry.write() as connection:
        connection.execute(update(gateway_index).values(name="wrong"))
    clock.forward(seconds=61)
    index.step()
    names = {one.standing.name for one in search.rows(EVERYTHING, Wanted(), limit=MANY)}
    assert names == {one.name for one in everything(stores, clock).values()}


def without_running(one: Standing) -> Standing:
    """Without what the index leaves to a look at the one gateway."""
    said = None if one.presence is None else msgspec.structs.replace(one.presence, running=None)
    return msgspec.structs.replace(one, presence=said)
