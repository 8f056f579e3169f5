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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from control_plane.simulators import broker
from control_plane.simulators.balance import Account, Read, account, counted
from control_plane.simulators.broker import program
from control_plane.simulators.field_page import switched_on
from control_plane.simulators.processes import Child, Family, StartError
from control_plane.simulators.sources import BROKER, Device, Message, Probe, Source, toml

LOCAL = "127.0.0.1:0"
BUS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"


@dataclass(slots=True)
class Box:
    """One gateway with what it measures and its link to the control plane.

    `managed`: its own file holds only what it needs to start; its sensors come from the control plane.
    """

    name: str
    devices: Sequence[Device] = ()
    batch_interval_s: float = 1.0
    probes: Sequence[Probe] = ()
    messages: Sequence[Message] = ()
    managed: bool = False
    asset: str = ""
    id: str = ""
    pin: str = ""
    """Opens its own page; without one it serves none."""
    page: Mapping[str, Any] = field(default_factory=dict)
    process: Child | None = None
    link: Child | None = None
    simulators: dict[str, Child] = field(default_factory=dict)
    kills_ms: list[int] = field(default_factory=list)

    @property
    def sources(self) -> list[Source]:
        return [*self.devices, *self.probes, *self.messages]


class Installation:
    """Start with `start`, then add boxes; a context manager that ends everything."""

    def __init__(self, folder: Path, *, database: str | None = None, settings: str = "") -> None:
        self.folder = folder
        self._database = database
        self._settings = settings
        self._family = Family(folder)
        self._client: httpx.Client | None = None
        self._broker_port: int | None = None
        self.boxes: list[Box] = []
        self.bluetooth = program("dbus-daemon") is not None
        self.mqtt = program("mosquitto") is not None
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
        """Simulators, link, enrolment, daemon."""
        env = self._simulate(box)
        box.link = self._link(box, LOCAL)
        home = self.folder / box.name
        home.mkdir(exist_ok=True)
        if box.pin:
            box.page = switched_on(home, box.pin)
        (home / "gateway.toml").write_text(toml(self.document(box, sensors=not box.managed)))
        box.id = self._enrolled(box, home)
        run = ["gateway", "run", "--config", str(home / "gateway.toml"), "--data-dir", str(home), "--json"]
        box.process = self._family.child(box.name, *run, env=env).start()
        self.boxes.append(box)
        if box.messages:
            self._speak(box)

    def _link(self, box: Box, listen: str) -> Child:
        arguments = ["gateway", "simulate", "link", "--to", self.said["grpc"], "--listen", listen, "--control", LOCAL]
        return self._family.child(f"{box.name}-link", *arguments, "--json").start()

    def _simulate(self, box: Box) -> dict[str, str]:
        """Start what there is to measure; returns the environment that the gateway finds it by."""
        for device in box.devices:
            arguments = ["modbus", *device.arguments(), "--listen", LOCAL]
            box.simulators[device.sensor] = self._simulator(box, device.sensor, arguments)
        env: dict[str, str] = {}
        if box.probes and self.bluetooth:
            radio = self._simulator(box, "bluez", ["bluez", "--scenario", self._scenario(box, "bluez", box.probes)])
            env[BUS_VARIABLE] = str(radio.said["bus"])
            box.simulators["bluez"] = radio
        if box.messages:
            self._publish(box)
        return env

    def _publish(self, box: Box) -> None:
        address = f"127.0.0.1:{self._broker()}"
        scenario = self._scenario(box, "mqtt", box.messages)
        box.simulators["mqtt"] = self._simulator(box, "mqtt", ["mqtt", "--broker", address, "--scenario", scenario])

    def _simulator(self, box: Box, name: str, arguments: Sequence[str]) -> Child:
        log = self.folder / f"{box.name}-{name}.reads"
        common = ["--control", LOCAL, "--log", str(log), "--json"]
        return self._family.child(f"{box.name}-{name}", "gateway", "simulate", *arguments, *common).start()

    def _scenario(self, box: Box, name: str, sources: Sequence[Probe | Message]) -> str:
        path = self.folder / f"{box.name}-{name}.toml"
        path.write_text(toml({"sensor": [one.scenario() for one in sources]}))
        return str(path)

    def _broker(self) -> int:
        if self._broker_port is None:
            _, self._broker_port = broker.start(self._family, self.folder)
        return self._broker_port

    def _enrolled(self, box: Box, home: Path) -> str:
        """The gateway's id: of an identity that was kept, or of a new one."""
        kept = home / "identity" / "current" / "identity.json"
        if kept.exists():
            return str(json.loads(kept.read_text())["gateway_id"])
        enrol = self._family.child(
            f"{box.name}-enrol",
            *("gateway", "enrol", "--server", self.said["http"], "--token", self.join_token(box.name, box.asset)),
            *("--data-dir", str(home), "--json"),
        ).start()
        return str(enrol.said["gateway_id"])

    def join_token(self, name: str, asset: str = "") -> str:
        """One for a gateway of that name, mounted on that asset."""
        assert self._client is not None
        made = (
            self._client.post("/join-tokens", json={"gateway_name": name, "asset": asset or None})
            .raise_for_status()
            .json()
        )
        return str(made["token"])

    def document(self, box: Box, *, sensors: bool = True) -> dict[str, Any]:
        """A gateway's configuration, or only what it needs to start."""
        assert box.link is not None
        uplink = {"server": f"127.0.0.1:{box.link.said['port']}", "batch_interval_s": box.batch_interval_s}
        found: dict[str, Any] = {
            "config_version": 1,
            "management": "managed" if box.managed else "local",
            "gateway": {"name": box.name} | ({"asset": box.asset} if box.asset else {}),
            "uplink": uplink | {"ack_timeout_s": 5.0},
        } | ({"field": box.page} if box.page else {})
        return found | self.measured(box) if sensors else found

    def measured(self, box: Box) -> dict[str, Any]:
        """Buses, brokers and sensors."""
        probes = [one.document() if self.bluetooth else one.stand_in() for one in box.probes]
        found: dict[str, Any] = {
            "bus": [one.bus(box.simulators[one.sensor].said["port"]) for one in box.devices],
            "sensor": [*(one.document() for one in box.devices), *probes, *(one.document() for one in box.messages)],
        }
        if box.messages:
            found["broker"] = [{"id": BROKER, "host": "127.0.0.1", "port": self._broker()}]
        return found

    # --- configuration from the centre ------------------------------------------------------------------

    def push(self, box: Box, **change: Any) -> int:
        """Save a managed gateway's layer: what it measures, changed as told. Returns the generation it makes."""
        assert self._client is not None
        uplink = {"batch_interval_s": box.batch_interval_s, "ack_timeout_s": 5.0}
        layer = {"gateway": {"name": box.name}, "uplink": uplink} | self.measured(box) | change
        known = self.get(f"/config/gateways/{box.id}")
        saved = self._client.put(
            f"/config/gateways/{box.id}", json={"document": layer}, headers={"If-Match": known["etag"]}
        )
        if saved.status_code != 200:
            raise RuntimeError(f"the configuration of {box.name} was not saved: {saved.text}")
        return int(saved.json()["targets"][0]["generation"])

    def configuration(self, box: Box) -> dict[str, Any]:
        """What is wanted of a gateway, what runs there, and the way in between."""
        found: dict[str, Any] = self.get(f"/gateways/{box.id}/config")
        return found

    def await_configuration(self, box: Box, *states: str, timeout_s: float) -> dict[str, Any]:
        """Its configuration, once it is in one of these states or the time is up."""
        end = time.monotonic() + timeout_s
        while True:
            found = self.configuration(box)
            if found["state"] in states or time.monotonic() > end:
                return found
            time.sleep(0.3)

    def also_publish(self, box: Box, *messages: Message) -> int:
        """Give a managed gateway its first MQTT sensors. Returns the generation."""
        box.messages = messages
        self._publish(box)
        generation = self.push(box)
        self._speak(box)
        return generation

    def _speak(self, box: Box, *, timeout_s: float = 20.0) -> None:
        """Let its MQTT sensors begin, now that it listens: what nobody subscribed to was never measured by anybody."""
        log = self.folder / f"{box.name}.log"
        end = time.monotonic() + timeout_s
        while b"mqtt.connected" not in log.read_bytes():
            if time.monotonic() > end:
                raise StartError(f"{box.name} does not listen to its broker")
            time.sleep(0.1)
        tell(box.simulators["mqtt"], '{"fault": "speak"}')

    # --- disturbing ------------------------------------------------------------------------------------

    def link(self, box: Box, command: str) -> None:
        """Tell a gateway's link: cut, restore, blackhole and so on."""
        assert box.link is not None
        tell(box.link, command)

    def kill_gateway(self, box: Box) -> None:
        """SIGKILL; what systemd would do follows in `revive`."""
        assert box.process is not None
        box.kills_ms.append(time.time_ns() // 1_000_000)
        box.process.kill()

    def revive(self, box: Box) -> None:
        assert box.process is not None
        box.process.begin()

    def kill_link(self, box: Box) -> None:
        """SIGKILL what carries a gateway's connections."""
        assert box.link is not None
        box.link.kill()

    def revive_link(self, box: Box) -> None:
        """On the same port, passing everything."""
        assert box.link is not None
        box.link = self._link(box, f"127.0.0.1:{box.link.said['port']}")

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
        """From here on nothing is measured; what was before still arrives."""
        for box in self.boxes:
            for name, simulator in box.simulators.items():
                tell(simulator, '{"fault": "mute"}' if name in {"bluez", "mqtt"} else '{"fault": "drop"}')

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

    def page(self, path: str) -> None:
        """Fetch a page as a browser would; raises if it is not there."""
        httpx.get(self.said["http"] + path, trust_env=False, timeout=30, follow_redirects=True).raise_for_status()

    def received(self) -> dict[str, Any]:
        """What the ERP stand-in got."""
        found: dict[str, Any] = httpx.get(f"{self.erp.said['url']}/received", trust_env=False, timeout=10).json()
        return found

    def accounts(self, box: Box) -> list[Account]:
        return [self._account(box, source) for source in box.sources]

    def kept(self, box: Box, sensor: str) -> dict[tuple[str, ...], list[Read]]:
        """Quantities → the reads its device answered, without those that a gap record holds."""
        device = next(one for one in box.devices if one.sensor == sensor)
        lost = set(self._account(box, device).lost_at_ms)
        answered = device.reads(self.folder / f"{box.name}-{sensor}.reads")
        return {names: [one for one in reads if one.wall_ms not in lost] for names, reads in answered.items()}

    def _account(self, box: Box, source: Source) -> Account:
        name = f"{box.name}/{source.sensor}"
        if isinstance(source, Probe) and not self.bluetooth:
            counts, gaps = self._delivered(box, source.sensor, ["count"])
            return counted(name, counts["count"], gaps)
        log = {Device: source.sensor, Probe: "bluez", Message: "mqtt"}[type(source)]
        reads = source.reads(self.folder / f"{box.name}-{log}.reads")
        delivered, gaps = self._delivered(box, source.sensor, [quantity for group in reads for quantity in group])
        return account(name, reads, delivered, gaps, tolerance_ms=source.tolerance_ms)

    def _delivered(
        self, box: Box, sensor: str, quantities: Sequence[str]
    ) -> tuple[dict[str, dict[int, float]], list[dict[str, Any]]]:
        """Quantity → wall ms → value, and the sensor's gaps."""
        delivered: dict[str, dict[int, float]] = {quantity: {} for quantity in quantities}
        gaps: list[dict[str, Any]] = []
        for start in range(0, len(quantities), 50):
            keys = [f"{box.id}/{sensor}/{quantity}" for quantity in quantities[start : start + 50]]
            answer = self._readings(keys)
            for one in answer["series"]:
                delivered[one["key"].rsplit("/", 1)[1]] = dict(zip(one["times_ms"], one["values"], strict=True))
            gaps = [gap for gap in answer["gaps"] if gap["series"] == keys[0]]
        return delivered, gaps

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


def tell(simulator: Child, command: str) -> None:
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
