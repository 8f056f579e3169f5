"""Bluetooth and MQTT sensors as the daemon builds and runs them, and what they emitted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from control_plane.simulators.balance import Account, Value, account, sent
from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.clock import Clock, SystemClock
from gateway.reading import Lost, Row
from gateway.sensors import Built
from gateway.sensors.bluez_watch import BUS_VARIABLE
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_bus import private_bus
from gateway.supervise import supervised
from protos.config import GatewayConfig, from_toml
from tests.servers import require

CLOCK = SystemClock()
B = TypeVar("B", bound=SimulatedBluez)


class Saved:
    """A receipt that is durable when its box says so."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    async def durable(self) -> None:
        await self._facts.disk_works.wait()


class Facts:
    """What one driver emitted, in order."""

    def __init__(self) -> None:
        self.all: list[Row | Lost] = []
        self.groups: list[int] = []
        """Of each of them."""
        self.disk_works = asyncio.Event()
        self.disk_works.set()

    def row(self, group: int, row: Row) -> Saved:
        self.all.append(row)
        self.groups.append(group)
        return Saved(self)

    def lost(self, group: int, lost: Lost) -> None:
        self.all.append(lost)
        self.groups.append(group)

    @property
    def rows(self) -> list[Row]:
        return [fact for fact in self.all if isinstance(fact, Row)]

    @property
    def losts(self) -> list[Lost]:
        return [fact for fact in self.all if isinstance(fact, Lost)]

    def column(self, index: int = 0) -> list[Any]:
        return [row.values[index] for row in self.rows]


class Listening:
    """A running half of a gateway. `facts` and `driver` by sensor id."""

    def __init__(self, config: GatewayConfig, *, clock: Clock = CLOCK, data_dir: Path | None = None) -> None:
        self.built: Built = sensors.build(config, clock=clock, profiles=Profiles(), data_dir=data_dir)
        self.facts = {sensor.id: Facts() for sensor in self.built.sensors}
        self.driver: dict[str, Any] = {sensor.id: sensor.driver for sensor in self.built.sensors}
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for task in self.built.tasks:
            self.tasks.append(asyncio.create_task(supervised(task.name, task.run, cap_s=0.5), name=task.name))
        for sensor in self.built.sensors:
            running = sensor.driver.run(self.facts[sensor.id])
            self.tasks.append(asyncio.create_task(running, name=sensor.id))

    async def stop(self) -> None:
        for task in reversed(self.tasks):
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


def balance(running: Listening, sensor: str, log: Path) -> Account:
    """What the simulator says it sent against what was emitted, as REST would show it."""
    offset = CLOCK.wall_ms() - CLOCK.mono_ms()
    facts = running.facts[sensor]
    delivered: dict[str, dict[int, Value]] = {}
    for i, shape in enumerate(running.driver[sensor].groups()[0].series):
        times = delivered[shape.name] = {}
        for row in facts.rows:
            wire = row.values[i]
            if isinstance(wire, int | float):
                scaled = shape.scale or shape.offset
                times[row.mono_ms + offset] = wire * shape.scale + shape.offset if scaled else wire / 10**shape.exp
    gaps = [
        {"from_ms": lost.after_mono_ms + offset, "to_ms": lost.before_mono_ms + offset, "reason": str(lost.reason)}
        for lost in facts.losts
    ]
    return account(sensor, sent(log, sensor), delivered, gaps, tolerance_ms=500)


@asynccontextmanager
async def listening(text: str, *, clock: Clock = CLOCK, data_dir: Path | None = None) -> AsyncIterator[Listening]:
    """A document of sensors, running."""
    made = Listening(from_toml("config_version = 1\n" + text), clock=clock, data_dir=data_dir)
    made.start()
    try:
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def simulated_bluez(monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[SimulatedBluez]:
    """A BlueZ on a private bus that this process takes for the system's."""
    async with bluez_of(SimulatedBluez, monkeypatch, **options) as bluez:
        yield bluez


@asynccontextmanager
async def bluez_of(kind: type[B], monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[B]:
    """The same, of one that has faults of its own."""
    require("dbus-daemon", "dbus")
    async with private_bus() as address:
        monkeypatch.setenv(BUS_VARIABLE, address)
        bluez = kind(address, **options)
        await bluez.start()
        try:
            yield bluez
        finally:
            forget_bleak()
            await bluez.stop()


def forget_bleak() -> None:
    """bleak keeps a connection to the bus per event loop, for ever."""
    from bleak.backends.bluezdbus.manager import _global_instances

    for manager in _global_instances.values():
        if manager._bus is not None:
            with contextlib.suppress(Exception):
                manager._bus.disconnect()
    _global_instances.clear()
