"""A gateway's Modbus half against simulated devices over real TCP, started and stopped by one context."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from firmware_configs.loader import Profiles
from gateway.clock import SystemClock
from gateway.reading import Lost, Row
from gateway.sensors.modbus import ModbusSensor
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_poll import SharedPoll
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.modbus_unit import SimulatedUnit
from gateway.simulators.read_log import ReadLog
from gateway.simulators.signals import Signal
from protos import config

CLOCK = SystemClock()
COUNTER = "comboio-counter@1"


class Facts:
    """What a driver emitted, in order."""

    def __init__(self) -> None:
        self.all: list[Row | Lost] = []

    def row(self, group: int, row: Row) -> None:  # the receipt is nobody's concern here
        assert group == 0
        self.all.append(row)

    def lost(self, group: int, lost: Lost) -> None:
        assert group == 0
        self.all.append(lost)

    @property
    def rows(self) -> list[Row]:
        return [fact for fact in self.all if isinstance(fact, Row)]

    @property
    def losts(self) -> list[Lost]:
        return [fact for fact in self.all if isinstance(fact, Lost)]


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.005)


def device(
    *,
    units: Sequence[int] = (1,),
    profile: str = COUNTER,
    signals: Mapping[str, Signal] | None = None,
    log: Path | None = None,
) -> ModbusDevice:
    loaded = Profiles().modbus(profile)
    return ModbusDevice(
        units={unit: SimulatedUnit(unit=unit, profile=loaded, signals=signals) for unit in units},
        log=ReadLog(path=log, clock=CLOCK),
        clock=CLOCK,
    )


@asynccontextmanager
async def started(simulated: ModbusDevice) -> AsyncIterator[ModbusDevice]:
    await simulated.start()
    try:
        yield simulated
    finally:
        await simulated.close()
        simulated._log.close()


def poll_of(options: config.ModbusSensor, bus: ModbusBus) -> SharedPoll:
    """Of one sensor alone."""
    profile = Profiles().modbus(options.profile)
    return SharedPoll(
        unit=options.unit, every_s=options.every_s, profile=profile, bus=bus, clock=CLOCK, name=options.id
    )


class Polling:
    """One bus and its sensors, running."""

    def __init__(self, *, port: int, timeout_s: float = 0.15, gap_close_s: float = 60.0, pause_ms: int = 0) -> None:
        self.bus = ModbusBus(
            options=config.TcpBus(id="b", host="127.0.0.1", port=port, timeout_s=timeout_s, pause_ms=pause_ms)
        )
        self.sensors: list[ModbusSensor] = []
        self.facts: list[Facts] = []
        self._gap_close_s = gap_close_s
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, unit: int = 1, *, every_s: float = 0.02, profile: str = COUNTER) -> tuple[ModbusSensor, Facts]:
        options = config.ModbusSensor(id=f"s{unit}", bus="b", unit=unit, profile=profile, every_s=every_s)
        sensor = ModbusSensor(
            options=options, poll=poll_of(options, self.bus), clock=CLOCK, gap_close_s=self._gap_close_s
        )
        self.sensors.append(sensor)
        self.facts.append(Facts())
        return sensor, self.facts[-1]

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self.bus.run(), name="bus")]
        for sensor, facts in zip(self.sensors, self.facts, strict=True):
            self._tasks.append(asyncio.create_task(sensor.run(facts), name="sensor"))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
