"""gateway.offline_30d, gateway.drain, gateway.first_*, gateway.rss_backlog: a long outage, and what comes after.

The outage is lived through by the real buffer on a turned clock: the mixed gateway's rows, over and over, sealed as the
uplink has it while it is away. What it leaves is then put under gateways that are started against a real ingest, with
ten devices read live beside it; what arrived, and when, is the journal's word.

    python -m benchmarks.gateway_outage --days 3
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import select

from benchmarks.figures import Figure
from benchmarks.gateway_rig import Fleet, Rig, Site, rss_mb
from benchmarks.gateway_storage import Recorded, Routine, bytes_on_disk, shape_of
from benchmarks.mixed import SECONDS, UPTIME_MS, mixed
from benchmarks.recordings import Traffic, folder, traffic
from control_plane.simulators.scenario import Installation
from control_plane.store import tables
from control_plane.store.engine import Stores
from gateway.buffer.disk import DiskBuffer
from gateway.clock import SystemClock
from gateway.reading import GroupShape, Row, SeriesShape
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection

SETTINGS = "[ingest]\nbatch_interval_s = 0.5\n"
SMALL = "comboio-counter-10@1"
DAY_S = 86_400
DRAINS = STARTS = 3
GIGABYTE = 1_000_000_000
ROOMY = "\n[buffer]\nlimit_mb = 4096\n"
TEXT_BYTES = 1_500
IDLE_S = 20.0
NOWHERE = '[uplink]\nserver = "127.0.0.1:1"\n'
READINGS_IN_MEMORY_TEST = 10_000_000
DRAINED_WITHIN_S = 1_800


@dataclass(frozen=True, slots=True)
class Outage:
    """What waits in a buffer's folder: its last seq of telemetry, and how much it is."""

    folder: Path
    seconds: float
    readings: int
    batches: int
    on_disk: int


def figures(*, days: float = 30.0) -> Iterator[Figure]:
    """All of them."""
    with TemporaryDirectory(prefix="comboio-bench-") as name, _rig() as running:
        kind, groups = mixed(folder())
        source = traffic(groups)
        outage = lived(Path(name) / "outage", source, seconds=days * DAY_S)
        rate = outage.readings / outage.seconds
        remark = f"{kind}, {days:g} days at {rate:.1f} readings/s in {outage.batches} batches, all files"
        yield Figure("gateway.offline_30d", outage.on_disk * 50 / rate / 1e6 * 30 / days, "MB at 50 readings/s", remark)
        yield from drained(running, outage)
        shutil.rmtree(outage.folder)
        yield from memory(running, Path(name) / "ten-million", source)
        yield from started(running, Path(name) / "gigabyte")


@contextmanager
def _rig() -> Iterator[Rig]:
    with TemporaryDirectory(prefix="comboio-bench-") as name, Installation(Path(name), settings=SETTINGS) as installed:
        installed.start()
        with Stores(f"sqlite:///{Path(name) / 'control'}") as stores:
            yield Rig(installed, stores)


# --- living through it -----------------------------------------------------------------------------------------


def lived(place: Path, source: Traffic, *, seconds: float) -> Outage:
    """An outage of the mixed gateway; `seconds` are of its own time."""
    return asyncio.run(_lived(place, source, seconds))


async def _lived(place: Path, source: Traffic, seconds: float) -> Outage:
    clock = Recorded()
    buffer = DiskBuffer(place, clock=clock, settings=BufferSection(limit_mb=4096), batch_interval_s=10.0)
    ids = await buffer.open([shape_of(source, at) for at in range(len(source.recordings))])
    routine, readings, end_ms = Routine(buffer, clock, outage=True), 0, UPTIME_MS + round(seconds * 1000)
    for at_ms, at, values in _over_and_over(source):
        if at_ms >= end_ms:
            break
        await routine.until(at_ms)
        buffer.append(ids[at], Row(at_ms, values))
        readings += len(values)
    await buffer.close()
    return Outage(place, seconds, readings, _newest(buffer), bytes_on_disk(place))


def _over_and_over(source: Traffic) -> Iterator[tuple[int, int, tuple[int | float, ...]]]:
    lap = sorted(
        (time_ms, at, values)
        for at, recording in enumerate(source.recordings)
        for time_ms, values in zip(recording.times, zip(*source.wires[at], strict=True), strict=True)
    )
    later_ms = 0
    while True:
        for time_ms, at, values in lap:
            yield time_ms + later_ms, at, values
        later_ms += SECONDS * 1000


async def _gigabyte(place: Path) -> Outage:
    """As many bytes of what can't be made smaller: texts of a device that logs in base64."""
    clock = Recorded()
    buffer = DiskBuffer(place, clock=clock, settings=BufferSection(limit_mb=4096), batch_interval_s=10.0)
    log = GroupShape(sensor="log", period_ms=1000, series=(SeriesShape(name="line", type=pb.VT_STRING),))
    (group,) = await buffer.open([log])
    rows = size = 0
    while size < GIGABYTE:
        clock.now_ms += 1000
        line = base64.b64encode(os.urandom(TEXT_BYTES)).decode()
        buffer.append(group, Row(clock.now_ms, (line,)))
        rows, size = rows + 1, size + TEXT_BYTES
        if rows % 43 == 0:
            await buffer.seal()
    await buffer.close()
    return Outage(place, rows, rows, _newest(buffer), bytes_on_disk(place))


def _newest(buffer: DiskBuffer) -> int:
    return next(said.seq for said in buffer.completeness() if said.lane == pb.TELEMETRY)


# --- and after -------------------------------------------------------------------------------------------------


def drained(running: Rig, outage: Outage) -> Iterator[Figure]:
    """From the first batch of it in the journal to the last, everything counted."""
    times, lags, peaks = [], [], []
    for _ in range(DRAINS):
        site = _site(running, outage)
        site.gateway.start()
        peaks.append(_until_drained(site, running, outage))
        site.stop()
        took_s, lag_s = _judged(site, running, outage)
        times.append(took_s)
        lags.append(lag_s)
    took_s = statistics.median(times)
    speed = f"{outage.readings / took_s:.0f} readings/s, {outage.batches / took_s:.0f} batches/s"
    remark = f"{outage.seconds / DAY_S:g} days in {took_s:.1f} s, {speed}; live data at most {max(lags):.2f} s behind"
    remark += f", at most {max(peaks):.1f} MB; median of {DRAINS}, 0 of {outage.readings} readings lost"
    yield Figure("gateway.drain", outage.seconds / took_s, "× real time", remark)


def _site(running: Rig, outage: Outage | None) -> Site:
    site = running.site(Fleet(devices=10, profile=SMALL, every_s=1.0))
    if outage is not None:
        shutil.copytree(outage.folder, site.home / "buffer")
    config = site.home / "gateway.toml"
    config.write_text(config.read_text() + ROOMY)
    return site


def _until_drained(site: Site, running: Rig, outage: Outage) -> float:
    """Returns the most memory it took meanwhile, in MB."""
    peak, end = 0.0, time.monotonic() + DRAINED_WITHIN_S
    while sum(seq <= outage.batches for seq, *_ in _rows(site, running)) < outage.batches:
        peak = max(peak, rss_mb(site.gateway.pid))
        if time.monotonic() > end:
            raise TimeoutError(f"not drained within {DRAINED_WITHIN_S} s")
        time.sleep(0.5)
    time.sleep(1.0)
    return peak


def _rows(site: Site, running: Rig) -> list[tuple[int, int, int, int]]:
    """(seq, readings, when it was received, up to when it is complete by the box's clock) of telemetry."""
    batch = tables.batch.c
    query = select(batch.seq, batch["count"], batch.received_ms, batch.complete_mono_ms)
    with running.stores.journal.read() as run:
        found = run.execute(query.where(batch.gateway == site.id, batch.lane == pb.TELEMETRY)).all()
    return [(row[0], row[1], row[2], row[3]) for row in found]


def _judged(site: Site, running: Rig, outage: Outage) -> tuple[float, float]:
    """(seconds it took, by how many the newest live data was behind at worst meanwhile)."""
    rows = _rows(site, running)
    old = [row for row in rows if row[0] <= outage.batches]
    readings = sum(count for _, count, _, _ in old)
    if readings != outage.readings:
        raise ValueError(f"{readings} of {outage.readings} readings arrived")
    begin_ms, end_ms = (edge(received for _, _, received, _ in old) for edge in (min, max))
    clock = SystemClock()
    ahead_ms = clock.wall_ms() - clock.mono_ms()
    live = [row for row in rows if row[0] > outage.batches and begin_ms <= row[2] <= end_ms]
    lags = [received - (complete + ahead_ms) for _, _, received, complete in live]
    if not lags:
        raise ValueError("nothing live came while it drained; take more days")
    return (end_ms - begin_ms) / 1000, max(lags) / 1000


def memory(running: Rig, place: Path, source: Traffic) -> Iterator[Figure]:
    """Two gateways whose control plane is away: one has nothing to send, the other ten million readings."""
    rate = sum(len(one.columns) * 1000 / one.period_ms for one in source.recordings)
    outage = lived(place, source, seconds=READINGS_IN_MEMORY_TEST / rate)
    found = []
    for waiting in (None, outage):
        site = _site(running, waiting)
        config = site.home / "gateway.toml"
        config.write_text(config.read_text() + NOWHERE)
        site.gateway.start()
        time.sleep(IDLE_S)
        found.append(rss_mb(site.gateway.pid))
        site.stop()
    remark = f"{found[1]:.1f} MB with {outage.readings} readings waiting, {found[0]:.1f} MB with none, link down"
    yield Figure("gateway.rss_backlog", found[1] - found[0], "MB", remark)
    shutil.rmtree(place)


def started(running: Rig, place: Path) -> Iterator[Figure]:
    """From exec to the first answer heard from a device, and to the first new batch in the journal."""
    outage = asyncio.run(_gigabyte(place))
    site = _site(running, outage)
    shutil.rmtree(place)
    read, delivered, waits = [], [], []
    for _ in range(STARTS):
        known = site.reads.stat().st_size
        before = max((seq for seq, *_ in _rows(site, running)), default=0)
        began = time.monotonic()
        site.gateway.begin()
        while site.reads.stat().st_size == known:
            time.sleep(0.002)
        read.append(time.monotonic() - began)
        while not (newest := _live(site, running, max(before, outage.batches))):
            time.sleep(0.01)
        delivered.append(time.monotonic() - began)
        waits.append(newest - len(_rows(site, running)))
        site.gateway.wait_ready()
        site.gateway.stop()
    site.stop()
    remark = f"median of {STARTS}, {outage.on_disk / 1e9:.2f} GB of backlog in {outage.batches} batches"
    yield Figure("gateway.first_reading", statistics.median(read), "s", remark)
    left = f"{remark}, of which {min(waits)} still waited the last time"
    yield Figure("gateway.first_delivery", statistics.median(delivered), "s", left)


def _live(site: Site, running: Rig, after: int) -> int:
    """The newest seq above that one, 0 without."""
    batch = tables.batch.c
    query = select(batch.seq).where(batch.gateway == site.id, batch.lane == pb.TELEMETRY, batch.seq > after)
    with running.stores.journal.read() as run:
        return max(run.execute(query).scalars(), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gateway_outage", description=__doc__)
    parser.add_argument("--days", type=float, default=30.0, help="of the outage (default 30)")
    for figure in figures(days=parser.parse_args().days):
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
