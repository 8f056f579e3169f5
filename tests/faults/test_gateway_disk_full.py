"""The gateway's folder on a file system of eight megabytes that is then filled by somebody else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.buffer import disk
from gateway.buffer.disk import DiskBuffer
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from tests.faults.daemons import enrolled, running, until
from tests.gateway.buffer.boxes import COOLING, Box, gaps, values

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "comboio-test", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as handle:
        size = 1 << 20
        while size:
            try:
                handle.write(bytes(size))
            except OSError:
                size //= 2
    return filler


def test_a_full_disk_stops_no_sensor_and_everything_is_there_once_space_returns(small: Path) -> None:
    home = small / "home"
    home.mkdir()
    enrolled(home)
    with running(home) as daemon:
        until(lambda: daemon.report()["lanes"]["telemetry"]["sealed"] > 0)
        filler = fill(small)
        until(lambda: any(event["event"] == "buffer.unwritable" for event in daemon.events()))
        time.sleep(1.0)
        assert daemon.alive
        stuck = daemon.report()["lanes"]["telemetry"]["sealed"]
        filler.unlink()
        until(lambda: daemon.report()["lanes"]["telemetry"]["sealed"] > stuck)
        assert daemon.stop() == 0
    found = asyncio.run(kept(home / "buffer"))
    assert found == list(range(1, len(found) + 1))
    assert len(found) > 100


async def test_when_memory_is_full_too_the_oldest_rows_go_and_the_balance_holds(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MAX_UNSEALED_READINGS", 4_000)
    monkeypatch.setattr(disk, "RETRY_S", 0.05)
    box = Box(small / "buffer")
    buffer = await box.open([COOLING])
    buffer.batch_interval_s = 0.1
    loops = asyncio.create_task(buffer.run())
    produced = 0
    filler = None
    for step in range(40):
        for _ in range(200):
            box.row(produced % 1000)
            produced += 1
        await asyncio.sleep(0.02)
        if step == 5:
            filler = fill(small)
        if step == 35 and filler:
            filler.unlink()
    await asyncio.sleep(0.5)
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    await buffer.seal()
    delivered = await values(buffer)
    lost = sum(gap.count for gap in await gaps(buffer) if gap.reason == pb.GAP_DROPPED)
    assert lost > 0
    assert len(delivered) + lost == produced
    await buffer.close()


async def kept(folder: Path) -> list[int]:
    box = Box(folder)
    box.buffer = buffer = DiskBuffer(folder, clock=box.clock, settings=BufferSection(), batch_interval_s=10)
    await buffer.open([])
    found = [value for value in await values(buffer) if isinstance(value, int)]
    await buffer.close()
    return found
