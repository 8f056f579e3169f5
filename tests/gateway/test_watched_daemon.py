"""The whole daemon under a watchdog: a real notify socket, and parts that are stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from firmware_configs.loader import Profiles
from gateway import daemon
from gateway.clock import SystemClock
from protos.config import from_toml
from tests.faults.daemons import CONFIG, enrolled

LOOK_S = 0.1


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What was heard since the last call."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listener.getsockname()[1:].decode())
        monkeypatch.setenv("WATCHDOG_USEC", str(round(LOOK_S * 4e6)))

        def heard() -> list[str]:
            found = []
            while True:
                try:
                    found.append(listener.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield heard


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[None]:
    enrolled(home)
    ready = asyncio.Event()
    program = daemon.run(
        from_toml(CONFIG),
        data_dir=home,
        clock=SystemClock(),
        profiles=Profiles(),
        version=lambda: "test",
        ready=ready.set,
    )
    task = asyncio.create_task(program)
    await asyncio.wait([task, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await task


async def test_the_daemon_feeds_the_watchdog_from_its_start_and_says_how_it_is(
    tmp_path: Path, systemd: Callable[[], list[str]]
) -> None:
    async with running(tmp_path):
        await asyncio.sleep(LOOK_S * 3)
        heard = systemd()
        assert heard[0] == "READY=1"
        assert heard[1] == "WATCHDOG=1\nSTATUS=1 sensor; link down, 0 batches waiting"
        assert len(heard) >= 4
        assert all(line.startswith("WATCHDOG=1\n") for line in heard[1:])
    assert "STOPPING=1" in systemd()


@pytest.mark.parametrize("part", ["sensor.counter", "uplink", "buffer"])
async def test_a_part_that_ends_silences_the_watchdog(
    part: str, tmp_path: Path, systemd: Callable[[], list[str]]
) -> None:
    async with running(tmp_path):
        (task,) = [one for one in asyncio.all_tasks() if one.get_name() == part]
        task.cancel()
        await asyncio.wait([task])
        systemd()
        await asyncio.sleep(LOOK_S * 3)
        heard = systemd()
        assert heard
        assert all(line == f"STATUS=no progress: {part} has ended" for line in heard)
