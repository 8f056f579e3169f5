"""Unmodified bleak against a simulated BlueZ: what is heard, what is not, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.backoff import Backoff
from gateway.decoders.advertisements import PLAIN, Advert
from gateway.errors import Misconfigured
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_scanner import AdapterScanner
from gateway.sensors.bluez_watch import BluezWatch
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_payloads import RUUVI, ruuvi
from gateway.simulators.bluez_radio import Report
from gateway.simulators.bluez_scenario import Advertiser, AdvertisingSensor
from gateway.simulators.sent_log import SentLog
from gateway.simulators.waves import Wave
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.sensors.listening import CLOCK, Listening, balance, listening, simulated_bluez
from tests.gateway.sensors.rig import until

PROBE = "D4:12:43:55:AA:01"
TAG = "D4:12:43:55:AA:02"
KEY = "231d39c1d7cc1ab1aee224cd096db932"
RUUVI_SENSOR = f"""
[[sensor]]
id = "tag"
driver = "ble"
address = "{TAG}"
profile = "ruuvi-ruuvitag@1"
"""
BTHOME_SENSOR = f"""
[[sensor]]
id = "probe"
driver = "ble"
address = "{PROBE}"
profile = "bthome-thermometer@1"
"""
COUNTING = {"temperature": Wave(kind="counting")}


@pytest.fixture
async def bluez(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedBluez]:
    async with simulated_bluez(monkeypatch) as started:
        yield started


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "sent.jsonl"


def tag(bluez: SimulatedBluez, log: Path | None = None, **more: Any) -> Advertiser:
    options = AdvertisingSensor(id="tag", address=TAG, signal=COUNTING, **more)
    return Advertiser(options=options, bluez=bluez, log=SentLog(path=log, clock=CLOCK))


def probe(bluez: SimulatedBluez, **more: Any) -> Advertiser:
    options = AdvertisingSensor(id="probe", address=PROBE, format="bthome-v2", signal=COUNTING, **more)
    return Advertiser(options=options, bluez=bluez, log=SentLog(path=None, clock=CLOCK))


async def heard(running: Listening, sensor: str, rows: int) -> None:
    await until(lambda: len(running.facts[sensor].rows) >= rows)


async def quiet(running: Listening, sensor: str, count: int) -> None:
    """So much was heard, and all of it was looked at."""
    await until(lambda: running.driver[sensor].counters["heard"] >= count)


@pytest.mark.parametrize("scan", ["active", "passive", "auto"])
async def test_each_measurement_gives_one_row_however_often_it_is_advertised(bluez: SimulatedBluez, scan: str) -> None:
    async with listening(f'[ble]\nscan = "{scan}"\n' + RUUVI_SENSOR) as running:
        await until(lambda: bluez.scanning)
        sensor = tag(bluez, repeats=3, rssi=-71)
        for k in range(1, 6):
            await sensor.measure(0.0)
            await heard(running, "tag", k)
        await asyncio.sleep(0.05)
        assert running.facts["tag"].column(0) == [1, 2, 3, 4, 5]
        assert running.facts["tag"].column(-1) == [-71] * 5
        assert running.facts["tag"].losts == []
        times = [row.mono_ms for row in running.facts["tag"].rows]
        assert times == sorted(set(times))


async def test_where_bluez_offers_no_monitors_auto_scans_actively_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with simulated_bluez(monkeypatch, experimental=False) as bluez:
        scanner, adverts = scanner_for(scan="auto")
        task = asyncio.create_task(scanner.run())
        await until(lambda: bluez.scanning and scanner.mode is not None)
        assert scanner.mode == "active"
        await ended(task)
        assert scanner.mode is None
        scanner, adverts = scanner_for(scan="passive")
        task = asyncio.create_task(scanner.run())
        await until(lambda: "experimental" in str(scanner.problem))
        assert adverts.foreign == 0
        await ended(task)


def scanner_for(*, scan: Any = "active", silent_s: float = 60.0) -> tuple[AdapterScanner, Adverts]:
    adverts = Adverts()
    scanner = AdapterScanner(
        adapter=None,
        number=0,
        scan=scan,
        silent_s=silent_s,
        clock=CLOCK,
        adverts=adverts,
        backoff=Backoff(base_s=0.02, cap_s=0.05),
    )
    return scanner, adverts


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def off(bluez: SimulatedBluez) -> None:
    bluez.power("hci0", on=False)


async def on(bluez: SimulatedBluez) -> None:
    bluez.power("hci0", on=True)


async def unplug(bluez: SimulatedBluez) -> None:
    bluez.unplug("hci0")


async def plug(bluez: SimulatedBluez) -> None:
    bluez.plug("hci0")


FAULTS = [
    pytest.param(off, on, "hci0 was switched off", id="adapter off and on"),
    pytest.param(unplug, plug, "hci0 was unplugged", id="adapter unplugged and back"),
    pytest.param(SimulatedBluez.stop, SimulatedBluez.start, "hci0 was unplugged", id="bluetoothd restarted"),
    pytest.param(SimulatedBluez.kill, SimulatedBluez.start, "bluetoothd went away", id="bluetoothd killed"),
]


@pytest.mark.parametrize("scan", ["active", "passive"])
@pytest.mark.parametrize(("breaks", "mends", "why"), FAULTS)
async def test_after_a_fault_it_hears_again_and_what_it_missed_is_in_a_gap(
    bluez: SimulatedBluez, log: Path, scan: str, breaks: Any, mends: Any, why: str
) -> None:
    async with listening(f'[ble]\nscan = "{scan}"\n' + RUUVI_SENSOR) as running:
        await until(lambda: bluez.scanning)
        sensor = tag(bluez, log)
        for k in range(1, 4):
            await sensor.measure(0.0)
            await heard(running, "tag", k)
        for _ in range(2):  # twice: what recovered once must not have been luck
            before = len(running.facts["tag"].rows)
            await breaks(bluez)
            await asyncio.sleep(0.05)
            await sensor.measure(0.0)  # nobody can hear this one
            await mends(bluez)
            await until(lambda: bluez.scanning)
            await asyncio.sleep(0.05)
            await sensor.measure(0.0)
            await heard(running, "tag", before + 1)
        facts = running.facts["tag"]
        assert facts.column(0) == [1, 2, 3, 5, 7]
        assert {lost.reason for lost in facts.losts} == {pb.GAP_UNREADABLE}
        scanner = running.built.tasks[1].run.__self__  # type: ignore[attr-defined]
        assert scanner.counters[why] == 2
        assert scanner.counters["scans"] == 3
    balanced(running, log)


def balanced(running: Listening, log: Path) -> None:
    """As the balance of a journey sees it, from the simulator's own log and what was emitted."""
    done = balance(running, "tag", log)
    assert done.balanced, done
    assert done.delivered == len(running.facts["tag"].rows)
    assert done.in_gaps == done.produced - done.delivered > 0


async def test_with_two_adapters_one_may_leave_and_nothing_is_lost_or_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    async with simulated_bluez(monkeypatch, adapters=("hci0", "hci1")) as bluez:
        async with listening('[ble]\nadapters = ["hci0", "hci1"]\nscan = "active"\n' + RUUVI_SENSOR) as running:
            scanners = [task.run.__self__ for task in running.built.tasks[1:]]  # type: ignore[attr-defined]
            await until(lambda: all(scanner.mode for scanner in scanners))
            sensor = tag(bluez)
            await sensor.measure(0.0)
            await quiet(running, "tag", 2)
            bluez.unplug("hci0")
            await until(lambda: scanners[0].mode is None)
            await sensor.measure(0.0)
            await heard(running, "tag", 2)
            assert scanners[1].mode == "active"
        assert running.facts["tag"].column(0) == [1, 2]
        assert running.facts["tag"].losts == []


async def test_an_adapter_that_is_not_there_is_named_with_those_that_are(bluez: SimulatedBluez) -> None:
    bluez.plug("hci3")
    async with BluezWatch(wanted="hci7") as watch:
        ready = asyncio.create_task(watch.ready())
        await until(lambda: watch.problem)
        assert watch.problem == (
            "there is no adapter hci7; there is hci0 (C0:FF:EE:00:00:00), hci3 (C0:FF:EE:00:00:03)"
        )
        bluez.plug("hci7")
        assert (await ready).name == "hci7"
    async with BluezWatch(wanted=None) as watch:
        bluez.power("hci0", on=False)
        await until(watch.changed.is_set)
        assert (await watch.ready()).name == "hci3", "one that is on comes first"
        for name in ("hci3", "hci7"):
            bluez.unplug(name)
        await until(lambda: set(watch._adapters) == {"hci0"})
        ready = asyncio.create_task(watch.ready())
        await until(lambda: watch.problem)
        assert str(watch.problem).startswith("hci0 is switched off")
        await bluez.kill()
        await until(lambda: "bluetoothd isn't running" in str(watch.problem))
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)


async def test_a_fresh_scanner_follows_when_nothing_was_heard_for_long(bluez: SimulatedBluez) -> None:
    scanner, _ = scanner_for(silent_s=0.2)
    task = asyncio.create_task(scanner.run())
    await until(lambda: scanner.counters["nothing was heard"] >= 3)
    assert scanner.counters["scans"] >= 3
    await ended(task)


async def test_a_passive_scan_that_hears_nothing_gives_way_to_an_active_one(bluez: SimulatedBluez) -> None:
    scanner, _ = scanner_for(scan="auto", silent_s=0.2)
    task = asyncio.create_task(scanner.run())
    await until(lambda: scanner.mode == "passive")
    await until(lambda: scanner.mode == "active")
    await ended(task)


async def test_properties_that_change_without_an_advertisement_give_nothing(bluez: SimulatedBluez) -> None:
    async with listening(BTHOME_SENSOR) as running:
        await until(lambda: bluez.scanning)
        await probe(bluez).measure(0.0)
        await heard(running, "probe", 1)
        scanner = running.built.tasks[1].run.__self__  # type: ignore[attr-defined]
        for _ in range(3):
            bluez.phantom(PROBE)
        await until(lambda: scanner.counters["phantoms"] == 9)
        assert scanner.counters["adverts"] == 1, "they are no sign of life either"
        assert len(running.facts["probe"].rows) == 1
        assert running.driver["probe"].counters["heard"] == 1


@pytest.mark.parametrize("key", ["", KEY])
async def test_a_replayed_measurement_gives_nothing(bluez: SimulatedBluez, tmp_path: Path, key: str) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY)
    secret.chmod(0o600)
    more = f'key_file = "{secret}"\n' if key else ""
    async with listening(BTHOME_SENSOR + more) as running:
        await until(lambda: bluez.scanning)
        sensor = probe(bluez, key=key)
        for k in range(1, 4):
            await sensor.measure(0.0)
            await heard(running, "probe", k)
        await sensor.replay()
        await quiet(running, "probe", 4)
        await sensor.measure(0.0)
        await heard(running, "probe", 4)
        counters = running.driver["probe"].counters
        assert [round(value / 100, 2) for value in running.facts["probe"].column(0)] == [0.01, 0.02, 0.03, 0.04]
        assert counters["older"] == 1
        assert running.facts["probe"].losts == []


async def test_garbage_is_counted_and_lies_in_a_gap_between_good_rows(bluez: SimulatedBluez) -> None:
    async with listening(BTHOME_SENSOR) as running:
        await until(lambda: bluez.scanning)
        sensor = probe(bluez)
        await sensor.measure(0.0)
        await heard(running, "probe", 1)
        await sensor.garbage()
        await quiet(running, "probe", 2)
        assert running.driver["probe"].problem is not None
        assert running.driver["probe"].pending_since() is not None, "completeness waits for the gap"
        await sensor.measure(0.0)
        await heard(running, "probe", 2)
        first, lost, second = running.facts["probe"].all
        assert lost == (first.mono_ms, second.mono_ms, 1, pb.GAP_REFUSED)  # type: ignore[union-attr]
        assert running.driver["probe"].pending_since() is None


async def test_plain_data_in_the_name_of_a_sensor_with_a_key_is_refused(bluez: SimulatedBluez, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY + "\n")
    secret.chmod(0o600)
    async with listening(BTHOME_SENSOR + f'key_file = "{secret}"\n') as running:
        await until(lambda: bluez.scanning)
        await probe(bluez).measure(0.0)
        await quiet(running, "probe", 1)
        assert running.facts["probe"].rows == []
        assert running.driver["probe"].problem == PLAIN
        assert running.driver["probe"].counters["refused_plain"] == 1
        await probe(bluez, key=KEY).measure(0.0)
        await heard(running, "probe", 1)


async def test_other_devices_and_other_formats_give_nothing(bluez: SimulatedBluez) -> None:
    async with listening(BTHOME_SENSOR) as running:
        await until(lambda: bluez.scanning)
        await tag(bluez).measure(0.0)
        await bluez.advertise(Report(address=PROBE, manufacturer={0x004C: b"\x02\x15"}))
        await quiet(running, "probe", 1)
        assert running.driver["probe"].counters["foreign"] == 1
        assert running.facts["probe"].all == []


async def test_the_tags_own_not_available_is_a_quality_and_the_others_stay(bluez: SimulatedBluez) -> None:
    async with listening(RUUVI_SENSOR) as running:
        await until(lambda: bluez.scanning)
        steps = {"temperature": -32768, "relative_humidity": 65535, "pressure": 51_325, "acceleration_x": 0}
        steps |= {"acceleration_y": 0, "acceleration_z": 1000, "battery_voltage": 1400, "tx_power": 22}
        payload = ruuvi(TAG, steps | {"movement_counter": 255}, 1, None)
        await bluez.advertise(Report(address=TAG, manufacturer={RUUVI: payload.manufacturer[RUUVI]}))
        await heard(running, "tag", 1)
        (row,) = running.facts["tag"].rows
        assert row.values == (None, None, 51_325, 0, 0, 1000, 1400, 22, None, -60)
        bad = pb.QUALITY_BAD_SENSOR
        assert row.quality == (bad, bad, 0, 0, 0, 0, 0, 0, bad, 0)


async def test_without_a_bus_the_gateway_waits_and_hears_once_there_is_one(
    bluez: SimulatedBluez, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = os.environ["DBUS_SYSTEM_BUS_ADDRESS"]
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address + "-not-there")
    async with listening(RUUVI_SENSOR) as running:
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in running.tasks)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        await until(lambda: bluez.scanning)
        await tag(bluez).measure(0.0)
        await heard(running, "tag", 1)


async def test_what_is_heard_on_a_simulated_bus_says_so(bluez: SimulatedBluez, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(RUUVI_SENSOR) as running:
        (group,) = running.driver["tag"].groups()
        assert group.period_ms == 1285
        assert {series.attrs.get("simulated") for series in group.series} == {"true"}
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    async with listening("") as none:
        assert none.tasks == []


async def test_a_simulated_bluez_never_goes_on_a_real_bus() -> None:
    for address in ("unix:path=/run/dbus/system_bus_socket", "unix:path=/var/run/dbus/system_bus_socket", ""):
        with pytest.raises(ValueError, match="never goes on a real one"):
            SimulatedBluez(address)


async def test_a_full_queue_refuses_the_newest_and_its_sensor_has_a_gap() -> None:
    adverts = Adverts(limit=2)
    taken: list[str] = []

    class Sensor:
        address = TAG

        def queued(self, mono_ms: int) -> None:
            taken.append(f"queued {mono_ms}")

        def overflowed(self, mono_ms: int) -> None:
            taken.append(f"overflowed {mono_ms}")

        def take(self, advert: Advert) -> None:
            taken.append(f"took {advert.mono_ms}")

        def deaf(self, since_ms: int) -> None: ...
        def hears(self, now_ms: int) -> None: ...

    with adverts.joined(Sensor()):
        for at in (1, 2, 3):
            adverts.put(Advert(TAG, {}, {}, -60, at))
        task = asyncio.create_task(adverts.run())
        await until(lambda: len(taken) == 5)
        await ended(task)
    assert taken == ["queued 1", "queued 2", "overflowed 3", "took 1", "took 2"]


async def test_an_overflow_becomes_a_gap_of_its_own_reason(bluez: SimulatedBluez) -> None:
    async with listening(RUUVI_SENSOR) as running:
        await until(lambda: bluez.scanning)
        sensor = tag(bluez)
        await sensor.measure(0.0)
        await heard(running, "tag", 1)
        running.driver["tag"].overflowed(CLOCK.mono_ms())
        await sensor.measure(0.0)
        await heard(running, "tag", 2)
        (lost,) = running.facts["tag"].losts
        assert (lost.reads, lost.reason) == (1, pb.GAP_QUEUE_FULL)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (KEY, 0o644, "can be read by others; do: chmod 600"),
        ("too short", 0o600, "doesn't hold 32 hexadecimal digits"),
        (None, 0o600, "No such file"),
    ],
)
async def test_a_key_file_that_cannot_be_used_is_told_with_its_setting(
    tmp_path: Path, text: str | None, mode: int, why: str
) -> None:
    path = tmp_path / "key"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(Misconfigured, match=f"sensor probe: key_file: .*{why}"):
        async with listening(BTHOME_SENSOR + f'key_file = "{path}"\n'):
            pass
