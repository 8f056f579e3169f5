"""gateway.rtu_line_use_*: how much of what a serial line could carry is really read from it.

10 units × 100 registers behind a pseudo terminal that lets bytes pass at the pace of a wire (start bit, 8 data bits, 2
stop bits) and answers 10 ms after a question, asked as fast as the bus goes. 100 % is what `budget.SerialLine` reckons
for the same requests. Every value is checked.

    python -m benchmarks.gateway_serial --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.figures import Figure
from firmware_configs.buses import bus_plans
from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.clock import SystemClock
from gateway.reading import Lost, Row
from gateway.simulators.counting import counting
from protos.config import GatewayConfig, ModbusSensor, RtuBus

BAUDS = (9600, 19200)
UNITS = 10
PROFILE = "comboio-counter@1"
TURNAROUND_MS = 10.0
WARM_UP_S = 3.0


def serial(*, seconds: float = 20.0) -> Iterator[Figure]:
    for baud in BAUDS:
        with _line(baud) as path:
            yield asyncio.run(_used(path, baud, seconds))


@contextlib.contextmanager
def _line(baud: int) -> Iterator[str]:
    """The simulated devices in a process of their own."""
    units = [argument for unit in range(1, UNITS + 1) for argument in ("--unit", str(unit))]
    pace = ["--kind", "rtu", "--baud", str(baud), "--turnaround-ms", str(TURNAROUND_MS)]
    command = [sys.executable, "-m", "gateway", "simulate", "modbus", "--profile", PROFILE, "--counting", "--json"]
    with subprocess.Popen([*command, *units, *pace], stdout=subprocess.PIPE) as devices:
        assert devices.stdout is not None
        try:
            yield str(json.loads(devices.stdout.readline())["path"])
        finally:
            devices.send_signal(signal.SIGTERM)


class _Unit:
    """What one sensor emitted."""

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self.rows = 0

    def row(self, group: int, row: Row) -> None:
        del group
        assert isinstance(row.values[0], int)
        k = (row.values[0] - counting(unit=self._unit, address=0, k=0)) % 65536
        if row.values != tuple(counting(unit=self._unit, address=a, k=k) for a in range(len(row.values))):
            raise ValueError(f"unit {self._unit}: a wrong value")
        self.rows += 1

    def lost(self, group: int, lost: Lost) -> None:
        """Polls that fell out: the line is asked for more than it can carry."""


async def _used(path: str, baud: int, seconds: float) -> Figure:
    bus = RtuBus(id="line", port=path, baud=baud, parity="none", stop_bits=2, best_effort=True)
    wanted = tuple(
        ModbusSensor(id=f"unit-{n}", bus="line", unit=n, profile=PROFILE, every_s=0.5) for n in range(1, UNITS + 1)
    )
    config = GatewayConfig(config_version=1, bus=(bus,), sensor=wanted)
    profiles = Profiles()
    (plan,) = bus_plans(config, profiles)
    built = sensors.build(config, clock=SystemClock(), profiles=profiles)
    heard = [_Unit(n) for n in range(1, UNITS + 1)]
    running = [asyncio.create_task(_run(task.run)) for task in built.tasks]
    running += [
        asyncio.create_task(sensor.driver.run(unit))  # type: ignore[arg-type]
        for sensor, unit in zip(built.sensors, heard, strict=True)
    ]
    await asyncio.sleep(WARM_UP_S)
    before, began, spent = [unit.rows for unit in heard], time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    took, spent = time.monotonic() - began, time.process_time() - spent
    rows = [unit.rows - n for unit, n in zip(heard, before, strict=True)]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    busy_s = sum(one.poll.ms / 1000 * n for one, n in zip(plan.sensors, rows, strict=True))
    remark = f"{sum(rows)} reads of 100 registers in {took:.0f} s, all right, {min(rows)} to {max(rows)} a unit"
    return Figure(f"gateway.rtu_line_use_{baud}", 100 * busy_s / took, "%", f"{remark}; {spent / took:.1%} of a core")


async def _run(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gateway_serial", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (default 20)")
    for figure in serial(seconds=parser.parse_args().seconds):
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
