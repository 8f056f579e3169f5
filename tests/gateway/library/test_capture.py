"""A live device becomes a case that others can run, without what tells whose device it was."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.simulators.faults import Fault
from gateway.simulators.signals import constant
from tests.gateway.sensors.rig import device, started

Said = pytest.CaptureFixture[str]
SIGNALS = {"temperature": constant(-18.5), "relative_humidity": constant(62.5), "serial_number": constant(7960123)}


async def captured(port: int, *more: str, profile: str = "comet-t3311@1") -> int:
    command = ["capture", "--host", "127.0.0.1", "--port", str(port), "--profile", profile, "--every", "0"]
    return await asyncio.to_thread(main, [*command, *more])


async def test_a_recording_is_a_case_that_agrees(tmp_path: Path, capsys: Said) -> None:
    case = tmp_path / "cases" / "mine.toml"
    case.parent.mkdir()
    async with started(device(profile="comet-t3311@1", signals=SIGNALS)) as simulated:
        assert await captured(simulated.port, "--rounds", "2", "--what", "a cold store", "--out", str(case)) == 0
    document = tomllib.loads(case.read_text())
    assert document["origin"] == "recorded: a cold store"
    assert [poll["name"] for poll in document["poll"]] == ["round 1", "round 2"]
    assert document["poll"][0]["expect"]["temperature"] == -18.5
    shipped = Path(__file__).parents[3] / "firmware_configs" / "modbus" / "comet-t3311.toml"
    assert main(["profiles", "check", str(shipped), "--cases", str(case.parent), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["cases"] == [str(case)]


async def test_what_identifies_the_device_is_blanked(capsys: Said) -> None:
    async with started(device(profile="comet-t3311@1", signals=SIGNALS)) as simulated:
        assert await captured(simulated.port, "--rounds", "1") == 0
    (poll,) = tomllib.loads(capsys.readouterr().out)["poll"]
    assert poll["holding"][str(0x1034)] == [0, 0]
    assert "serial_number" not in poll["expect"]


async def test_what_was_read_over_is_not_written_down(capsys: Said) -> None:
    signals = {"voltage": constant(230.0)}
    async with started(device(profile="eastron-sdm120@1", signals=signals)) as simulated:
        assert await captured(simulated.port, "--rounds", "1", profile="eastron-sdm120@1") == 0
    (poll,) = tomllib.loads(capsys.readouterr().out)["poll"]
    assert list(poll["input"])[:2] == ["0", "6"]
    assert poll["input"]["0"] == [0x4366, 0x0000]


async def test_a_device_that_does_not_answer_is_said(capsys: Said) -> None:
    async with started(device(profile="comet-t3311@1", signals=SIGNALS)) as simulated:
        assert await captured(simulated.port, "--unit", "9") == 3
    assert "unit 9 did not answer" in capsys.readouterr().err


async def test_what_a_device_refuses_is_left_out_and_said(capsys: Said) -> None:
    simulated = device(profile="comet-t3311@1", signals=SIGNALS)
    simulated.faults.add(Fault(fault="exception", code=2, times=1))
    async with started(simulated):
        assert await captured(simulated.port, "--rounds", "1") == 0
    said = capsys.readouterr().out
    (poll,) = tomllib.loads(said)["poll"]
    assert "# refused: holding 48+2" in said
    assert "temperature" not in poll["expect"]


def test_a_bus_that_is_not_configured_is_said(tmp_path: Path, capsys: Said) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    arguments = ["capture", "--bus", "plc", "--config", str(config), "--profile", "comet-t3311@1"]
    assert main(arguments) == 1
    assert capsys.readouterr().err
