"""Simulators as programs: ports on one JSON line, faults by control port, a clean end."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymodbus.client import ModbusTcpClient

from gateway.simulators import cli
from gateway.simulators.counting import counting

PROGRAM = (
    "import argparse, sys; from gateway.simulators import cli;"
    "parser = argparse.ArgumentParser(); cli.add_arguments(parser); sys.exit(cli.main(parser.parse_args()))"
)


@contextmanager
def simulate(*arguments: str) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-c", PROGRAM, *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(cli.__file__).parents[2]) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def test_a_device_behind_a_link_as_two_programs(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    modbus = ["modbus", "--profile", "comboio-counter@1", "--unit", "7", "--counting", "--log", str(log)]
    with (
        simulate(*modbus, "--control", "127.0.0.1:0") as device,
        simulate("link", "--to", f"127.0.0.1:{device['port']}", "--control", "127.0.0.1:0") as link,
    ):
        client = ModbusTcpClient("127.0.0.1", port=link["port"], timeout=2, retries=0)
        response = client.read_holding_registers(0, count=3, device_id=7)
        assert list(response.registers) == [counting(unit=7, address=a, k=1) for a in range(3)]
        with socket.create_connection(("127.0.0.1", device["control_port"])) as control:
            control.sendall(b'{"fault": "exception", "code": 6}\n')
            assert control.recv(10) == b"ok\n"
        assert client.read_holding_registers(0, count=3, device_id=7).exception_code == 6
        client.close()  # type: ignore[no-untyped-call]
    assert [json.loads(line)["k"] for line in log.read_text().splitlines()] == [1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["modbus", "--profile", "eastron-sdm121@1"], "did you mean eastron-sdm120@1"),
        (["modbus", "--profile", "xy-md02@1", "--set", "temperature=warm"], "a shape is VALUE, sine:"),
        (["modbus", "--profile", "xy-md02@1", "--set", "temp=4"], "--set: temp is no quantity of xy-md02@1"),
        (["modbus", "--profile", "xy-md02@1", "--replay", "no.csv"], "no.csv"),
        (["modbus", "--profile", "xy-md02@1", "--signal", "heat=3"], "heat is no quantity of xy-md02@1"),
        (["modbus", "--profile", "xy-md02@1", "--signal", "temperature"], "is not QUANTITY=VALUE"),
    ],
)
def test_mistaken_arguments_are_told_in_a_sentence(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.main(parser.parse_args(arguments)) == 2
    assert text in capsys.readouterr().err
