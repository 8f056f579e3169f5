"""The whole daemon as a process, reading a real Modbus device over TCP."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protos.comboio.v1 import batch_pb2 as pb
from tests.faults.daemons import ROOT, enrolled, until
from tests.gateway.buffer.boxes import Box, blocks, gaps

EVERY_S = 0.05
CONFIG = """\
config_version = 1
[uplink]
server = "127.0.0.1:1"
batch_interval_s = 0.3
[[bus]]
id = "rack"
kind = "tcp"
host = "127.0.0.1"
port = {port}
[[sensor]]
id = "counter"
driver = "modbus"
bus = "rack"
profile = "comboio-counter@1"
every_s = 0.05
"""


@contextmanager
def started(log: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A program and the first line it said; gone afterwards."""
    with log.open("ab") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments, "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=handle
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def device(folder: Path) -> Iterator[tuple[int, Path]]:
    """(port, log of reads answered)."""
    reads = folder / "reads.jsonl"
    arguments = ["simulate", "modbus", "--profile", "comboio-counter@1", "--counting", "--log", str(reads)]
    with started(folder / "device.log", *arguments) as (_, said):
        yield said["port"], reads


@contextmanager
def daemon(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    home.mkdir(exist_ok=True)
    (home / "gateway.toml").write_text(CONFIG.format(port=port))
    if not (home / "identity").exists():
        enrolled(home)
    arguments = ["run", "--config", str(home / "gateway.toml"), "--data-dir", str(home)]
    with started(home / "daemon.log", *arguments) as (process, said):
        assert said == {"ready": True}
        yield process


def answered(reads: Path) -> list[int]:
    """The number of each read the device answered."""
    return [json.loads(line)["k"] for line in reads.read_text().splitlines() if "fault" not in line]


async def kept(home: Path) -> tuple[list[int], list[pb.Gap]]:
    """The number of each read in the buffer, and its gaps; of a copy, so that nothing is opened twice."""
    copy = home.with_name(home.name + "-copy")
    shutil.copytree(home / "buffer", copy)
    box = Box(copy)
    buffer = await box.open(())
    try:
        found = [int(value) for block in await blocks(buffer) for value in block.columns[0]]  # type: ignore[arg-type]
        return [(value - 997) % 65536 for value in found], await gaps(buffer)
    finally:
        await buffer.close()
        shutil.rmtree(copy)


def test_every_answered_read_is_kept_or_in_a_gap_however_often_it_is_stopped(tmp_path: Path) -> None:
    home = tmp_path / "gateway"
    with device(tmp_path) as (port, reads):
        for stop_after_s in (0.31, 0.523, 0.747, 0.402):
            with daemon(home, port) as process:
                before = len(reads.read_text().splitlines())
                until(lambda seen=before: len(reads.read_text().splitlines()) > seen)  # type: ignore[misc]
                time.sleep(stop_after_s)  # a moment of no importance to the daemon
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
                assert time.monotonic() - began < 5
    rows, said = asyncio.run(kept(home))
    truth = answered(reads)
    assert len(truth) >= 4 * 5
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(truth)
    missing = set(truth) - set(rows)
    unreadable = [gap for gap in said if gap.reason == pb.GAP_UNREADABLE]
    assert len(missing) <= sum(gap.count for gap in unreadable) <= 4  # at most the one under way, per stop
    assert all(gap.count_exact for gap in unreadable)
    assert [gap for gap in said if gap.reason == pb.GAP_RESTART] == []


def test_a_device_that_cannot_be_reached_stops_nothing_and_is_one_gap(tmp_path: Path) -> None:
    home = tmp_path / "gateway"
    with daemon(home, 1) as process:
        time.sleep(0.8)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    rows, said = asyncio.run(kept(home))
    assert rows == []
    unread = [gap.count for gap in said if gap.reason != pb.GAP_QUEUE_FULL]  # polls fall out on a busy machine
    assert len(unread) == 1
    assert unread[0] >= 1
    assert "part.failed" not in (home / "daemon.log").read_text()


def test_a_failing_power_supply_is_survived_and_told(tmp_path: Path) -> None:
    home = tmp_path / "gateway"
    with device(tmp_path) as (port, reads), daemon(home, port) as process:
        until(lambda: len(reads.read_text().splitlines()) > 3)
        process.send_signal(signal.SIGPWR)
        until(lambda: "power.failed" in (home / "daemon.log").read_text())
        process.kill()
        process.wait()
        assert '"safe": true' in (home / "daemon.log").read_text()


def test_a_kill_costs_at_most_the_last_quarter_second_and_says_so(tmp_path: Path) -> None:
    home = tmp_path / "gateway"
    with device(tmp_path) as (port, reads):
        with daemon(home, port) as process:
            until(lambda: reads.exists() and len(answered(reads)) > 20)
            process.kill()
            process.wait()
        at_kill = len(answered(reads))
        with daemon(home, port) as process:
            until(lambda: len(answered(reads)) > at_kill + 5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    rows, said = asyncio.run(kept(home))
    missing = set(answered(reads)) - set(rows)
    assert len(set(rows)) == len(rows)
    restart = [gap for gap in said if gap.reason == pb.GAP_RESTART]
    assert len(restart) == 1
    assert not restart[0].count_exact
    assert len(missing) <= 0.25 / EVERY_S + 2  # 250 ms of reads, the one under way at each end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_stops_at_once_while_the_server_is_away(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "gateway"
    with daemon(home, 1) as process:
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
