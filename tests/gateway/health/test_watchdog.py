"""Against a real notify socket, as systemd has it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.disk import DiskBuffer
from gateway.health.watchdog import Watchdog, limit_s, notify
from gateway.reading import Row
from tests.gateway.buffer.boxes import Box


class Notified:
    """What systemd would have heard."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._listener.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # an abstract address of the kernel's choice
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listener.getsockname()[1:].decode())
        yield Notified(listener)


def test_a_box_that_makes_progress_feeds_the_watchdog(systemd: Notified) -> None:
    Watchdog(stuck=list, headline=lambda: "3 sensors;\nlink up").look()
    assert systemd.heard() == ["WATCHDOG=1\nSTATUS=3 sensors; link up"]


def test_a_part_that_has_ended_silences_it_and_is_named(systemd: Notified) -> None:
    Watchdog(stuck=lambda: ["sensor.cooling has ended"], headline=str).look()
    assert systemd.heard() == ["STATUS=no progress: sensor.cooling has ended"]


async def test_it_is_fed_often_enough_and_only_while_the_loop_turns(
    systemd: Notified, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    task = asyncio.create_task(Watchdog(stuck=list, headline=str).run())
    await asyncio.sleep(0.22)
    assert len(systemd.heard()) >= 3
    loop_stands = threading.Event()
    loop_stands.wait(0.3)  # the loop does not turn
    assert systemd.heard() == []
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(
    ("usec", "pid", "limit"), [("60000000", "", 60.0), ("", "", None), ("x", "", None), ("60000000", "1", None)]
)
def test_the_limit_is_systemds(usec: str, pid: str, limit: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert limit_s() == limit
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert limit_s() == (60.0 if usec == "60000000" else None)


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify("READY=1")


# --- the buffer's part in it -------------------------------------------------------------------------


def stuck(buffer: DiskBuffer) -> list[str]:
    return ["the disk"] if buffer.standstill_ms() >= 15_000 else []


async def test_a_disk_that_does_not_answer_silences_the_watchdog_until_it_does(
    systemd: Notified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()
    watchdog = Watchdog(stuck=lambda: stuck(buffer), headline=lambda: "well")
    hang, written = threading.Event(), buffer._tail.append

    def hanging(payload: bytes, schema: int, **how: Any) -> None:
        hang.wait(30)
        written(payload, schema, **how)

    monkeypatch.setattr(buffer._tail, "append", hanging)
    box.row(41)
    flushing = asyncio.create_task(buffer.flush())
    await asyncio.sleep(0.05)
    watchdog.look()
    box.clock.mono += 16_000
    watchdog.look()
    hang.set()
    await flushing
    watchdog.look()
    fed = "WATCHDOG=1\nSTATUS=well"
    assert systemd.heard() == [fed, "STATUS=no progress: the disk", fed]
    await buffer.close()


async def test_a_disk_that_refuses_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()

    def full(_payload: bytes, _schema: int, **_how: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(buffer._tail, "append", full)
        box.row(41)
        box.clock.mono += 60_000
        await buffer.flush()
        assert buffer.standstill_ms() == 0
        assert buffer.refused() == "tail: [Errno 28] No space left on device"
    await buffer.flush()
    assert buffer.refused() == ""
    await buffer.close()


async def test_rows_that_no_loop_writes_are_a_standstill(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()
    assert buffer.standstill_ms() == 0
    buffer.append(box.ids[0], Row(box.clock.mono, (40, 0)))
    box.clock.mono += 20_000
    assert buffer.standstill_ms() == 20_000
    await buffer.flush()
    assert buffer.standstill_ms() == 0
    await buffer.close()
