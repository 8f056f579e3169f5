"""What the daemon relies on, for every driver there is; a new entry in DRIVERS needs a document here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.clock import SystemClock
from gateway.pipeline import flow
from gateway.reading import GroupShape, Lost, Row
from gateway.sensors import DRIVERS, Built
from gateway.supervise import supervised
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import from_toml

ROOT = Path(__file__).parents[2]
NOBODY = 1
DOCUMENTS = {
    "ble": """
[[sensor]]
id = "it"
driver = "ble"
address = "D4:12:43:55:AA:01"
profile = "ruuvi-ruuvitag@1"
""",
    "gatt": """
[[sensor]]
id = "it"
driver = "gatt"
address = "D4:12:43:55:AA:01"
profile = "bluetooth-thermometer@1"
""",
    "gpsd": f"""
[[sensor]]
id = "it"
driver = "gpsd"
address = "127.0.0.1:{NOBODY}"
""",
    "host": """
[[sensor]]
id = "it"
driver = "host"
""",
    "modem": """
[[sensor]]
id = "it"
driver = "modem"
""",
    "modbus": f"""
[[bus]]
id = "bus"
kind = "tcp"
host = "127.0.0.1"
port = {NOBODY}
[[sensor]]
id = "it"
driver = "modbus"
bus = "bus"
profile = "xy-md02@1"
every_s = 0.05
""",
    "mqtt": f"""
[[broker]]
id = "hall"
host = "127.0.0.1"
port = {NOBODY}
[[sensor]]
id = "it"
driver = "mqtt"
broker = "hall"
topic = "hall/it"
profile = "aqara-wsdcgq11lm@1"
""",
    "simulated": """
[[sensor]]
id = "it"
driver = "simulated"
every_s = 0.05
""",
}


class Durable:
    async def durable(self) -> None:
        return


class Facts:
    """Checks what every fact must fulfil."""

    def __init__(self, groups: list[GroupShape]) -> None:
        self.groups = groups
        self.count = 0

    def row(self, group: int, row: Row) -> Durable:
        assert len(row.values) == len(self.groups[group].series)
        assert row.quality is None or len(row.quality) == len(row.values)
        self.count += 1
        return Durable()

    def lost(self, group: int, lost: Lost) -> None:
        assert lost.after_mono_ms < lost.before_mono_ms
        assert lost.reads > 0
        assert self.groups[group]
        self.count += 1


@pytest.fixture(autouse=True)
def no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")


def built(name: str) -> Built:
    return sensors.build(from_toml("config_version = 1\n" + DOCUMENTS[name]), clock=SystemClock(), profiles=Profiles())


def test_every_driver_has_a_document() -> None:
    assert set(DOCUMENTS) == set(DRIVERS)


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_its_groups_can_be_declared_and_stay_the_same(name: str) -> None:
    (sensor,) = built(name).sensors
    groups = sensor.driver.groups()
    assert groups == sensor.driver.groups()
    for group in groups:
        assert group.sensor == sensor.id == "it"
        assert group.period_ms >= 1
        names = [series.name for series in group.series]
        assert len(names) == len(set(names)) > 0
        for series in group.series:
            assert series.type in pb.ValueType.values()
            assert all(isinstance(text, str) for text in series.attrs.values())
    flow.check(from_toml("config_version = 1\n" + DOCUMENTS[name]).sensor[0], groups)


@pytest.mark.parametrize("name", sorted(DRIVERS))
async def test_with_nobody_at_the_other_end_it_goes_on_and_stops_when_told_and_can_run_again(name: str) -> None:
    made = built(name)
    (sensor,) = made.sensors
    facts = Facts(list(sensor.driver.groups()))
    for _ in range(2):
        running = [asyncio.create_task(supervised(task.name, task.run), name=task.name) for task in made.tasks]
        running.append(asyncio.create_task(sensor.driver.run(facts), name="it"))
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in running)
        since = sensor.driver.pending_since()
        assert since is None or since <= SystemClock().mono_ms()
        for task in reversed(running):
            task.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


def test_a_parser_package_is_imported_only_for_a_profile_that_needs_it() -> None:
    packages = {"bthome_ble", "govee_ble", "inkbird_ble", "sensorpush_ble", "thermopro_ble", "xiaomi_ble", "Cryptodome"}
    program = (
        "import sys; from tests.contracts.test_drivers import built;"
        f"built('ble'); print(sorted({packages!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n", "the document has a RuuviTag"


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_what_is_not_configured_is_not_imported(name: str) -> None:
    libraries = {
        "ble": {"bleak", "bleak_retry_connector", "bthome_ble", "ruuvitag_ble", "dbus_fast"},
        "gatt": {"bleak", "bleak_retry_connector", "dbus_fast"},
        "mqtt": {"aiomqtt"},
        "modbus": {"pymodbus"},
        "modem": {"dbus_fast"},
    }
    foreign = set().union(*(found for other, found in libraries.items() if other != name)) - libraries.get(name, set())
    program = (
        "import sys; from tests.contracts.test_drivers import built;"
        f"built({name!r}); print(sorted({foreign!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
