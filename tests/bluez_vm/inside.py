"""Runs in the machine: the real bluetoothd over a virtual controller, and peripherals made of bumble on its link.

Prints a line per assertion, and at the end `bluez-vm: passed` or `bluez-vm: failed`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import subprocess
import time
import traceback
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bumble import hci
from bumble.controller import Controller
from bumble.core import PhysicalTransport
from bumble.device import Device, DeviceConfiguration
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.link import LocalLink
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport import open_transport
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from tests.bluez_vm.assertions import ASSERTIONS, LOCKED, LOCKED_VALUE, PASSKEY, PROBE, READ, TOLD

BLUETOOTHD = next(
    path for path in ("/usr/libexec/bluetooth/bluetoothd", "/usr/lib/bluetooth/bluetoothd") if Path(path).exists()
)
BEGAN_S = time.monotonic()
UP_S = 60.0


class Link(LocalLink):
    """The kernel scans by a private address and connects by its public one; packets must come from the latter."""

    def send_acl_data(self, sender: Any, destination: Any, transport: Any, data: bytes) -> None:
        if transport != PhysicalTransport.LE:
            super().send_acl_data(sender, destination, transport, data)
            return
        connection = sender.le_connections.get(destination)
        source = connection.self_address if connection else sender.random_address
        receiver = self.find_le_controller(destination)
        if receiver is not None:
            asyncio.get_running_loop().call_soon(receiver.on_link_acl_data, source, transport, data)


class Display(PairingDelegate):
    """It has a display, and shows the same passkey each time."""

    def __init__(self) -> None:
        super().__init__(PairingDelegate.DISPLAY_OUTPUT_ONLY)

    async def generate_passkey(self) -> int:
        return PASSKEY

    async def display_number(self, number: int, digits: int) -> None:
        print(f"bluez-vm: the peripheral shows {number:0{digits}}", flush=True)


class RealStage:
    """See `Stage`."""

    def __init__(self) -> None:
        self.patience_s = 120.0
        self._daemon: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._told = itertools.count(1)
        self._link = Link()  # type: ignore[no-untyped-call]
        self._told_device: Device | None = None
        self._told_characteristic: Characteristic[Any] | None = None

    async def power(self, *, on: bool) -> None:
        await _until(lambda: _set_powered(on=on), f"the adapter does not go {'on' if on else 'off'}")

    async def start(self) -> None:
        self._daemon = await asyncio.to_thread(_bluetoothd)
        await self.power(on=True)

    async def stop(self) -> None:
        assert self._daemon is not None
        self._daemon.terminate()
        await asyncio.to_thread(self._daemon.wait)

    async def kill(self) -> None:
        assert self._daemon is not None
        self._daemon.kill()
        await asyncio.to_thread(self._daemon.wait)

    async def open(self, stack: AsyncExitStack) -> None:
        """The adapter of the machine, and the peripherals in its reach."""
        adapter = await stack.enter_async_context(await open_transport("vhci"))
        controller = Controller(
            "adapter",
            host_source=adapter.source,
            host_sink=adapter.sink,
            link=self._link,
            public_address="C0:FF:EE:00:00:01",
        )
        controller.le_features &= ~(hci.LeFeatureMask.LL_PRIVACY | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING)
        await self.start()
        await self._advertiser(stack)
        await self._peripheral(READ, CharacteristicValue(read=lambda _: _number(self._numbers)))
        self._told_device = await self._peripheral(TOLD, b"\x00\x00")
        await self._locked()
        telling = asyncio.create_task(self._tell())
        stack.callback(telling.cancel)

    async def _peripheral(self, address: str, value: Any) -> Device:
        device = self._device(address)
        temperature: Characteristic[Any] = Characteristic(
            "2A6E",
            Characteristic.Properties.READ | Characteristic.Properties.NOTIFY,
            Characteristic.READABLE,
            value,
        )
        device.add_services([Service("181A", [temperature])])
        device.advertising_data = bytes([2, 1, 6])
        await device.power_on()
        await device.start_advertising(auto_restart=True)
        if address == TOLD:
            self._told_characteristic = temperature
        return device

    async def _locked(self) -> None:
        device = self._device(LOCKED)
        device.pairing_config_factory = lambda _: PairingConfig(sc=True, mitm=True, bonding=True, delegate=Display())
        readings: Characteristic[Any] = Characteristic(
            "f0cd3001-95da-4f4b-9ac8-aa55d312af0c",
            Characteristic.Properties.READ,
            Characteristic.READABLE | Characteristic.READ_REQUIRES_AUTHENTICATION,
            LOCKED_VALUE,
        )
        device.add_services([Service("FCE0", [readings])])
        device.advertising_data = bytes([2, 1, 6])
        await device.power_on()
        await device.start_advertising(auto_restart=True)

    async def _advertiser(self, stack: AsyncExitStack) -> None:
        device = self._device(PROBE)
        await device.power_on()

        async def advertise() -> None:
            for k in itertools.count(1):
                body = bytes.fromhex("d2fc40") + struct.pack("<BBBhBH", 0x00, k & 0xFF, 0x02, k, 0x03, 5000)
                device.advertising_data = bytes([2, 1, 6, len(body) + 1, 0x16]) + body
                await device.start_advertising(auto_restart=True)
                await asyncio.sleep(0.5)
                await device.stop_advertising()

        task = asyncio.create_task(advertise())
        stack.callback(task.cancel)

    async def _tell(self) -> None:
        while True:
            assert self._told_device is not None
            assert self._told_characteristic is not None
            if self._told_device.connections:
                await self._told_device.notify_subscribers(self._told_characteristic, _number(self._told))
            await asyncio.sleep(0.3)

    def _device(self, address: str) -> Device:
        controller = Controller(address, link=self._link)
        configuration = DeviceConfiguration(
            name="", address=Address(address), advertising_interval_min=100, advertising_interval_max=100
        )
        return Device.from_config_with_hci(configuration, controller, controller)


def _bluetoothd() -> subprocess.Popen[bytes]:
    return subprocess.Popen([BLUETOOTHD, "-n", "-E"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _number(numbers: Any) -> bytes:
    return int(next(numbers)).to_bytes(2, "little")


async def _set_powered(*, on: bool) -> bool:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        reply = await bus.call(
            Message(
                destination="org.bluez",
                path="/org/bluez/hci0",
                interface="org.freedesktop.DBus.Properties",
                member="Set",
                signature="ssv",
                body=["org.bluez.Adapter1", "Powered", Variant("b", on)],
            )
        )
        return reply.message_type is MessageType.METHOD_RETURN
    finally:
        bus.disconnect()


async def _until(done: Any, otherwise: str) -> None:
    deadline = time.monotonic() + UP_S
    while not await done():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        await asyncio.sleep(0.3)


async def main() -> None:
    good = True
    async with AsyncExitStack() as stack:
        stage = RealStage()
        await stage.open(stack)
        for name, assertion in ASSERTIONS.items():
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(4 * stage.patience_s):
                    await assertion(stage)
                print(f"bluez-vm: ok {name} in {time.monotonic() - began_s:.0f} s", flush=True)
            except Exception:
                good = False
                traceback.print_exc()
                print(f"bluez-vm: NOT OK {name}", flush=True)
        print(f"bluez-vm: {'passed' if good else 'failed'}", flush=True)
        os._exit(not good)  # the machine ends with us; nothing in it needs an orderly end


if __name__ == "__main__":
    print(f"bluez-vm: imported {BEGAN_S:.0f} s after the start", flush=True)
    asyncio.run(main())
