"""A gateway that is killed, cut off, and given nonsense: three accounts of it, kept apart, say the same.

The simulators' own logs say what was produced; `comboio-gateway buffer ledger` and REST say what became of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from control_plane.simulators.scenario import Box, Installation, tell
from control_plane.simulators.sources import Device, Message
from tests.journeys.disturbances import until_everybody_reads_again

UNKNOWN = "restart"
Hour = tuple[str, int, int]
Account = dict[Hour, tuple[int, dict[str, int], list[str]]]


def _box() -> Box:
    counter = Device(sensor="counter", profile="comboio-counter@1", every_s=0.1, counting=True)
    dock = Message(
        sensor="dock",
        topic="dock",
        values={"temperature": ("/t", "Cel", 1)},
        waves={"temperature": ("/t", 1, {"mean": 5.0, "amplitude": 4.0})},
        every_s=0.3,
    )
    return Box("north", (counter,), messages=(dock,), batch_interval_s=0.4)


def _told_by_the_box(here: Installation, box: Box) -> Account:
    command = [sys.executable, "-m", "gateway", "buffer", "ledger", "--json", "--data-dir", str(here.folder / box.name)]
    lines = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert not any(one["waiting"] for one in lines)
    return {
        (one["sensor"], one["boot"], one["hour"]): (one["delivered"], one.get("lost", {}), one.get("unknown", []))
        for one in lines
    }


def _told_by_the_office(here: Installation, box: Box) -> Account:
    items: list[dict[str, Any]] = here.get("/ledger", gateway=box.id, limit=1000)["items"]
    return {
        (one["sensor"], one["boot"], one["hour"]): (
            one["received"],
            {lost["reason"]: lost["rows"] for lost in one["lost"] if lost["rows"]},
            [lost["reason"] for lost in one["lost"] if lost["unknown"]],
        )
        for one in items
    }


def _agreed(here: Installation, box: Box, *, within_s: float = 25.0) -> Account:
    """What both say, once nothing is on its way any more."""
    end = time.monotonic() + within_s
    while True:
        try:
            mine, theirs = _told_by_the_box(here, box), _told_by_the_office(here, box)
        except AssertionError:
            mine, theirs = {}, {}
        if mine and mine == theirs:
            return mine
        assert time.monotonic() < end, f"the box says {mine}, the office {theirs}"
        time.sleep(0.5)


def _account(here: Installation, box: Box) -> dict[str, Any]:
    """Of all that happened, by one question: as it goes beyond now, something may still come."""
    (item,) = here.get("/completeness", gateway=box.id)["items"]
    until, hour = datetime.fromisoformat(item["watermark"]), timedelta(hours=1)
    asked = {"from": (until - hour).isoformat(), "to": (until + hour).isoformat()}
    (item,) = here.get("/completeness", gateway=box.id, **asked)["items"]
    account: dict[str, Any] = item["account"]
    return account


def _rows(lost: list[dict[str, Any]]) -> dict[str, int]:
    return {one["reason"]: one["rows"] for one in lost if one["rows"]}


def _summed(agreed: Account) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Sensor → received, expected, lost."""
    found: dict[str, tuple[int, int, dict[str, int]]] = {}
    for (sensor, _, _), (rows, lost, _) in agreed.items():
        received, expected, before = found.get(sensor, (0, 0, {}))
        reasons = {reason: before.get(reason, 0) + lost.get(reason, 0) for reason in {*before, *lost}}
        found[sensor] = (received + rows, expected + rows + sum(lost.values()), reasons)
    return found


@pytest.mark.journey
@pytest.mark.timeout(180)
def test_box_and_office_account_for_every_row_that_the_simulators_produced(tmp_path: Path) -> None:
    with Installation(tmp_path) as here:
        here.start()
        if not here.mqtt:
            pytest.skip("there is no mosquitto")
        box = _box()
        here.add(box)
        time.sleep(1.5)
        here.link(box, "cut")
        time.sleep(1.0)
        tell(box.simulators["counter"], '{"fault": "exception", "times": 7}')
        tell(box.simulators["mqtt"], '{"fault": "garbage"}')
        time.sleep(1.5)
        here.kill_gateway(box)
        here.revive(box)
        until_everybody_reads_again(here)
        here.link(box, "restore")
        time.sleep(1.0)
        here.stop_devices()
        accounts = {one.sensor.partition("/")[2]: one for one in here.settle(timeout_s=30)}
        agreed = _agreed(here, box)
        whole = _account(here, box)
    assert not whole["complete"]
    assert {"unreadable", "refused", UNKNOWN} <= {one["reason"] for one in whole["missing"]}
    told = {one["sensor"]: one for one in whole["sensors"]}
    assert {name: (one["received"], one["expected"], _rows(one["lost"])) for name, one in told.items()} == _summed(
        agreed
    )
    received: Counter[str] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    for (sensor, _, _), (rows, reasons, _) in agreed.items():
        received[sensor] += rows
        lost.update({(sensor, reason): count for reason, count in reasons.items()})
    assert {sensor: one.delivered for sensor, one in accounts.items()} == dict(received)
    assert {name: (one.missing, one.invented) for name, one in accounts.items() if one.missing or one.invented} == {}
    assert set(accounts["counter"].gap_reasons) <= {UNKNOWN}, "a read was answered and lost, but by the kill"
    assert UNKNOWN in {name for _, _, unknown in agreed.values() for name in unknown}, "the kill was not told"
    assert lost["counter", "unreadable"] >= 7
    assert lost["dock", "refused"] == 1
