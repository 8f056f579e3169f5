"""An adapter that says it listens and hears nothing: what is tried, in which order, and where it ends. Turned time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.backoff import Backoff
from gateway.clock import SystemClock
from gateway.sensors.ble_ladder import REST_CAP_MS, Ladder, Step
from gateway.sensors.ble_scanner import AdapterScanner
from gateway.sensors.bluez_watch import NO_ANSWER, BluezWatch
from gateway.simulators.bluez_hung import HungBluez, Remedy
from gateway.simulators.bluez_scenario import Advertiser
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.sensors.listening import Listening, bluez_of, listening
from tests.gateway.sensors.rig import until
from tests.gateway.sensors.test_ble import RUUVI_SENSOR, TAG, heard, tag

DETECTED_S = 60
RECOVERED_S = 120
TICK_S = 5
SLOW_S = 30.0


class TurnedClock(SystemClock):
    """Stands still until it is turned."""

    def __init__(self) -> None:
        super().__init__()
        self._mono_ms = 10_000_000

    def mono_ms(self) -> int:
        return self._mono_ms

    def turn(self, seconds: float) -> None:
        self._mono_ms += round(seconds * 1000)


class Hour:
    """A sensor, an adapter and a gateway on one turned clock."""

    def __init__(self, bluez: HungBluez, running: Listening, clock: TurnedClock) -> None:
        self.bluez, self.running, self.clock = bluez, running, clock
        self.scanner: AdapterScanner = running.built.tasks[1].run.__self__  # type: ignore[attr-defined]
        self.sensor: Advertiser = tag(bluez)

    async def tick(self) -> None:
        """Time passes and the sensor measures; then whoever must do something about it has done it."""
        counters = self.scanner.counters
        scans, adverts = counters["scans"], counters["adverts"]
        self.clock.turn(TICK_S)
        due = self.clock.mono_ms() >= self.scanner._heard_ms + self.scanner._ladder.patience_ms
        if due:
            await until(lambda: counters["scans"] > scans, SLOW_S)
        await until(lambda: self.bluez.scanning, SLOW_S)
        hung = self.bluez.hung
        await self.sensor.measure(0.0)
        if hung is None:
            await until(lambda: counters["adverts"] > adverts, SLOW_S)

    async def until(self, condition: Any, *, within_s: float) -> float:
        """Turned seconds until it holds."""
        waited = 0.0
        while not condition():
            assert waited <= within_s, "it never happened"
            await self.tick()
            waited += TICK_S
        return waited


@asynccontextmanager
async def hour(monkeypatch: pytest.MonkeyPatch, scan: str = "active", more: str = "") -> AsyncIterator[Hour]:
    clock = TurnedClock()
    text = f'[ble]\nscan = "{scan}"\n{more}\n{RUUVI_SENSOR}'
    async with (
        bluez_of(HungBluez, monkeypatch) as bluez,
        listening(text, clock=clock) as running,
    ):
        one = Hour(bluez, running, clock)
        one.scanner._look_every_s = 0.01
        one.scanner._backoff = Backoff(base_s=0.01, cap_s=0.02)
        await until(lambda: one.scanner.mode and bluez.scanning, SLOW_S)
        await one.sensor.measure(0.0)
        await heard(running, "tag", 1)
        yield one


@pytest.mark.parametrize(
    ("remedy", "steps"),
    [
        ("discovery", [Step.DISCOVERY]),
        ("power", [Step.DISCOVERY, Step.POWER]),
        ("bus", [Step.DISCOVERY, Step.POWER, Step.BUS]),
    ],
)
@pytest.mark.parametrize("scan", ["active", "passive"])
async def test_a_radio_that_hangs_is_noticed_and_recovered_and_nothing_old_is_told_as_new(
    monkeypatch: pytest.MonkeyPatch, remedy: Remedy, steps: list[Step], scan: str
) -> None:
    async with hour(monkeypatch, scan) as one:
        facts, counters = one.running.facts["tag"], one.scanner.counters
        began_ms = one.clock.mono_ms()
        one.bluez.hang(remedy)
        one.bluez.phantom(TAG)  # what is cached is neither a measurement nor a sign of life
        await until(lambda: counters["phantoms"] == 3, SLOW_S)
        assert await one.until(lambda: counters["nothing was heard"], within_s=600) <= DETECTED_S
        await one.until(lambda: len(facts.rows) == 2, within_s=600)
        assert one.clock.mono_ms() - began_ms <= RECOVERED_S * 1000
        assert [step for step in Step if counters[step.value]] == steps
        assert all(counters[step.value] == 1 for step in steps)
        assert counters["phantoms"] == 3
        assert one.bluez.power_switched == (Step.POWER in steps)
        first, second = facts.rows
        assert second.mono_ms == one.clock.mono_ms(), "what was sent while nothing was heard is no row"
        assert second.values[0] == one.sensor.k
        assert {lost.reason for lost in facts.losts} == {pb.GAP_UNREADABLE}
        assert min(lost.after_mono_ms for lost in facts.losts) <= first.mono_ms + 1
        assert one.scanner.problem is None


async def test_where_nothing_helps_it_ends_in_a_report_and_never_in_a_busy_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with hour(monkeypatch) as one:
        counters = one.scanner.counters
        one.bluez.hang("nothing")
        assert await one.until(lambda: one.scanner._ladder.exhausted, within_s=600) <= RECOVERED_S
        assert "unplug it and plug it in again" in str(one.scanner.problem)
        before = counters["scans"]
        for _ in range(2 * 3600 // TICK_S):
            await one.tick()
        assert counters["scans"] - before <= 16, "four steps per rest, and rests that double"
        assert one.bluez.power_switched == counters[Step.POWER.value] <= 5
        assert "unplug it" in str(one.scanner.problem), "said until something is heard"
        one.bluez.mend()
        await one.until(lambda: one.scanner.problem is None, within_s=TICK_S * 3)
        assert not one.scanner._ladder.exhausted


async def test_an_adapter_may_be_left_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hour(monkeypatch, more="power_cycle = false") as one:
        one.bluez.hang("nothing")
        await one.until(lambda: one.scanner._ladder.exhausted, within_s=600)
        assert one.bluez.power_switched == 0
        assert "off and on" not in str(one.scanner.problem)


async def test_scanning_that_is_refused_for_ever_has_the_adapter_switched_off_and_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with hour(monkeypatch) as one:
        one.bluez.refuses = True
        one.bluez.hang("discovery")
        await one.until(lambda: one.scanner.counters["nothing was heard"], within_s=600)
        rows = len(one.running.facts["tag"].rows)
        await one.until(lambda: len(one.running.facts["tag"].rows) > rows, within_s=600)
        assert one.scanner.counters["scanning refused"] >= 1
        assert one.bluez.power_switched == 1
        assert one.scanner.problem is None


async def test_a_bluetoothd_that_answers_nobody_is_told_as_that_and_heard_again_once_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [f"gateway.sensors.{name}" for name in ("ble_scanner.START_S", "ble_scanner.STOP_S", "bluez_watch.CALL_S")]
    async with hour(monkeypatch) as one:
        for limit in limits:
            monkeypatch.setattr(limit, 0.2)
        one.bluez.mute = True
        one.clock.turn(DETECTED_S)
        await until(lambda: one.scanner.counters[Step.BUS.value] and one.scanner.problem == NO_ANSWER, SLOW_S)
        assert one.scanner.counters["scanning refused"] >= 3
        assert one.scanner.counters[Step.POWER.value] == 1
        for limit in limits:
            monkeypatch.setattr(limit, SLOW_S)
        await one.bluez.kill()
        one.bluez.mute = False
        await one.bluez.start()
        await until(lambda: one.scanner.mode and one.bluez.scanning, SLOW_S)
        rows = len(one.running.facts["tag"].rows)
        await one.sensor.measure(0.0)
        await heard(one.running, "tag", rows + 1)
        assert one.scanner.problem is None


async def test_an_adapter_is_known_by_its_address_whatever_its_name_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bluez_of(HungBluez, monkeypatch, adapters=("hci0", "hci1")) as bluez:
        text = '[ble]\nadapters = ["C0:FF:EE:00:00:01"]\nscan = "active"\n' + RUUVI_SENSOR
        async with listening(text) as running:
            scanner: AdapterScanner = running.built.tasks[1].run.__self__  # type: ignore[attr-defined]
            await until(lambda: scanner.mode)
            bluez.unplug("hci0")
            await tag(bluez).measure(0.0)
            await heard(running, "tag", 1)
            bluez.unplug("hci1")
            await until(lambda: scanner.counters["hci1 was unplugged"])
            bluez.plug("hci0")
            await until(lambda: "there is no adapter C0:FF:EE:00:00:01" in str(scanner.problem))
            bluez.plug("hci1")
            await until(lambda: scanner.mode)


async def test_an_adapter_that_stays_off_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bluez_of(HungBluez, monkeypatch) as bluez, BluezWatch(wanted=None) as watch:
        adapter = await watch.ready()
        await watch.power_cycle(adapter.name)
        assert bluez.power_switched == 1
        assert (await watch.ready()).powered
        del bluez._handlers["org.freedesktop.DBus.Properties", "Set"]
        with pytest.raises(Exception, match="hci0 can't be switched on"):
            await watch.power_cycle(adapter.name)


async def test_what_carries_data_otherwise_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hour(monkeypatch) as one:
        one.bluez.hang("nothing")
        for _ in range(30):
            one.scanner.alive()
            await one.tick()
        assert one.scanner.counters["nothing was heard"] == 0


def test_a_ladder_begins_at_the_bottom_after_each_sign_of_life_and_rests_longer_after_each_round() -> None:
    ladder = Ladder(silent_ms=45_000)
    assert ladder.patience_ms == 45_000
    rounds = []
    for _ in range(12):
        steps = [ladder.climb(power=True, bus=True) for _ in range(4)]
        assert steps == [Step.DISCOVERY, Step.POWER, Step.BUS, Step.REPORT]
        rounds.append(ladder.patience_ms)
    assert rounds[:3] == [300_000, 600_000, 1_200_000]
    assert rounds[-1] == REST_CAP_MS
    ladder.heard()
    assert ladder.climb(power=False, bus=False) is Step.DISCOVERY
    assert ladder.climb(power=False, bus=False) is Step.REPORT
    assert ladder.patience_ms == 300_000


async def test_silence_is_no_trouble_while_no_sensor_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    door = '[[sensor]]\nid = "door"\ndriver = "ble"\naddress = "D4:12:43:55:AA:01"\nprofile = "bthome-door@1"\n'
    async with bluez_of(HungBluez, monkeypatch), listening(door) as running:
        scanner: AdapterScanner = running.built.tasks[1].run.__self__  # type: ignore[attr-defined]
        assert scanner._ladder.patience_ms == 3 * 3600 * 1000
        await asyncio.sleep(0)
