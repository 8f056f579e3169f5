"""gateway.power_fail: from SIGPWR to everything taken being on stable storage, the buffer's own loops running beside.

Fifty readings a second for a second before each; the worst of them is in the remark.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure
from gateway.buffer.disk import DiskBuffer
from gateway.clock import SystemClock
from gateway.power import PowerFail
from gateway.reading import GroupShape, Row, SeriesShape
from protos.config import BufferSection

TIMES = 20
ROWS, APART_S = 10, 0.1
TANK = GroupShape(sensor="tank", period_ms=100, series=tuple(SeriesShape(name=f"t{n}", exp=1) for n in range(5)))


def power() -> Iterator[Figure]:
    with TemporaryDirectory(prefix="comboio-power-") as folder:
        took_ms = asyncio.run(_failures(Path(folder)))
    remark = f"median of {TIMES}, worst {max(took_ms):.1f}"
    yield Figure("gateway.power_fail", statistics.median(took_ms), "ms", remark)


async def _failures(folder: Path) -> list[float]:
    clock = SystemClock()
    buffer = DiskBuffer(folder, clock=clock, settings=BufferSection(), batch_interval_s=10)
    (group,) = await buffer.open([TANK])
    fail = PowerFail(buffer=buffer, clock=clock, fail_input=lambda: "")
    async with fail.listening():
        loops = [asyncio.create_task(buffer.run()), asyncio.create_task(fail.run())]
        found = [await _failure(buffer, fail, group, clock) for _ in range(TIMES)]
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
    await buffer.close()
    return found


async def _failure(buffer: DiskBuffer, fail: PowerFail, group: int, clock: SystemClock) -> float:
    for n in range(ROWS):
        buffer.append(group, Row(clock.mono_ms(), tuple(range(n, n + 5))))
        await asyncio.sleep(APART_S)
    fail.took_ms = None
    began = time.perf_counter()
    os.kill(os.getpid(), signal.SIGPWR)
    while fail.took_ms is None:
        await asyncio.sleep(0.0005)
    took_ms = (time.perf_counter() - began) * 1000
    fail.went_on()
    return took_ms
