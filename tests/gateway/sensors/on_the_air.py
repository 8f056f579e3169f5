"""Peripherals of a simulated BlueZ that advertise until they are connected to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_peripheral import Characteristic, Peripheral, uuid_of
from gateway.simulators.bluez_radio import Report

SENSOR = "F0:F1:F2:F3:F4:01"
EVERY_S = 0.03


def counting() -> Callable[[], bytes]:
    """1, 2, 3, … as hundredths of a degree: every answer can be told apart."""
    numbers = itertools.count(1)
    return lambda: next(numbers).to_bytes(2, "little")


def thermometer(address: str = SENSOR, **more: Any) -> Peripheral:
    """Environmental Sensing with a temperature that counts its reads, and a battery."""
    temperature = Characteristic(uuid=uuid_of("2a6e"), flags=("read", "notify"), read=counting())
    battery = Characteristic(uuid=uuid_of("2a19"), value=b"\x5f")
    services = {uuid_of("181a"): [temperature], uuid_of("180f"): [battery]}
    return Peripheral(address=address, services=services, **more)


@asynccontextmanager
async def on_the_air(bluez: SimulatedBluez, *peripherals: Peripheral) -> AsyncIterator[None]:
    """They are heard while they are in range and nobody is connected to them."""
    for one in peripherals:
        bluez.gatt.add(one)

    async def speak() -> None:
        while True:
            for one in peripherals:
                if one.in_range and not one.connected and bluez.running:
                    await bluez.advertise(Report(address=one.address))
            await asyncio.sleep(EVERY_S)

    task = asyncio.create_task(speak(), name="on the air")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
