"""Writing from beside the box, through the daemon's socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.commands.beside import asked_at_box
from gateway.health.status import StatusSocket
from tests.gateway.commands.rig import plant
from tests.gateway.sensors.rig import until


def picture() -> Any:
    raise AssertionError("nobody asked for a picture")


async def test_a_person_beside_the_box_sets_a_value_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with plant(tmp_path, allowed=("setpoint",)) as here, here.running() as commands:
        socket = asyncio.create_task(StatusSocket(tmp_path, take=picture, write=asked_at_box(commands)).run())
        await until((tmp_path / "status.sock").exists)

        async def write(*arguments: str) -> tuple[int, str]:
            status = await asyncio.to_thread(main, ["write", "cooling", *arguments, "--data-dir", str(tmp_path)])
            return status, capsys.readouterr().out.splitlines()[-1]  # the daemon logs beside it

        assert await write("setpoint", "-4.5", "--expect", "0") == (0, "done: done")
        status, said = await write("setpoint", "1", "--expect", "0")
        assert (status, said) == (1, "failed: setpoint is -4.5, not 0; nothing was written")
        status, said = await write("light", "true", "--json")
        assert status == 1
        assert '"state":"FAILED"' in said
        socket.cancel()
        await asyncio.gather(socket, return_exceptions=True)


def test_without_a_daemon_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["write", "cooling", "setpoint", "1", "--data-dir", str(tmp_path)]) == 3
    assert "is not running" in capsys.readouterr().err
