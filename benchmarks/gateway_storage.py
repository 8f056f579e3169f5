"""gateway.flash_per_day and gateway.disk_space_per_reading: the mixed gateway's recordings through the real buffer.

Recorded time is turned, not waited for: rows are appended in their order, flushed every 150 ms of it when there are
any, sealed at the batch interval and tidied every 30 s. For flash that is an online hour, acknowledged after each seal:
it holds the checkpoints that a minute of a running daemon may not show. For space it is an outage of twelve hours,
sealed every 10 s for the first ten minutes and then every 600 s, as the uplink has it; the figure is all the files.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure
from benchmarks.gateway_rig import written
from benchmarks.mixed import UPTIME_MS, mixed
from benchmarks.recordings import Recording, Traffic, traffic
from gateway.buffer.disk import FLUSH_EVERY_S, DiskBuffer
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
    """Both figures."""
    kind, groups = mixed(recordings)
    source = traffic(groups)
    online = asyncio.run(_replayed(source, span_s=HOUR_S, outage=False))
    per_day = RATE * 86_400 / online.readings / 1e6
    remark = f"{kind}, an hour at default settings; {online.dirtied * per_day:.0f} MB of dirty pages"
    yield Figure("gateway.flash_per_day", online.passed_to_write * per_day, "MB at 50 readings/s", remark)
    outage = asyncio.run(_replayed(source, span_s=OUTAGE_S, outage=True))
    remark = f"{kind}, all files after twelve hours, {outage.readings} readings"
    yield Figure("gateway.disk_space_per_reading", outage.on_disk / outage.readings, "B", remark)


async def _replayed(source: Traffic, *, span_s: int, outage: bool) -> Outcome:
    with TemporaryDirectory(prefix="comboio-bench-") as name:
        clock = Recorded()
        settings = BufferSection()
        buffer = DiskBuffer(Path(name), clock=clock, settings=settings, batch_interval_s=SEAL_EVERY_MS / 1000)
        ids = await buffer.open([shape_of(source, at) for at in range(len(source.recordings))])
        before = written("self")
        readings = 0
        routine = Routine(buffer, clock, outage=outage)
        for at_ms, group, row in _rows(source, span_s):
            await routine.until(at_ms)
            buffer.append(ids[group], row)
            readings += len(row.values)
        after = written("self")
        await buffer.close()
        passed, dirtied = (after[what] - before[what] for what in ("wchar", "write_bytes"))
        return Outcome(readings, passed, dirtied, bytes_on_disk(Path(name)))


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


def _rows(source: Traffic, span_s: int) -> Iterator[tuple[int, int, Row]]:
    """(when, index of the group, row) of all groups by time."""
    return heapq.merge(*(_of_group(source, at, span_s) for at in range(len(source.recordings))), key=lambda one: one[0])


def _of_group(source: Traffic, at: int, span_s: int) -> Iterator[tuple[int, int, Row]]:
    recording: Recording = source.recordings[at]
    for index, (time_ms, values) in enumerate(zip(recording.times, zip(*source.wires[at], strict=True), strict=True)):
        if time_ms >= UPTIME_MS + span_s * 1000:
            return
        yield time_ms, at, Row(recording.times[index], values)


def shape_of(source: Traffic, at: int) -> GroupShape:
    """As a driver would declare it: decimals known, references not."""
    group = source.declare.groups[at]
    return GroupShape(
        sensor=group.sensor,
        period_ms=group.period_ms,
        series=tuple(SeriesShape(name=s.name, type=s.type, exp=s.exp, raw=s.raw) for s in group.series),
    )
