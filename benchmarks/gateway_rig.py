"""A real gateway between simulated devices and a real control plane, each in processes of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from benchmarks.arrivals import FarEnd
from control_plane.simulators.processes import Child
from control_plane.simulators.scenario import LOCAL, Box, Installation
from control_plane.store.engine import Stores

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Simulated devices of one gateway, each on a bus of its own."""

    devices: int
    profile: str
    every_s: float
    counting: bool = True

    @property
    def units(self) -> dict[str, int]:
        return {f"device-{unit}": unit for unit in range(1, self.devices + 1)}


class Site:
    """One gateway, enrolled, and the process that plays its devices."""

    def __init__(self, name: str, fleet: Fleet, installation: Installation, stores: Stores) -> None:
        self.fleet = fleet
        self._family = installation._family
        self._name = name
        self.home = installation.folder / name
        self.home.mkdir()
        self.reads = installation.folder / f"{name}.reads"
        self.devices = self._simulator()
        (self.home / "gateway.toml").write_text(self._config())
        token = installation.join_token(name)
        enrol = ["gateway", "enrol", "--server", installation.said["http"], "--token", token]
        self.id = str(self._child("enrol", *enrol, "--data-dir", str(self.home), "--json").start().said["gateway_id"])
        self.gateway = self._child(
            "run",
            *("gateway", "run", "--config", str(self.home / "gateway.toml"), "--data-dir", str(self.home), "--json"),
        )
        self.far_end = FarEnd(stores, self.id)

    def stop(self) -> None:
        """So that it costs the next measurement nothing."""
        self.gateway.stop()
        self.devices.stop()

    def _child(self, what: str, *arguments: str) -> Child:
        return self._family.child(f"{self._name}-{what}", *arguments)

    def _simulator(self) -> Child:
        arguments = ["gateway", "simulate", "modbus", "--profile", self.fleet.profile, "--listen", LOCAL, "--json"]
        for unit in self.fleet.units.values():
            arguments += ["--unit", str(unit)]
        arguments += ["--counting"] if self.fleet.counting else []
        if self.fleet.every_s >= 1:
            arguments += ["--log", str(self.reads)]
        return self._child("devices", *arguments).start()

    def _config(self) -> str:
        lines = ["config_version = 1"]
        for sensor, unit in self.fleet.units.items():
            lines += ["[[bus]]", f'id = "{sensor}"', 'kind = "tcp"', 'host = "127.0.0.1"']
            lines += [f"port = {self.devices.said['port']}"]
            lines += ["[[sensor]]", f'id = "{sensor}"', 'driver = "modbus"', f'bus = "{sensor}"', f"unit = {unit}"]
            lines += [f'profile = "{self.fleet.profile}"', f"every_s = {self.fleet.every_s}"]
        return "\n".join(lines) + "\n"


class Rig:
    """The control plane and as many sites as are asked for."""

    def __init__(self, installation: Installation, stores: Stores) -> None:
        self._installation = installation
        self.stores = stores
        self._sites = 0

    def site(self, fleet: Fleet) -> Site:
        self._sites += 1
        return Site(f"gateway-{self._sites}", fleet, self._installation, self.stores)

    @property
    def has_all_sensors(self) -> bool:
        """Whether Bluetooth and MQTT can be simulated here."""
        return self._installation.bluetooth and self._installation.mqtt

    def add(self, box: Box) -> FarEnd:
        """A gateway with other sensors than Modbus devices."""
        self._installation.add(box)
        return FarEnd(self.stores, box.id)

    def control_plane_cpu_s(self) -> float:
        """User and system, all roles."""
        return sum(cpu_s(pid) for pid in (self._installation.plane.pid, *self._installation.pids().values()))


@contextmanager
def rig() -> Iterator[Rig]:
    """Everything ends with the context."""
    with TemporaryDirectory(prefix="comboio-bench-") as folder, Installation(Path(folder)) as installation:
        installation.start()
        with Stores(f"sqlite:///{Path(folder) / 'control'}") as stores:
            yield Rig(installation, stores)


# --- one process, by /proc -----------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """User and system time of all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def written(pid: int | str) -> dict[str, int]:
    """`wchar`: bytes passed to write(); `write_bytes`: of pages that went, or will go, to the disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


@dataclass(frozen=True, slots=True)
class Spell:
    """What a stretch of time cost one or more processes."""

    seconds: float
    cpu: Sequence[float]


class Watch:
    """CPU of processes since it was made."""

    def __init__(self, *pids: Any) -> None:
        self._pids = pids
        self._began = monotonic()
        self._before = [self._cpu(pid) for pid in pids]

    def spell(self) -> Spell:
        spent = [self._cpu(pid) - before for pid, before in zip(self._pids, self._before, strict=True)]
        return Spell(monotonic() - self._began, spent)

    @staticmethod
    def _cpu(pid: Any) -> float:
        return float(pid()) if callable(pid) else cpu_s(pid)
