"""A scenario of Bluetooth sensors: who advertises what and how often, and what goes wrong when."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from firmware_configs.loader import Profiles
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_connectable import Connectable, ConnectablePeripheral, problems
from gateway.simulators.bluez_payloads import FORMATS, Payload
from gateway.simulators.bluez_radio import Report
from gateway.simulators.sent_log import Sent, SentLog
from gateway.simulators.waves import Wave
from protos.strict import DocumentError, convert

FaultKind = Literal[
    "power_off", "power_on", "unplug", "plug", "deaf", "hears", "stuck", "unstuck",
    "kill", "stop", "start", "freeze", "thaw",
    "phantom", "replay", "garbage", "mute", "speak",
    "out_of_range", "in_range", "hang_up", "refuse", "accept",
]  # fmt: skip
OF_PERIPHERALS = {"out_of_range", "in_range", "hang_up", "refuse", "accept"}
REPLAY_AGE = 3


class _Frozen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class AdvertisingSensor(_Frozen, frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1)]
    """As the log names it."""
    address: Annotated[str, Meta(pattern=r"^[0-9A-F]{2}(:[0-9A-F]{2}){5}$")]
    format: Literal["bthome-v2", "ruuvi-rawv2"] = "ruuvi-rawv2"
    every_s: Annotated[float, Meta(gt=0)] = 1.0
    repeats: Annotated[int, Meta(ge=1, le=20)] = 1
    """How often each measurement is advertised."""
    rssi: Annotated[int, Meta(ge=-126, le=20)] = -60
    key: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{32})?$")] = ""
    """Encrypts; of a sensor that isn't there, so it may stand here."""
    first_counter: Annotated[int, Meta(ge=0)] = 0
    signal: dict[str, Wave] = msgspec.field(default_factory=dict)


class Fault(_Frozen, frozen=True, kw_only=True):
    """What to do, at once from the control port or `at_s` after the start from the file."""

    fault: FaultKind
    at_s: Annotated[float, Meta(ge=0)] = 0.0
    adapter: str = "hci0"
    """For those that befall an adapter: power_off to unstuck."""
    sensor: str | None = None
    """For those that befall sensors and peripherals: phantom to accept; left out: every one that can."""


class BluezScenario(_Frozen, frozen=True, kw_only=True):
    """The whole document."""

    adapters: tuple[Annotated[str, Meta(pattern=r"^hci[0-9]+$")], ...] = ("hci0",)
    experimental: bool = True
    """BlueZ with --experimental: it offers passive scanning."""
    wait_for_scan: bool = True
    """Send nothing until somebody listens for the first time."""
    most_links: Annotated[int, Meta(ge=1)] = 7
    """Connections that one adapter can hold."""
    sensor: tuple[AdvertisingSensor, ...] = ()
    peripheral: tuple[ConnectablePeripheral, ...] = ()
    fault: tuple[Fault, ...] = ()


def load(path: Path, profiles: Profiles | None = None) -> BluezScenario:
    """Raises ValueError with every mistake, each with its path."""
    try:
        scenario = convert(tomllib.loads(path.read_text(encoding="utf-8")), BluezScenario)
    except (tomllib.TOMLDecodeError, DocumentError) as error:
        raise ValueError(f"{path}: {error}") from error
    for index, sensor in enumerate(scenario.sensor):
        known = {quantity.name for quantity in FORMATS[sensor.format][0]}
        for name in sensor.signal:
            if name not in known:
                raise ValueError(
                    f"{path}: sensor[{index}].signal.{name}: {sensor.format} has {', '.join(sorted(known))}"
                )
    if found := problems(scenario.peripheral, profiles or Profiles()):
        raise ValueError("\n".join(f"{path}: {one}" for one in found))
    return scenario


class Advertiser:
    """One sensor: measures, logs, sends."""

    def __init__(self, *, options: AdvertisingSensor, bluez: SimulatedBluez, log: SentLog) -> None:
        self.options = options
        self.muted = False
        self.k = 0
        self._bluez = bluez
        self._log = log
        self._quantities, self._encode = FORMATS[options.format]
        self._key = bytes.fromhex(options.key) or None
        self._recent: list[Payload] = []

    async def run(self) -> None:
        """Send at its pace until cancelled."""
        loop = asyncio.get_running_loop()
        zero = due = loop.time()
        while True:
            if not self.muted:
                await self.measure(loop.time() - zero)
            due = max(due + self.options.every_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def measure(self, t_s: float) -> None:
        """One new measurement, `t_s` after the start."""
        self.k += 1
        steps = {q.name: q.steps(self.options.signal.get(q.name, q.default), self.k, t_s) for q in self._quantities}
        values: Sent = {q.name: q.value(steps[q.name]) for q in self._quantities}
        payload = self._encode(self.options.address, steps, self.options.first_counter + self.k, self._key)
        self._recent = [*self._recent[-REPLAY_AGE:], payload]
        self._log.write(self.options.id, self.k, values)
        for _ in range(self.options.repeats):
            await self._send(payload)

    async def replay(self) -> None:
        """Send an old measurement again, as somebody who recorded it would."""
        if len(self._recent) > 1:
            self._log.write(self.options.id, self.k, {}, fault="replay")
            await self._send(self._recent[0])

    async def garbage(self) -> None:
        """Send this sensor's kind of data with nonsense inside."""
        self._log.write(self.options.id, self.k, {}, fault="garbage")
        last = self._recent[-1] if self._recent else Payload({}, {})
        await self._send(
            Payload(
                {number: data[:1] + b"\xee" * (self.k % 9 + 1) for number, data in last.manufacturer.items()},
                {uuid: data[:1] + b"\xee" * (self.k % 9 + 1) for uuid, data in last.service.items()},
            )
        )

    async def _send(self, payload: Payload) -> None:
        report = Report(
            address=self.options.address,
            manufacturer=payload.manufacturer,
            service=payload.service,
            rssi=self.options.rssi,
        )
        await self._bluez.advertise(report)


class BluezPlay:
    """A scenario being played on a simulated BlueZ. `run` until cancelled; `command` from the control port."""

    def __init__(
        self, *, scenario: BluezScenario, bluez: SimulatedBluez, log: SentLog, profiles: Profiles | None = None
    ) -> None:
        known = profiles or Profiles()
        self.advertisers = [Advertiser(options=options, bluez=bluez, log=log) for options in scenario.sensor]
        self.connectables = [
            Connectable(options=options, profile=known.gatt(options.profile), bluez=bluez, log=log)
            for options in scenario.peripheral
        ]
        self._scenario = scenario
        self._bluez = bluez

    async def run(self) -> None:
        await self._bluez.start()
        while self._scenario.wait_for_scan and not self._bluez.scanning:
            await asyncio.sleep(0.02)
        async with asyncio.TaskGroup() as tasks:
            for one in self.advertisers:
                tasks.create_task(one.run(), name=f"advertiser.{one.options.id}")
            for peripheral in self.connectables:
                tasks.create_task(peripheral.run(), name=f"peripheral.{peripheral.options.id}")
            tasks.create_task(self._faults(), name="faults")

    async def _faults(self) -> None:
        loop = asyncio.get_running_loop()
        zero = loop.time()
        for fault in sorted(self._scenario.fault, key=lambda one: one.at_s):
            await asyncio.sleep(max(0.0, zero + fault.at_s - loop.time()))
            await self.apply(fault)

    async def command(self, line: str) -> str:
        """`{"fault": "power_off", "adapter": "hci0"}` or `status`; answers `ok`, or who sent how much as JSON.

        Raises ValueError with what is wrong.
        """
        if line == "status":
            sent = {one.options.id: one.k for one in self.advertisers}
            sent |= {one.options.id: one.k for one in self.connectables}
            said = {"running": self._bluez.running, "scanning": self._bluez.scanning, "sent": sent}
            return json.dumps(said | {"links": self._bluez.gatt.links(), "peak_links": self._bluez.gatt.peak_links})
        try:
            await self.apply(convert(json.loads(line), Fault))
        except json.JSONDecodeError as error:
            raise ValueError(f"a fault is a JSON object, or status ({error})") from None
        return "ok"

    async def apply(self, fault: Fault) -> None:
        """Let it happen now. Raises ValueError for an adapter or sensor that isn't there."""
        match fault.fault:
            case "power_off" | "power_on":
                self._bluez.power(fault.adapter, on=fault.fault == "power_on")
            case "unplug":
                self._bluez.unplug(fault.adapter)
            case "plug":
                self._bluez.plug(fault.adapter)
            case "deaf" | "hears":
                self._bluez.deaf(fault.adapter, yes=fault.fault == "deaf")
            case "stuck" | "unstuck":
                self._bluez.stuck(fault.adapter, yes=fault.fault == "stuck")
            case "freeze" | "thaw":
                self._bluez.frozen = fault.fault == "freeze"
            case "kill":
                await self._bluez.kill()
            case "stop":
                await self._bluez.stop()
            case "start":
                await self._bluez.start()
            case _:
                await self._apply_to_sensors(fault)

    async def _apply_to_sensors(self, fault: Fault) -> None:
        chosen = [one for one in self.advertisers if fault.sensor in {None, one.options.id}]
        connectables = [one for one in self.connectables if fault.sensor in {None, one.options.id}]
        if not chosen and not connectables:
            raise ValueError(f"there is no sensor {fault.sensor}")
        for peripheral in connectables:
            self._apply_to_peripheral(fault, peripheral)
        if fault.fault in OF_PERIPHERALS:
            return
        for one in chosen:
            match fault.fault:
                case "phantom":
                    self._bluez.phantom(one.options.address)
                case "replay":
                    await one.replay()
                case "garbage":
                    await one.garbage()
                case _:
                    one.muted = fault.fault == "mute"

    def _apply_to_peripheral(self, fault: Fault, one: Connectable) -> None:
        match fault.fault:
            case "out_of_range":
                self._bluez.gatt.out_of_range(one.options.address)
            case "in_range":
                one.peripheral.in_range = True
            case "hang_up":
                self._bluez.gatt.hang_up(one.options.address)
            case "refuse" | "accept":
                one.peripheral.refuse = "le-connection-refused" if fault.fault == "refuse" else ""
            case "mute" | "speak":
                one.muted = fault.fault == "mute"
            case "phantom":
                self._bluez.phantom(one.options.address)
            case _ if fault.sensor is not None:
                raise ValueError(f"{fault.fault} is nothing that befalls a peripheral")
