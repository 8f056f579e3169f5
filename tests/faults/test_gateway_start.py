from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.daemons import enrolled, once, running, until


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "gateway"
    made.mkdir()
    return made


def test_without_an_identity_it_says_how_to_get_one(home: Path) -> None:
    ended = once(home, "run")
    assert ended.returncode == 1
    assert "not enrolled; run: comboio-gateway enrol --server URL --token TOKEN" in ended.stderr


def test_a_second_daemon_on_one_folder_is_refused_and_the_first_goes_on(home: Path) -> None:
    enrolled(home)
    with running(home) as first:
        second = once(home, "run")
        assert second.returncode == 1
        assert "another comboio-gateway is running on it" in second.stderr
        sealed = first.report()["lanes"]["telemetry"]["sealed"]
        until(lambda: first.report()["lanes"]["telemetry"]["sealed"] > sealed)
        assert first.stop() == 0


def test_a_server_that_never_answers_stops_no_sensor_and_loses_nothing(home: Path) -> None:
    enrolled(home)
    with running(home) as daemon:
        until(lambda: any(event["event"] == "link.down" for event in daemon.events()))
        before = daemon.report()["lanes"]["telemetry"]["waiting_readings"]
        until(lambda: daemon.report()["lanes"]["telemetry"]["waiting_readings"] > before)
        assert daemon.report()["gaps"] == []
        assert not [event for event in daemon.events() if event["event"] == "part.failed"]
        assert daemon.stop() == 0


@pytest.mark.parametrize("name", ["identity.json", "certificate.pem", "tls.key", "ca.pem"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 300], ids=["empty", "garbage"])
def test_a_damaged_identity_stops_no_sensor(home: Path, name: str, content: bytes) -> None:
    (enrolled(home).folder / name).write_bytes(content)
    with running(home) as daemon:
        until(lambda: any(event["event"] == "link.down" for event in daemon.events()))
        until(lambda: daemon.report()["lanes"]["telemetry"]["waiting_readings"] > 0)
        assert daemon.stop() == 0
        assert not [event for event in daemon.events() if event["event"] == "part.failed"]


@pytest.mark.parametrize("name", ["sealed.db", "tail-0.log", "tail-1.log"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 70_000], ids=["empty", "garbage"])
def test_a_ruined_buffer_file_stops_no_start(home: Path, name: str, content: bytes) -> None:
    enrolled(home)
    with running(home) as daemon:
        until(lambda: daemon.report()["lanes"]["telemetry"]["sealed"] > 1)
    if name == "sealed.db":
        for companion in home.glob("buffer/sealed.db-*"):
            companion.unlink()
    (home / "buffer" / name).write_bytes(content)
    with running(home) as daemon:
        until(lambda: daemon.report()["lanes"]["telemetry"]["waiting_readings"] > 0)
        if name == "sealed.db":
            assert daemon.report()["set_aside"]
            assert any(event["event"] == "buffer.damaged" for event in daemon.events())
        assert daemon.stop() == 0


def test_a_simulator_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("simulate", "modbus", "--profile", "comboio-counter@1", "--listen", address)
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments], check=False, capture_output=True, text=True, timeout=30
        )
    assert ended.returncode == 2
    assert "address already in use" in ended.stderr
