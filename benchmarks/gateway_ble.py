"""gateway.ble_adverts_per_cpu_s, gateway.rss_ble: what listening to Bluetooth sensors costs.

The first: new measurements of eight formats from forty devices, from the arguments of bleak's callback through queue,
decoding and everything that tells new from old, to the rows that a driver hands over. CPU time of one process. What
bleak and the message bus cost before that is not in it.

The second: a process that scans, with four parser packages, while forty devices send; the daemon's other parts aren't
there.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from benchmarks.figures import Figure
from benchmarks.gateway_rig import rss_mb
from firmware_configs.loader import Profiles
from gateway.clock import SystemClock
from gateway.decoders.advertisements import resolve
from gateway.reading import Lost, Row
from gateway.sensors.ble import BleSensor
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_memory import CounterMemory
from gateway.sensors.ble_scanner import AdapterScanner
from gateway.sensors.bluez_watch import BUS_VARIABLE
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_bus import private_bus
from gateway.simulators.bluez_payloads import BTHOME, RUUVI, bthome, ruuvi
from gateway.simulators.bluez_radio import Report
from protos.config import BleSensor as Options

KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
DEVICES_PER_FORMAT = 5
MEASUREMENTS = 200
REPEAT = 5
RSS_S = 5.0
UUID = "0000{}-0000-1000-8000-00805f9b34fb"


class Heard(NamedTuple):
    """Manufacturer and service data of one advertisement."""

    manufacturer: Mapping[int, bytes]
    service: Mapping[str, bytes]


def _bthome(address: str, k: int, key: bytes | None = None) -> Heard:
    steps = {"temperature": k % 3000, "relative_humidity": k % 10_000, "battery_level": 97}
    return Heard({}, {BTHOME: bthome(address, steps, k, key).service[BTHOME]})


def _bthome_sealed(address: str, k: int) -> Heard:
    return _bthome(address, k, KEY)


def _ruuvi(address: str, k: int) -> Heard:
    steps = {"temperature": k, "relative_humidity": k, "pressure": k, "battery_voltage": 1377, "tx_power": 22}
    steps |= {"acceleration_x": 4, "acceleration_y": -4, "acceleration_z": 1036, "movement_counter": k % 255}
    return Heard({RUUVI: ruuvi(address, steps, k, None).manufacturer[RUUVI]}, {})


def _atc(address: str, k: int) -> Heard:
    mac = bytes.fromhex(address.replace(":", ""))[::-1]
    data = struct.pack("<hHHBBB", k % 3000, 4457, 2998, 88, k & 0xFF, 13)
    return Heard({}, {UUID.format("181a"): mac + data})


def _govee(address: str, k: int) -> Heard:
    del address
    return Heard({0xEC88: b"\0" + (200_000 + k).to_bytes(3, "big") + b"\x64\0"}, {})


def _teltonika(address: str, k: int) -> Heard:
    del address
    return Heard({0x089A: b"\x01\xb7" + struct.pack(">hBHbhB", k, 18, k, 11, -57, 103)}, {})


def _tlm(address: str, k: int) -> Heard:
    del address
    return Heard({}, {UUID.format("feaa"): b"\x20\0" + struct.pack(">HhII", 2928, k, k, 10 * k)})


def _xiaomi(address: str, k: int) -> Heard:
    mac = bytes.fromhex(address.replace(":", ""))[::-1]
    data = struct.pack("<HBhH", 0x100D, 4, k % 500, 552)
    return Heard({}, {UUID.format("fe95"): b"\x50\x20\xaa\x01" + bytes([k & 0xFF]) + mac + data})


MIX: tuple[tuple[str, Callable[[str, int], Heard], bytes | None], ...] = (
    ("bthome-thermometer@1", _bthome, None),
    ("bthome-thermometer@1", _bthome_sealed, KEY),
    ("ruuvi-ruuvitag@1", _ruuvi, None),
    ("atc-thermometer@1", _atc, None),
    ("govee-h5075@1", _govee, None),
    ("teltonika-eye-sensor@1", _teltonika, None),
    ("eddystone-tlm@1", _tlm, None),
    ("xiaomi-lywsdcgq@1", _xiaomi, None),
)
"""Profile, what makes its payloads, key."""


class Rows:
    """Where rows go: counted."""

    def __init__(self) -> None:
        self.rows = 0

    def row(self, group: int, row: Row) -> Rows:
        del group, row
        self.rows += 1
        return self

    def lost(self, group: int, lost: Lost) -> None:
        del group, lost

    async def durable(self) -> None: ...


def figures() -> Iterator[Figure]:
    yield from decoding()
    yield from rss()


def decoding() -> Iterator[Figure]:
    found = [asyncio.run(_decode()) for _ in range(REPEAT)]
    many = len(MIX) * DEVICES_PER_FORMAT
    remark = f"{len(MIX)} formats, {many} devices, every advertisement a new measurement; CPU time, median of {REPEAT}"
    yield Figure("gateway.ble_adverts_per_cpu_s", statistics.median(found), "1/s", remark)


async def _decode() -> float:
    """Advertisements per CPU second."""
    adverts, rows, clock = Adverts(limit=10_000), Rows(), SystemClock()
    scanner = AdapterScanner(adapter=None, number=0, scan="active", silent_s=60.0, clock=clock, adverts=adverts)
    senders = list(_senders())
    sensors = [_sensor(address, profile, key, clock, adverts) for address, profile, _, key in senders]
    tasks = [asyncio.create_task(one.run(rows)) for one in sensors]
    tasks.append(asyncio.create_task(adverts.run()))
    await asyncio.sleep(0)
    calls = [
        (BLEDevice(address, None, None), _advertisement(address, make(address, k)))
        for k in range(1, MEASUREMENTS + 1)
        for address, _, make, _ in senders
    ]
    gc.collect()
    gc.freeze()  # no gateway holds so many advertisements at once
    began = time.process_time()
    for at in range(0, len(calls), len(senders)):
        for device, data in calls[at : at + len(senders)]:
            scanner._seen(device, data)
        while adverts._queue:
            await asyncio.sleep(0)
    spent = time.process_time() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if rows.rows != len(calls):
        raise AssertionError(f"{rows.rows} rows of {len(calls)} advertisements")
    return len(calls) / spent


def _senders() -> Iterator[tuple[str, str, Callable[[str, int], Heard], bytes | None]]:
    for kind, (profile, make, key) in enumerate(MIX):
        for number in range(DEVICES_PER_FORMAT):
            yield f"C4:12:43:55:{kind:02X}:{number:02X}", profile, make, key


def _sensor(address: str, profile: str, key: bytes | None, clock: SystemClock, adverts: Adverts) -> BleSensor:
    found = Profiles().ble(profile)
    return BleSensor(
        options=Options(id=address.replace(":", "").lower(), address=address, profile=profile),
        profile=found,
        format_=resolve(found),
        key=key,
        simulated=False,
        clock=clock,
        adverts=adverts,
        memory=CounterMemory(path=None, clock=clock),
    )


def _advertisement(address: str, heard: Heard) -> AdvertisementData:
    path = f"/org/bluez/hci0/dev_{address.replace(':', '_')}"
    properties = {"ManufacturerData": heard.manufacturer, "ServiceData": heard.service, "RSSI": -60}
    return AdvertisementData(
        local_name=None,
        manufacturer_data=dict(heard.manufacturer),
        service_data=dict(heard.service),
        service_uuids=[],
        tx_power=None,
        rssi=-60,
        platform_data=(path, properties),
    )


# --- memory -------------------------------------------------------------------------------------------


def _configured() -> Iterator[str]:
    """Profile and address of each sensor that listens."""
    for sender, profile, _, key in _senders():
        if profile in FOUR and key is None:
            yield f"{profile}={sender}"
    yield f"{FOUR[-1]}=C4:12:43:55:FF:FF"


FOUR = ("bthome-thermometer@1", "ruuvi-ruuvitag@1", "govee-h5075@1", "thermopro-tp357@1")


def rss() -> Iterator[Figure]:
    measured = asyncio.run(_rss())
    yield Figure("gateway.rss_ble", measured, "MB", f"scanning, 40 devices, parsers of {', '.join(FOUR)}")


async def _rss() -> float:
    async with private_bus() as address:
        bluez = SimulatedBluez(address)
        await bluez.start()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.gateway_ble_listen", *_configured()),
            env=os.environ | {BUS_VARIABLE: address},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            while not bluez.scanning:
                await asyncio.sleep(0.05)
            for k in range(1, round(RSS_S * 10)):
                for sender, profile, make, _ in _senders():
                    if profile in FOUR:
                        heard = make(sender, k)
                        await bluez.advertise(
                            Report(address=sender, manufacturer=heard.manufacturer, service=heard.service)
                        )
                await asyncio.sleep(0.1)
            return rss_mb(child.pid)
        finally:
            child.terminate()
            await child.wait()
            await bluez.stop()


if __name__ == "__main__":
    for figure in figures():
        sys.stdout.write(f"{figure}\n")
