"""One installation on this machine: control plane, ERP stand-in, gateways behind links that can be cut, devices.

Everything is started by its command line, as a person would; nothing is shared but files and ports.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from control_plane.simulators.balance import Account, account, answered
from control_plane.simulators.processes import Child, Family

LOCAL = "127.0.0.1:0"
BUS_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One simulated Modbus device: a sensor of a gateway. `signals` as the simulator's command line takes them."""

    sensor: str
    profile: str
    every_s: float = 1.0
    unit: int = 1
    counting: bool = False
    signals: tuple[str, ...] = ()
    asset: str = ""
    cargo: str = ""
    """The quantity that is a cargo temperature."""


@dataclass(slots=True)
class Box:
    """One gateway with its devices and its link to the control plane."""

    name: str
    devices: Sequence[Device]
    batch_interval_s: float
    id: str = ""
    process: Child | None = None
    link: Child | None = None
    simulators: dict[str, Child] = field(default_factory=dict)
    kills_ms: list[int] = field(default_factory=list)


class Installation:
    """Start with `start`, then add boxes; a context manager that ends everything."""

    def __init__(self, folder: Path, *, database: str | None = None, settings: str = "") -> None:
        self.folder = folder
        self._database = database
        self._settings = settings
        self._family = Family(folder)
        self._client: httpx.Client | None = None
        self.boxes: list[Box] = []
        self.said: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._client is not None:
            self._client.close()
        self._family.__exit__(*error)

    # --- starting --------------------------------------------------------------------------------------

    def start(self) -> None:
        """ERP stand-in and control plane."""
        plane = self.folder / "control"
        (plane / "integrations").mkdir(parents=True, exist_ok=True)
        secret = plane / "integrations" / "erp.secret"
        self.erp = self._family.child(
            "erp",
            *("control_plane", "simulate", "erp", "--listen", LOCAL, "--secret-file", str(secret), "--json"),
        ).start()
        destination = [
            'kind = "webhook"',
            f'url = "{self.erp.said["url"]}/webhook"',
            'secret_file = "erp.secret"',
            "allow_private = true",
            "timeout_s = 3.0",
            "grace_s = 4.0",
            "retry = [0.5, 1, 2, 2, 4, 4, 8, 8, 8, 8]",
        ]
        (plane / "integrations" / "erp.toml").write_text("\n".join(destination) + "\n")
        (plane / "control.toml").write_text(self._settings)
        arguments = ["--data-dir", str(plane), "--http", LOCAL, "--grpc", LOCAL, "--identity", LOCAL, "--json"]
        if self._database:
            arguments += ["--database", self._database]
        self.plane = self._family.child("control", "control_plane", "up", *arguments).start()
        self.said = self.plane.said
        self._client = self._log_in()

    def _log_in(self) -> httpx.Client:
        """A client with an API token of its own, made with the one-time password or, when data was kept, locally."""
        client = httpx.Client(base_url=f"{self.said['http']}/api/v1", trust_env=False, timeout=30)
        if self.said.get("admin_password"):
            basic = ("admin", self.said["admin_password"])
            wanted = {"name": "demo", "role": "admin"}
            made = client.post("/api-tokens", json=wanted, auth=basic).raise_for_status().json()
            self.token = str(made["token"])
        else:
            plane = str(self.folder / "control")
            command = [sys.executable, "-m", "control_plane", "token", "create", "--data-dir", plane, "--role", "admin"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            self.token = next(word for word in said.split() if word.startswith("ct1."))
        client.headers["Authorization"] = f"Bearer {self.token}"
        return client

    def add(self, box: Box) -> None:
        """Devices, link, enrolment, daemon."""
        for device in box.devices:
            box.simulators[device.sensor] = self._device(box, device)
        box.link = self._family.child(
            f"{box.name}-link",
            *(
                "gateway",
                "simulate",
                "link",
                "--to",
                self.said["grpc"],
                "--listen",
                LOCAL,
                "--control",
                LOCAL,
                "--json",
            ),
        ).start()
        home = self.folder / box.name
        home.mkdir(exist_ok=True)
        (home / "gateway.toml").write_text(self._config(box))
        box.id = self._enrolled(box, home)
        box.process = self._family.child(
            box.name,
            *("gateway", "run", "--config", str(home / "gateway.toml"), "--data-dir", str(home), "--json"),
        ).start()
        self.boxes.append(box)

    def _enrolled(self, box: Box, home: Path) -> str:
        """The gateway's id: of an identity that was kept, or of a new one."""
        kept = home / "identity" / "current" / "identity.json"
        if kept.exists():
            return str(json.loads(kept.read_text())["gateway_id"])
        enrol = self._family.child(
            f"{box.name}-enrol",
            *("gateway", "enrol", "--server", self.said["http"], "--token", self.join_token(box.name)),
            *("--data-dir", str(home), "--json"),
        ).start()
        return str(enrol.said["gateway_id"])

    def join_token(self, name: str) -> str:
        """One for a gateway of that name."""
        assert self._client is not None
        made = self._client.post("/join-tokens", json={"gateway_name": name}).raise_for_status().json()
        return str(made["token"])

    def _device(self, box: Box, device: Device) -> Child:
        log = self.folder / f"{box.name}-{device.sensor}.reads"
        arguments = ["gateway", "simulate", "modbus", "--profile", device.profile, "--unit", str(device.unit)]
        arguments += ["--listen", LOCAL, "--control", LOCAL, "--log", str(log), "--json"]
        arguments += ["--counting"] if device.counting else []
        for signal_ in device.signals:
            arguments += ["--signal", signal_]
        return self._family.child(f"{box.name}-{device.sensor}", *arguments).start()

    def _config(self, box: Box) -> str:
        assert box.link is not None
        lines = ["config_version = 1", "", "[gateway]", f'name = "{box.name}"', "", "[uplink]"]
        lines += [f'server = "127.0.0.1:{box.link.said["port"]}"', f"batch_interval_s = {box.batch_interval_s}"]
        lines += ["ack_timeout_s = 5.0", ""]
        for device in box.devices:
            port = box.simulators[device.sensor].said["port"]
            lines += ["[[bus]]", f'id = "{device.sensor}"', 'kind = "tcp"', 'host = "127.0.0.1"', f"port = {port}"]
            lines += [f"timeout_s = {BUS_TIMEOUT_S}", ""]
            lines += ["[[sensor]]", f'id = "{device.sensor}"', 'driver = "modbus"', f'bus = "{device.sensor}"']
            lines += [f"unit = {device.unit}", f'profile = "{device.profile}"', f"every_s = {device.every_s}"]
            lines += [f'asset = "{device.asset}"'] if device.asset else []
            lines += [f'attrs = {{ {device.cargo} = {{ role = "cargo_temperature" }} }}'] if device.cargo else []
            lines.append("")
        return "\n".join(lines)

    # --- disturbing ------------------------------------------------------------------------------------

    def link(self, box: Box, command: str) -> None:
        """Tell a gateway's link: cut, restore, blackhole and so on."""
        assert box.link is not None
        _tell(box.link, command)

    def kill_gateway(self, box: Box) -> None:
        """SIGKILL; what systemd would do follows in `revive`."""
        assert box.process is not None
        box.kills_ms.append(time.time_ns() // 1_000_000)
        box.process.kill()

    def revive(self, box: Box) -> None:
        assert box.process is not None
        box.process.begin()

    def kill_role(self, role: str) -> int:
        """SIGKILL one of the control plane's children; its supervisor starts it again. Returns the pid."""
        pid = int(self.pids()[role])
        os.kill(pid, signal.SIGKILL)
        return pid

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.folder / "control" / "run.json").read_text())["pids"]
        return found

    def behave(self, **wanted: Any) -> None:
        httpx.post(f"{self.erp.said['url']}/behave", json=wanted, trust_env=False).raise_for_status()

    def stop_devices(self) -> None:
        """From here on no read is answered; what was answered before still arrives."""
        for box in self.boxes:
            for simulator in box.simulators.values():
                _tell(simulator, '{"fault": "drop"}')

    # --- asking ----------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """Ask REST; waits out a web process that is being started again."""
        assert self._client is not None
        end = time.monotonic() + 20
        while True:
            try:
                return self._client.get(path, params=query).raise_for_status().json()
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def received(self) -> dict[str, Any]:
        """What the ERP stand-in got."""
        found: dict[str, Any] = httpx.get(f"{self.erp.said['url']}/received", trust_env=False, timeout=10).json()
        return found

    def accounts(self, box: Box) -> list[Account]:
        return [self._account(box, device) for device in box.devices]

    def _account(self, box: Box, device: Device) -> Account:
        reads = answered(self.folder / f"{box.name}-{device.sensor}.reads", device.profile, device.unit)
        quantities = [quantity for group in reads for quantity in group]
        delivered: dict[str, dict[int, float]] = {}
        gaps: list[dict[str, Any]] = []
        for start in range(0, len(quantities), 50):
            keys = [f"{box.id}/{device.sensor}/{quantity}" for quantity in quantities[start : start + 50]]
            answer = self._readings(keys)
            for one in answer["series"]:
                delivered[one["key"].rsplit("/", 1)[1]] = dict(zip(one["times_ms"], one["values"], strict=True))
            gaps = [gap for gap in answer["gaps"] if gap["series"] == keys[0]]
        # A row's time is the middle of its exchange; on a starved machine that may last as long as the bus waits.
        tolerance_ms = 3_600_000 if device.counting else round(BUS_TIMEOUT_S * 1000) + 500
        return account(f"{box.name}/{device.sensor}", reads, delivered, gaps, tolerance_ms=tolerance_ms)

    def _readings(self, keys: list[str]) -> Any:
        try:
            return self.get("/readings", series=keys, max_points=100_000)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:  # nothing of this sensor has arrived yet
                return {"series": [], "gaps": []}
            raise

    def settle(self, *, timeout_s: float) -> list[Account]:
        """Wait until every account balances, or the time is up; the last accounts either way."""
        end = time.monotonic() + timeout_s
        while True:
            found = [one for box in self.boxes for one in self.accounts(box)]
            if all(one.balanced for one in found) or time.monotonic() > end:
                return found
            time.sleep(1.0)


def _tell(simulator: Child, command: str) -> None:
    """One line to a simulator's control port. Raises RuntimeError if it is refused."""
    with socket.create_connection(("127.0.0.1", simulator.said["control_port"]), timeout=5) as control:
        control.sendall(command.encode() + b"\n")
        answer = control.makefile().readline().strip()
    if not answer.startswith("ok"):
        raise RuntimeError(f"{simulator.name}: {command}: {answer}")


def say(text: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
