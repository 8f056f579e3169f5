"""A modem's figures, by a ModemManager that is not ours to trust, over a real dbus-daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import pytest

from firmware_configs.loader import Profiles
from gateway.sensors.modem import BUS_VARIABLE, MODEM, SIGNAL, ModemSensor, facts_of
from gateway.simulators.bluez_bus import private_bus
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import ModemSensor as SensorOptions
from tests.gateway.sensors.listening import CLOCK, Facts
from tests.gateway.sensors.modem_manager import FakeModemManager
from tests.gateway.sensors.rig import until
from tests.servers import require

PROFILE = Profiles().host("modemmanager-modem@1")
QUICKLY_S = 0.03


@pytest.fixture
async def manager(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeModemManager]:
    require("dbus-daemon", "dbus")
    async with private_bus() as address:
        monkeypatch.setenv(BUS_VARIABLE, address)
        made = FakeModemManager(address)
        await made.start()
        yield made
        await made.stop()


class Reading:
    """One sensor, running."""

    def __init__(self, equipment: str = "") -> None:
        options = SensorOptions(id="modem", equipment=equipment)
        self.sensor = ModemSensor(options=options, profile=PROFILE, clock=CLOCK)
        self.sensor._every_s = QUICKLY_S
        self.facts = Facts()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.sensor.run(self.facts), name="modem")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def last(self) -> dict[str, object]:
        names = [series.name for series in self.sensor.groups()[0].series]
        return dict(zip(names, self.facts.rows[-1].values, strict=True))


async def test_a_connected_modem_tells_its_figures_and_is_asked_to_refresh_them_once(manager: FakeModemManager) -> None:
    manager.plug(0, equipment="356938035643809")
    async with Reading() as reading:
        await until(lambda: len(reading.facts.rows) >= 3)
        assert reading.last() == {
            "state": "connected", "registration": "roaming", "operator": "Vivo", "technology": "lte",
            "signal_quality": 61, "rssi": -670, "rsrp": -970, "rsrq": -105, "snr": None,
        }  # fmt: skip
        assert reading.facts.rows[0].quality is not None
        assert reading.facts.rows[0].quality[-1] == pb.QUALITY_BAD_COMM
        assert len(manager.setups) == 1
        assert reading.sensor.groups()[0].series[0].attrs == {"simulated": "true"}


async def test_unplugged_it_is_a_gap_and_another_number_is_the_same_modem(manager: FakeModemManager) -> None:
    manager.plug(0, equipment="111")
    manager.plug(1, equipment="222", rsrp=-80.0)
    async with Reading("222") as reading:
        await until(lambda: reading.facts.rows)
        assert reading.last()["rsrp"] == -800
        del manager.modems["/org/freedesktop/ModemManager1/Modem/1"]
        await until(lambda: reading.sensor.problem == "there is no modem 222; there is 111")
        manager.plug(7, equipment="222", rsrp=-70.0)
        await until(lambda: reading.facts.losts)
        await until(lambda: reading.last()["rsrp"] == -700)
        assert reading.facts.losts[0].reason == pb.GAP_UNREADABLE
        assert reading.sensor.problem is None


async def test_who_may_not_ask_for_figures_is_told_the_quality_alone(manager: FakeModemManager) -> None:
    manager.allowed = False
    manager.plug(0, equipment="111")[SIGNAL].pop("Lte")
    async with Reading() as reading:
        await until(lambda: len(reading.facts.rows) >= 2)
        assert (reading.last()["signal_quality"], reading.last()["rsrp"]) == (61, None)


async def test_without_modem_manager_it_goes_on_and_comes_back(manager: FakeModemManager) -> None:
    await manager.stop()
    async with Reading() as reading:
        await until(lambda: "no word from ModemManager" in str(reading.sensor.problem))
        assert not reading.facts.rows
        await manager.start()
        await until(lambda: reading.sensor.problem == "there is no modem")
        manager.plug(0, equipment="111")
        await until(lambda: reading.facts.rows)


async def test_without_a_bus_it_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv(BUS_VARIABLE, f"unix:path={tmp_path}/none")
    async with Reading() as reading:
        await until(lambda: reading.sensor.counters["failed"] >= 2)
        assert "no word from ModemManager" in str(reading.sensor.problem)


@pytest.mark.parametrize(
    "modem",
    [{}, {"State": 99, "SignalQuality": 5, "AccessTechnologies": 0}, {"AccessTechnologies": 0xFFFFFFFF}],
)
def test_what_modem_manager_does_not_know_is_absent(modem: dict[str, object]) -> None:
    assert facts_of({MODEM: modem}) == {}
