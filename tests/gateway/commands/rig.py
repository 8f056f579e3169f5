"""Commands over a real bus to a simulated controller; stopped as by SIGKILL, started again on the same book."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.commands.book import Book
from gateway.commands.commands import Commands
from gateway.errors import Rejected
from gateway.sensors.modbus import ModbusSensor
from gateway.sensors.modbus_bus import ModbusBus
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.modbus_written import Written
from gateway.writing import Point
from protos import config
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import Outcome, Write, encoded, outcome_of, signed_bytes
from tests.gateway.buffer.boxes import TurnedClock
from tests.gateway.sensors.rig import CLOCK, device, poll_of, started, until

GATEWAY = "gw-aaaaaaaaaa"
CONTROLLER = "comboio-controller@1"
WRITABLE = ("setpoint", "energy_limit", "mode", "fan_always", "room_name", "high_limit", "light", "night_mode")


class Told:
    """The URGENT lane: what was said in it, durable at once unless it is held up."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.durably = asyncio.Event()
        self.durably.set()

    def event(self, kind: pb.EventKind.ValueType, detail: bytes) -> Told:
        assert kind == pb.EVENT_COMMAND_RESULT
        self.events.append(detail)
        return self

    async def durable(self) -> None:
        await self.durably.wait()

    def results(self) -> list[wire.CommandResult]:
        return [wire.CommandResult.FromString(detail) for detail in self.events]


@dataclass
class Plant:
    """One gateway that may write to one controller."""

    folder: Path
    device: ModbusDevice = field(default_factory=lambda: device(profile=CONTROLLER, signals={}))
    clock: TurnedClock = field(default_factory=TurnedClock)
    told: Told = field(default_factory=Told)
    allowed: tuple[str, ...] = WRITABLE
    generation: int = 7
    commands: Commands = field(init=False)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def point(self, sensor: str, quantity: str) -> Point:
        if sensor != "cooling":
            raise Rejected(f"there is no sensor {sensor} on this gateway; it has cooling")
        return self.sensor.point(quantity)

    @asynccontextmanager
    async def running(self, *, bus: bool = True) -> AsyncIterator[Commands]:
        """As the daemon has them; ends without telling anybody."""
        options = config.TcpBus(id="b", host="127.0.0.1", port=self.device.port, timeout_s=0.3)
        self.bus = ModbusBus(options=options)
        wanted = config.ModbusSensor(id="cooling", bus="b", profile=CONTROLLER, allow_write=self.allowed)
        self.sensor = ModbusSensor(options=wanted, poll=poll_of(wanted, self.bus), clock=CLOCK)
        public = self.key.public_key().public_bytes_raw()
        self.commands = Commands(
            book=Book(self.folder / "book.db"),
            clock=self.clock,
            site=self,
            event=self.told.event,
            pinned=lambda: (GATEWAY, public),
            generation=lambda: self.generation,
        )
        tasks = [asyncio.create_task(self.commands.run())]
        tasks += [asyncio.create_task(self.bus.run())] if bus else []
        try:
            yield self.commands
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.commands.close()

    def command(self, quantity: str, value: Any, **more: Any) -> wire.Command:
        """Signed as the control plane does; `more` are fields of it, or `expect` and `sensor`."""
        sensor, expect = more.pop("sensor", "cooling"), more.pop("expect", None)
        number = more.pop("number", next(self.numbers))
        arguments = encoded(Write(sensor=sensor, quantity=quantity, value=value, expect=expect))
        fields: dict[str, Any] = {
            "name": "write",
            "ttl_ms": 60_000,
            "arguments": arguments,
            "id": f"cmd-{number:016x}",
        } | more
        command = wire.Command(number=number, **fields)
        command.signature = self.key.sign(signed_bytes(command, gateway=GATEWAY))
        return command

    async def asked(self, command: wire.Command) -> wire.CommandResult:
        """Hand it over, and wait for what is told of it."""
        await until(lambda: command.id not in self.commands._under_way)
        before = len(self.told.events)
        assert self.commands.commanded(command) is None
        await until(lambda: len(self.told.events) > before, within_s=30)
        return self.told.results()[before]

    @property
    def written(self) -> list[Written]:
        return self.device._units[1].writes.requests


@asynccontextmanager
async def plant(folder: Path, **more: Any) -> AsyncIterator[Plant]:
    made = Plant(folder, **more)
    async with started(made.device):
        yield made


def said(result: wire.CommandResult) -> Outcome:
    return outcome_of(result.result)


def state(result: wire.CommandResult) -> str:
    return wire.CommandState.Name(result.state).removeprefix("COMMAND_")
