"""A person asks a device what it is, whether or not a daemon has its bus."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.health.status import Identified
from gateway.identifying import text
from tests.faults import daemons
from tests.faults.daemons import enrolled, once, running, until
from tests.gateway.sensors.rig import device

BUS = """
[[bus]]
id = "plc"
kind = "tcp"
host = "127.0.0.1"
port = {port}
[[bus]]
id = "spare"
kind = "tcp"
host = "127.0.0.1"
port = {port}
[[sensor]]
id = "meter"
driver = "modbus"
bus = "plc"
profile = "comboio-counter@1"
"""


@contextmanager
def simulated() -> Iterator[int]:
    """The port of a device that answers in a loop of its own."""
    loop = asyncio.new_event_loop()
    one = device()
    port = loop.run_until_complete(one.start())
    serving = threading.Thread(target=loop.run_forever)
    serving.start()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(one.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        serving.join()
        loop.close()


def identified(home: Path, bus: str) -> tuple[int, Any]:
    done = once(home, "identify", "--bus", bus, "--config", str(home / "gateway.toml"))
    return done.returncode, json.loads(done.stdout)


def test_a_device_is_asked_by_the_daemon_that_has_its_bus_or_by_ourselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "gateway"
    home.mkdir()
    enrolled(home)
    with simulated() as port:
        monkeypatch.setattr(daemons, "CONFIG", daemons.CONFIG + BUS.format(port=port))
        with running(home) as daemon:
            until(lambda: identified(home, "plc")[0] == 0)
            code, found = identified(home, "plc")
            assert (code, found["bus"], found["unit"], found["problem"]) == (0, "plc", 1, None)
            assert found["said"]["vendor_name"] == "comboio"
            assert identified(home, "spare") == (0, found | {"bus": "spare"})
            assert daemon.stop() == 0
        code, found = identified(home, "plc")
        assert (code, found["said"]["product_code"]) == (0, "counter")
    code, found = identified(home, "plc")
    assert code == 1
    assert "is the device on" in found["problem"]


def test_a_bus_that_is_not_configured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gateway.toml").write_text("config_version = 1\n" + BUS.format(port=1))
    arguments = ["identify", "--bus", "pcl", "--config", str(tmp_path / "gateway.toml"), "--data-dir", str(tmp_path)]
    assert main(arguments) == 1
    assert "there is no [[bus]] 'pcl'; there is plc, spare" in capsys.readouterr().err


def test_what_a_device_says_of_itself_can_not_command_a_terminal() -> None:
    assert "\x1b" not in text("b", 1, Identified(said={"vendor_name": "\x1b[2J"}))
