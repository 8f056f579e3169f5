from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.health import status
from gateway.health.picture import Picture
from gateway.health.status import NAME, NoAnswerError, StatusSocket, ask
from tests.gateway.health.pictures import picture, sensor


@asynccontextmanager
async def listening(folder: Path, take: Callable[[], Picture]) -> AsyncIterator[None]:
    task = asyncio.create_task(StatusSocket(folder, take=take).run())
    while not (folder / NAME).exists():
        assert not task.done(), task
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_whoever_owns_the_folder_is_told_the_picture(tmp_path: Path) -> None:
    one = picture(sensor())
    async with listening(tmp_path, lambda: one):
        assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
        assert await asyncio.to_thread(ask, tmp_path) == one
    assert not (tmp_path / NAME).exists()


async def test_a_folder_with_a_long_name_works_too(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    async with listening(deep, picture):
        assert await asyncio.to_thread(ask, deep) == picture()


def test_without_a_daemon_there_is_no_picture(tmp_path: Path) -> None:
    assert ask(tmp_path) is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / NAME) if len(str(tmp_path)) < 90 else f"/proc/self/cwd/{NAME}")
    assert ask(tmp_path) is None


async def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    task = asyncio.create_task(StatusSocket(tmp_path, take=picture).run())
    while not stat.S_ISSOCK((tmp_path / NAME).stat().st_mode if (tmp_path / NAME).exists() else 0):
        await asyncio.sleep(0.005)
    assert await asyncio.to_thread(ask, tmp_path) == picture()
    task.cancel()
    await asyncio.wait([task])


async def test_askers_that_never_read_are_bounded_and_block_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "WITHIN_S", 0.3)
    monkeypatch.setattr(status, "SAYS_WITHIN_S", 0.1)
    large = picture(*(sensor(f"s{number}") for number in range(5000)))
    async with listening(tmp_path, lambda: large):
        way = f"/proc/self/fd/{os.open(tmp_path, os.O_PATH)}"
        idle = []
        for _ in range(status.AT_ONCE + 2):
            one = socket.socket(socket.AF_UNIX)
            one.connect(f"{way}/{NAME}")
            idle.append(one)
        await asyncio.sleep(0.1)
        with pytest.raises(NoAnswerError):
            await asyncio.to_thread(ask, tmp_path)  # turned away
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(ask, tmp_path) == large
        for one in idle:
            one.close()
        os.close(int(way.rpartition("/")[2]))
