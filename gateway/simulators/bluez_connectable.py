"""Peripherals of a scenario: a profile's services with signals in them, advertised until somebody connects.

Each answer to a read and each notification is a measurement, written to the log before it is sent.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_configs.characteristics import SIZES, GattProfile, GattValue, whole
from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.schema import Frozen
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_peripheral import Characteristic, Peripheral
from gateway.simulators.bluez_radio import Report
from gateway.simulators.sent_log import SentLog
from gateway.simulators.waves import Wave

TEXT = "simulated"
STARTED_BY_WRITES_FLAGS = ("read", "write")


class ConnectablePeripheral(Frozen, frozen=True, kw_only=True):
    """One that the driver gatt connects to."""

    id: Annotated[str, Meta(min_length=1)]
    """As the log names it."""
    address: Annotated[str, Meta(pattern=r"^[0-9A-F]{2}(:[0-9A-F]{2}){5}$")]
    profile: Annotated[str, Meta(min_length=1)]
    """vendor-model@version: what its services are."""
    advertise_every_s: Annotated[float, Meta(gt=0)] = 0.5
    notify_every_s: Annotated[float, Meta(gt=0)] | None = None
    """Left out: as the profile says."""
    rssi: Annotated[int, Meta(ge=-126, le=20)] = -60
    connect_s: Annotated[float, Meta(ge=0)] = 0.1
    """How long connecting takes."""
    refuse: str = ""
    """Refuse every connection with this text."""
    passkey: Annotated[int, Meta(ge=0, le=999_999)] | None = None
    """Answer only who is paired by it."""
    bonded: bool = False
    """Somebody has paired with it already."""
    signal: dict[str, Wave] = msgspec.field(default_factory=dict)


def problems(options: Sequence[ConnectablePeripheral], profiles: Profiles) -> list[str]:
    """One sentence per mistake, each starting with its path."""
    found: list[str] = []
    for index, one in enumerate(options):
        try:
            known = profiles.gatt(one.profile).quantities()
        except ProfileError as error:
            found.append(f"peripheral[{index}].profile: {error}")
            continue
        found += [
            f"peripheral[{index}].signal.{name}: {one.profile} has {', '.join(sorted(known))}"
            for name in one.signal
            if name not in known
        ]
    return found


class Connectable:
    """One peripheral of a scenario. `k` numbers what it answered and told."""

    def __init__(
        self, *, options: ConnectablePeripheral, profile: GattProfile, bluez: SimulatedBluez, log: SentLog
    ) -> None:
        self.options = options
        self.k = 0
        self.muted = False
        self._bluez = bluez
        self._log = log
        self._notified = profile.notified()
        self._notify_every_s = options.notify_every_s or profile.period_s
        self._zero_s = asyncio.get_running_loop().time()
        self.peripheral = bluez.gatt.add(
            Peripheral(
                address=options.address,
                services=self._services(profile),
                connect_s=options.connect_s,
                refuse=options.refuse,
                pairing="none" if options.passkey is None else "passkey",
                passkey=options.passkey or 0,
                bonded=options.bonded,
            )
        )

    async def run(self) -> None:
        """Advertise and notify until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._advertise(), name=f"{self.options.id} advertises")
            for uuid in self._notified:
                tasks.create_task(self._notify(uuid), name=f"{self.options.id} notifies")

    async def _advertise(self) -> None:
        while True:
            one = self.peripheral
            if one.in_range and not one.connected and not self.muted and self._bluez.running:
                await self._bluez.advertise(Report(address=one.address, rssi=self.options.rssi))
            await asyncio.sleep(self.options.advertise_every_s)

    async def _notify(self, uuid: str) -> None:
        while True:
            if not self.muted and self._bluez.gatt.subscribed(self.options.address, uuid):
                self._bluez.gatt.notify(self.options.address, uuid, self._measured(self._notified[uuid]))
            await asyncio.sleep(self._notify_every_s)

    def _measured(self, values: Sequence[GattValue]) -> bytes:
        """A new measurement as its bytes."""
        self.k += 1
        t_s = asyncio.get_running_loop().time() - self._zero_s
        steps = {one.quantity: _steps(one, self.options.signal, self.k, t_s) for one in values}
        self._log.write(self.options.id, self.k, {one.quantity: meant(one, steps[one.quantity]) for one in values})
        return encoded(values, steps)

    def _services(self, profile: GattProfile) -> dict[str, list[Characteristic]]:
        by: dict[tuple[str, str], list[GattValue]] = {}
        for value in profile.value:
            by.setdefault((whole(value.service), whole(value.characteristic)), []).append(value)
        services: dict[str, list[Characteristic]] = {}
        for (service, uuid), values in by.items():
            services.setdefault(service, []).append(
                Characteristic(
                    uuid=uuid,
                    flags=("read",) if values[0].how == "read" else ("read", "notify"),
                    read=functools.partial(self._measured, values),
                    needs_bond=self.options.passkey is not None,
                )
            )
        for write in profile.write:
            here = services.setdefault(whole(write.service), [])
            if whole(write.characteristic) not in {one.uuid for one in here}:
                here.append(Characteristic(uuid=whole(write.characteristic), flags=STARTED_BY_WRITES_FLAGS))
        return services


def encoded(values: Sequence[GattValue], steps: Mapping[str, int | float | str]) -> bytes:
    """The inverse of the decoder: one characteristic's bytes."""
    data = bytearray(max(one.end for one in values))
    for one in values:
        said = steps[one.quantity]
        if isinstance(said, str):
            return said.encode()
        if one.type == "f32":
            data[one.byte : one.end] = struct.pack("<f" if one.order == "little" else ">f", said)
            continue
        integer = int(said) << (one.bit or 0)
        here = int.from_bytes(data[one.byte : one.end], one.order)
        packed = (here | integer) & ((1 << 8 * SIZES[one.type]) - 1) if one.bit is not None else integer
        signed = one.type.startswith("i")
        data[one.byte : one.end] = packed.to_bytes(SIZES[one.type], one.order, signed=signed)
    return bytes(data)


def meant(value: GattValue, steps: float | str) -> float | int | bool | str:
    """What the far end shows, to the bit."""
    if isinstance(steps, str) or value.type == "f32":
        return steps
    if value.type == "bool":
        return bool(steps)
    if value.decimals:
        return float(steps / 10**value.decimals)
    if value.scale is not None or value.offset:
        return steps * (value.scale or 1.0) + value.offset
    return steps


def _steps(value: GattValue, signal: Mapping[str, Wave], k: int, t_s: float) -> int | float | str:
    if value.type == "string":
        return TEXT
    wave = signal.get(value.quantity, Wave())
    step = (value.scale or 1.0) if value.decimals is None else 10.0**-value.decimals
    steps = wave.steps(k, t_s, step=step, offset=value.offset)
    if value.type == "f32":
        (rounded,) = struct.unpack("<f", struct.pack("<f", float(steps)))
        return float(rounded)
    bits = value.bits or (1 if value.type == "bool" else 8 * SIZES[value.type])
    signed = value.type.startswith("i")
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if value.invalid_above is not None:
        high = min(high, value.invalid_above)
    steps = min(max(steps, low), high)
    return steps + 1 if steps in value.sentinels and steps < high else min(steps, high - (steps in value.sentinels))
