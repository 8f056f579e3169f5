"""A real control plane and a real gateway that it manages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from control_plane.fleet.accounts import Role
from gateway.identity.enrol import enrol
from tests.control import Up
from tests.faults.daemons import ROOT

PROBATION_S = 2
SETTINGS = f"[configuration]\nprobation_s = {PROBATION_S}\n[ingest]\nbatch_interval_s = 0.2\n"
PROBE = {"id": "probe", "driver": "simulated", "every_s": 0.05, "signal": "counting", "quantities": {"count": "1"}}
DOOR = {**PROBE, "id": "door"}
NOWHERE = {"id": "far", "kind": "tcp", "host": "127.0.0.1", "port": 1, "timeout_s": 0.2}
SILENT = {"id": "dead", "driver": "modbus", "bus": "far", "profile": "xy-md02@1", "every_s": 0.2}

HAND_WRITTEN = """\
[[sensor]]
id = "probe"
driver = "simulated"
every_s = 0.05
signal = "counting"
quantities = { count = "1" }
"""


class Admin:
    """The REST API, as the fleet's admin uses it."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.token = up.api_token(Role.ADMIN)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        with httpx.Client(trust_env=False, timeout=20) as client:
            return client.request(method, f"{self.up.http}/api/v1{path}", headers=headers, **more)

    def get(self, path: str) -> Any:
        return self.ask("GET", path).raise_for_status().json()

    def push(self, gateway: str, document: dict[str, Any]) -> int:
        """Save the gateway's layer; returns the generation that is wanted now."""
        path = f"/config/gateways/{gateway}"
        etag = self.get(path)["etag"]
        answer = self.ask("PUT", path, json={"document": document}, headers={"If-Match": etag})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["targets"][0]["generation"])

    def state(self, gateway: str) -> str:
        return str(self.get(f"/gateways/{gateway}/config")["state"])

    def reads(self, series: str) -> list[int]:
        """Every value of a counting series that arrived."""
        answer = self.ask("GET", f"/readings?series={series}&max_points=20000")
        if answer.status_code == 404:  # it was never declared yet
            return []
        found = answer.raise_for_status().json()
        return [int(value) for one in found["series"] for value in one["values"]]


class Managed:
    """One gateway's folder and its daemon, which may be another program each time."""

    def __init__(self, home: Path, up: Up, sensors: str = "") -> None:
        self.home = home
        home.mkdir()
        token = up.join_token(name=home.name)
        grpc = up.announced["grpc"]
        self.id = enrol(up.http, token, home).gateway_id
        text = f'config_version = 1\nmanagement = "managed"\n[uplink]\nserver = "{grpc}"\nbatch_interval_s = 0.2\n'
        (home / "gateway.toml").write_text(text + sensors)

    @staticmethod
    def _program(command: str, dies_after: str | None = None) -> list[str]:
        mortal = ["tests.faults.mortal_gateway", dies_after] if dies_after else ["gateway"]
        return [sys.executable, "-m", *mortal, command]

    @contextmanager
    def running(self, *, dies_after: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Killed, if it still lives, at the end."""
        arguments = ["--config", str(self.home / "gateway.toml"), "--data-dir", str(self.home), "--json"]
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen(
                [*self._program("run", dies_after), *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ},
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        return (self.home / "log").read_text()


def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
