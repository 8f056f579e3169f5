"""gateway.flash_per_day and gateway.disk_space_per_reading: the mixed gateway's recordings through the real buffer.

Recorded time is turned, not waited for: rows are appended in their order, flushed every 150 ms of it when there are
any, sealed every 10 s, tidied every 30 s, and in the first case acknowledged after each seal. An hour holds the
checkpoints that a minute of a running daemon may not show.
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
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges

SPAN_S = 3600
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
    online = asyncio.run(_replayed(source, acknowledged=True))
    per_day = RATE * 86_400 / online.readings / 1e6
    remark = f"{kind}, an hour at default settings; {online.dirtied * per_day:.0f} MB of dirty pages"
    yield Figure("gateway.flash_per_day", online.passed_to_write * per_day, "MB at 50 readings/s", remark)
    outage = asyncio.run(_replayed(source, acknowledged=False))
    yield Figure("gateway.disk_space_per_reading", outage.on_disk / outage.readings, "B", f"{kind}, an hour's outage")


async def _replayed(source: Traffic, *, acknowledged: bool) -> Outcome:
    with TemporaryDirectory(prefix="comboio-bench-") as name:
        clock = Recorded()
        buffer = DiskBuffer(Path(name), clock=clock, settings=BufferSection(), batch_interval_s=SEAL_EVERY_MS / 1000)
        ids = await buffer.open([_shape(source, at) for at in range(len(source.recordings))])
        before = written("self")
        readings = 0
        flush_ms, seal_ms, tidy_ms = (clock.now_ms + step for step in (0, SEAL_EVERY_MS, TIDY_EVERY_MS))
        for at_ms, group, row in _rows(source):
            while at_ms >= flush_ms:
                clock.now_ms = flush_ms
                await buffer.flush()
                if flush_ms >= seal_ms:
                    await _sealed(buffer, acknowledged=acknowledged)
                    seal_ms += SEAL_EVERY_MS
                if flush_ms >= tidy_ms:
                    await buffer.tidy()
                    tidy_ms += TIDY_EVERY_MS
                flush_ms += round(FLUSH_EVERY_S * 1000)
            buffer.append(ids[group], row)
            readings += len(row.values)
        after = written("self")
        await buffer.close()
        on_disk = _bytes_on_disk(Path(name))
        return Outcome(
            readings, after["wchar"] - before["wchar"], after["write_bytes"] - before["write_bytes"], on_disk
        )


def _bytes_on_disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


async def _sealed(buffer: DiskBuffer, *, acknowledged: bool) -> None:
    await buffer.seal()
    if acknowledged:
        (_, telemetry) = await buffer.views()
        await buffer.ack(pb.TELEMETRY, Ranges([(1, telemetry.next_seq - 1)]))


def _rows(source: Traffic) -> Iterator[tuple[int, int, Row]]:
    """(when, index of the group, row) of all groups by time."""
    return heapq.merge(*(_of_group(source, at) for at in range(len(source.recordings))), key=lambda one: one[0])


def _of_group(source: Traffic, at: int) -> Iterator[tuple[int, int, Row]]:
    recording: Recording = source.recordings[at]
    for index, (time_ms, values) in enumerate(zip(recording.times, zip(*source.wires[at], strict=True), strict=True)):
        if time_ms >= UPTIME_MS + SPAN_S * 1000:
            return
        yield time_ms, at, Row(recording.times[index], values)


def _shape(source: Traffic, at: int) -> GroupShape:
    """As a driver would declare it: decimals known, references not."""
    group = source.declare.groups[at]
    return GroupShape(
        sensor=group.sensor,
        period_ms=group.period_ms,
        series=tuple(SeriesShape(name=s.name, type=s.type, exp=s.exp, raw=s.raw) for s in group.series),
    )
