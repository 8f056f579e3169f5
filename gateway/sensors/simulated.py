"""A sensor that isn't there, for demonstrations and tests; every series says so (simulated = "true").

Values depend only on the sensor's id, the column and the number of the read, so that anyone can check them:

* counting: (k + 31 i) mod 65536 for the k-th read (from 1) of column i (from 0);
* sine, noise: hundredths, see `sine` and `noise`.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from firmware_configs.loader import Profiles
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.reading import GroupShape, Row, SeriesShape
from gateway.sensors import Built, BuiltSensor
from gateway.sensors.driver import Emit
from gateway.sensors.schedule import Schedule
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import GatewayConfig
from protos.config import SimulatedSensor as SensorOptions


def counting(seed: int, column: int, k: int) -> int:
    del seed
    return (k + 31 * column) % 65536


def sine(seed: int, column: int, k: int) -> int:
    """20.00 ± 5.00 over 600 reads, phase by sensor and column."""
    return 2000 + round(500 * math.sin(2 * math.pi * (k / 600 + (seed % 97 + 13 * column) / 97)))


def noise(seed: int, column: int, k: int) -> int:
    """20.00 ± 1.00, one hash per read."""
    return 1900 + zlib.crc32(f"{seed}/{column}/{k}".encode()) % 201


SIGNALS: dict[str, Callable[[int, int, int], int]] = {"counting": counting, "sine": sine, "noise": noise}


class SimulatedSensor:
    """A `Driver`. One group, one column per quantity."""

    def __init__(self, *, options: SensorOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._signal = SIGNALS[options.signal]
        self._seed = zlib.crc32(options.id.encode())
        self._k = 0

    def groups(self) -> Sequence[GroupShape]:
        counts = self._options.signal == "counting"
        return (
            GroupShape(
                sensor=self._options.id,
                period_ms=max(1, round(self._options.every_s * 1000)),
                series=tuple(
                    SeriesShape(
                        name=quantity,
                        unit=unit,
                        type=pb.VT_INT64 if counts else pb.VT_FLOAT64,
                        exp=0 if counts else 2,
                        attrs=self._options.attrs.get(quantity, {}) | {"simulated": "true"},
                    )
                    for quantity, unit in self._options.quantities.items()
                ),
            ),
        )

    def pending_since(self) -> int | None:
        return None

    async def run(self, emit: Emit) -> None:
        loop = asyncio.get_running_loop()
        schedule: Schedule[SimulatedSensor] = Schedule()
        schedule.add(self, every_s=self._options.every_s, now_s=loop.time())
        while True:
            if schedule.take(loop.time()) is not None:
                emit.row(0, self._read())
            release_s = schedule.next_release_s()
            assert release_s is not None
            await asyncio.sleep(max(0.0, release_s - loop.time()))

    def _read(self) -> Row:
        self._k += 1
        columns = range(len(self._options.quantities))
        return Row(self._clock.mono_ms(), tuple(self._signal(self._seed, i, self._k) for i in columns))


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """Every simulated sensor of `config`. Raises Misconfigured."""
    del profiles, data_dir
    sensors = []
    for options in config.sensor:
        if isinstance(options, SensorOptions):
            if not options.quantities:
                raise Misconfigured(f"sensor {options.id}: quantities is empty; name at least one")
            sensors.append(BuiltSensor(options.id, SimulatedSensor(options=options, clock=clock)))
    return Built(sensors=tuple(sensors))
