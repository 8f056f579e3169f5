"""gateway.flash_per_day, .disk_space_per_reading, .append_durable: the mixed recordings through the real buffer.

Recorded time is turned, not waited for: rows are appended in their order, flushed every 200 ms of it when there are
any, sealed at the batch interval and tidied every 30 s. For flash that is an online hour, acknowledged after each seal:
it holds the checkpoints that a minute of a running daemon may not show. For space it is an outage of twelve hours,
sealed every 10 s for the first ten minutes and then every 600 s, as the uplink has it; the figure is all the files.

1 000 readings a second are twenty such gateways in one, each half an hour further on in the recordings.
Appended to durable is as fast as rows are taken, in real time with the buffer's own loops running: bursts of rows, the
next when the last one's receipt says that a power cut would not cost it any more.
"""

from __future__ import annotations

import asyncio
import heapq
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure
from benchmarks.gateway_rig import written
from benchmarks.mixed import UPTIME_MS, mixed
from benchmarks.recordings import Traffic, traffic
from gateway.buffer.disk import FLUSH_EVERY_S, DiskBuffer
from gateway.clock import SystemClock
from gateway.reading import GroupShape, Row, SeriesShape
from gateway.uplink.link import LONG_AWAY_S
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges

HOUR_S = 3600
OUTAGE_S = 12 * 3600
SEAL_EVERY_MS = 10_000
TIDY_EVERY_MS = 30_000
RATE = 50.0
COPIES, APART_S = 20, 1800
BURST_ROWS, BURSTS = 2_000, 150
TEN = GroupShape(
    sensor="device", period_ms=20, series=tuple(SeriesShape(name=f"register_{n}", exp=0) for n in range(10))
)


@dataclass(slots=True)
class Recorded:
    """A clock that stands where the recording is."""

    now_ms: int = UPTIME_MS

    def boot_id(self) -> bytes:
        return b"b" * 16

    def mono_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms + 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    readings: int
    passed_to_write: int
    dirtied: int
    on_disk: int


def storage(recordings: Path | None) -> Iterator[Figure]:
    """All of them."""
    kind, groups = mixed(recordings)
    source = traffic(groups)
    for copies in (1, COPIES):
        yield _flash(asyncio.run(_replayed(source, span_s=HOUR_S, outage=False, copies=copies)), kind, copies)
    outage = asyncio.run(_replayed(source, span_s=OUTAGE_S, outage=True))
    remark = f"{kind}, all files after twelve hours, {outage.readings} readings"
    yield Figure("gateway.disk_space_per_reading", outage.on_disk / outage.readings, "B", remark)
    speeds = [asyncio.run(_appended()) for _ in range(3)]
    remark = f"median of 3, {BURSTS} bursts of {BURST_ROWS} rows of ten values, each synced before the next"
    yield Figure("gateway.append_durable", statistics.median(speeds), "readings/s", remark)


def _flash(online: Outcome, kind: str, copies: int) -> Figure:
    rate = RATE if copies == 1 else 1000.0
    per_day = rate * 86_400 / online.readings / 1e6
    remark = f"{kind}, an hour at default settings; {online.dirtied * per_day:.0f} MB of dirty pages"
    key = "gateway.flash_per_day" if copies == 1 else "gateway.flash_per_day_1000"
    return Figure(key, online.passed_to_write * per_day, f"MB at {rate:.0f} readings/s", remark)


async def _replayed(source: Traffic, *, span_s: int, outage: bool, copies: int = 1) -> Outcome:
    with TemporaryDirectory(prefix="comboio-bench-") as name:
        clock = Recorded()
        settings = BufferSection()
        buffer = DiskBuffer(Path(name), clock=clock, settings=settings, batch_interval_s=SEAL_EVERY_MS / 1000)
        shapes = [shape_of(source, at, copy) for copy in range(copies) for at in range(len(source.recordings))]
        ids = await buffer.open(shapes)
        before = written("self")
        readings = 0
        routine = Routine(buffer, clock, outage=outage)
        for at_ms, group, row in _rows(source, span_s, copies):
            await routine.until(at_ms)
            buffer.append(ids[group], row)
            readings += len(row.values)
        after = written("self")
        await buffer.close()
        passed, dirtied = (after[what] - before[what] for what in ("wchar", "write_bytes"))
        return Outcome(readings, passed, dirtied, bytes_on_disk(Path(name)))


async def _appended() -> float:
    """Readings per second."""
    with TemporaryDirectory(prefix="comboio-bench-") as name:
        clock = SystemClock()
        buffer = DiskBuffer(Path(name), clock=clock, settings=BufferSection(), batch_interval_s=SEAL_EVERY_MS / 1000)
        (group,) = await buffer.open([TEN])
        loops = asyncio.create_task(buffer.run())
        began = time.perf_counter()
        for burst in range(BURSTS):
            for number in range(BURST_ROWS):
                receipt = buffer.append(group, Row(clock.mono_ms(), tuple(range(burst + number, burst + number + 10))))
            await receipt.durable()
        took_s = time.perf_counter() - began
        loops.cancel()
        with suppress(asyncio.CancelledError):
            await loops
        await buffer.close()
        return BURSTS * BURST_ROWS * len(TEN.series) / took_s


class Routine:
    """What the loops of a running buffer do, on the recording's time."""

    def __init__(self, buffer: DiskBuffer, clock: Recorded, *, outage: bool) -> None:
        self._buffer = buffer
        self._clock = clock
        self._outage = outage
        self._flush_ms = clock.now_ms
        self._seal_ms = clock.now_ms + SEAL_EVERY_MS
        self._tidy_ms = clock.now_ms + TIDY_EVERY_MS

    async def until(self, at_ms: int) -> None:
        while at_ms >= self._flush_ms:
            now_ms = self._clock.now_ms = self._flush_ms
            if not self._outage:  # else everything is written when it is sealed
                await self._buffer.flush()
            if now_ms >= self._seal_ms or self._buffer.wants_sealing():
                await self._seal()
                away = self._outage and now_ms - UPTIME_MS >= LONG_AWAY_S * 1000
                self._seal_ms = now_ms + (round(LONG_AWAY_S * 1000) if away else SEAL_EVERY_MS)
            if now_ms >= self._tidy_ms:
                await self._buffer.tidy()
                self._tidy_ms += TIDY_EVERY_MS
            self._flush_ms += round(FLUSH_EVERY_S * 1000)

    async def _seal(self) -> None:
        await self._buffer.seal()
        if not self._outage:
            (_, telemetry) = await self._buffer.views()
            await self._buffer.ack(pb.TELEMETRY, Ranges([(1, telemetry.next_seq - 1)]))


def bytes_on_disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def _rows(source: Traffic, span_s: int, copies: int) -> Iterator[tuple[int, int, Row]]:
    """(when, index of the group, row) of all groups by time."""
    groups = len(source.recordings)
    parts = (_of_group(source, at % groups, span_s, at // groups, at) for at in range(groups * copies))
    return heapq.merge(*parts, key=lambda one: one[0])


def _of_group(source: Traffic, at: int, span_s: int, copy: int, group: int) -> Iterator[tuple[int, int, Row]]:
    """One group's rows from where that copy begins in its recording, as if they were of now."""
    times = source.recordings[at].times
    ahead_ms = copy * APART_S * 1000
    first = bisect_left(times, UPTIME_MS + ahead_ms)
    for time_ms, values in islice(zip(times, zip(*source.wires[at], strict=True), strict=True), first, None):
        if time_ms >= UPTIME_MS + ahead_ms + span_s * 1000:
            return
        yield time_ms - ahead_ms, group, Row(time_ms - ahead_ms, values)


def shape_of(source: Traffic, at: int, copy: int = 0) -> GroupShape:
    """As a driver would declare it: decimals known, references not."""
    group = source.declare.groups[at]
    return GroupShape(
        sensor=f"{group.sensor}-{copy}" if copy else group.sensor,
        period_ms=group.period_ms,
        series=tuple(SeriesShape(name=s.name, type=s.type, exp=s.exp, raw=s.raw) for s in group.series),
    )
