"""The simulated BlueZ holds what the real one is asked in its machine (`make test-bluez-vm`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_peripheral import Characteristic, Peripheral, uuid_of
from gateway.simulators.bluez_scenario import Advertiser, AdvertisingSensor
from gateway.simulators.sent_log import SentLog
from gateway.simulators.waves import Wave
from tests.bluez_vm.assertions import ASSERTIONS, LOCKED, LOCKED_VALUE, PASSKEY, PROBE, READ, TOLD
from tests.gateway.sensors.listening import CLOCK, simulated_bluez
from tests.gateway.sensors.on_the_air import on_the_air, thermometer

ARANET = "f0cd3001-95da-4f4b-9ac8-aa55d312af0c"


class SimulatedStage:
    """See `Stage`."""

    def __init__(self, bluez: SimulatedBluez) -> None:
        self.patience_s = 60.0
        self._bluez = bluez
        self._told = 0

    async def power(self, *, on: bool) -> None:
        self._bluez.power("hci0", on=on)

    async def stop(self) -> None:
        await self._bluez.stop()

    async def kill(self) -> None:
        await self._bluez.kill()

    async def start(self) -> None:
        await self._bluez.start()

    async def speak(self) -> None:
        options = AdvertisingSensor(
            id="probe", address=PROBE, format="bthome-v2", signal={"temperature": Wave(kind="counting")}
        )
        probe = Advertiser(options=options, bluez=self._bluez, log=SentLog(path=None, clock=CLOCK))
        while True:
            if self._bluez.running:
                await probe.measure(0.0)
                if self._bluez.gatt.subscribed(TOLD, "2a6e"):
                    self._told += 1
                    self._bluez.gatt.notify(TOLD, "2a6e", self._told.to_bytes(2, "little"))
            await asyncio.sleep(0.1)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedStage]:
    locked = Peripheral(
        address=LOCKED,
        services={uuid_of("fce0"): [Characteristic(uuid=ARANET, value=LOCKED_VALUE, needs_bond=True)]},
        pairing="passkey",
        passkey=PASSKEY,
    )
    three = (thermometer(READ), thermometer(TOLD), locked)
    async with simulated_bluez(monkeypatch) as bluez, on_the_air(bluez, *three):
        made = SimulatedStage(bluez)
        speaking = asyncio.create_task(made.speak(), name="stage")
        try:
            yield made
        finally:
            speaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await speaking


@pytest.mark.parametrize("name", ASSERTIONS)
async def test_the_simulated_bluez_holds(stage: SimulatedStage, name: str) -> None:
    await ASSERTIONS[name](stage)
