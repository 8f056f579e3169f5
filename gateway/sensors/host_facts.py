"""What Linux tells of the box it runs on: /proc, /sys and statvfs, each a small file.

A fact that the box has not is not in what is returned; nothing is made up. Reading never raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

Fact = bool | int | float | str
CPU_ZONES = ("cpu", "soc", "x86_pkg_temp", "coretemp", "k10temp", "acpitz")
"""How thermal zones and hardware monitors of processors are called, the surest first."""
SECTOR = 512
LIFE_STEP = 10
"""eMMC (JESD84-B51, 7.4.60) and UFS (JESD220) tell their life in tenths; 0x01 is up to 10 % used."""


class CpuTime(NamedTuple):
    """Ticks of all processors together."""

    busy: int
    all: int


class LinuxFacts:
    """`read()` as often as wanted. `root` is / except in tests; `disk` is any path on the disk that is told."""

    def __init__(
        self,
        *,
        disk: Path,
        fail_input: str = "",
        clock: Callable[[], Mapping[str, Fact]] = dict,
        root: Path = Path("/"),
    ) -> None:
        self._root = root
        self._disk = disk
        self._fail_input = fail_input
        self._clock = clock
        self._cpu: CpuTime | None = None
        self._percent = 0.0
        self._block = block_of(disk, root)
        self._wear = _wear_of(self._block)
        self._zones = dict(_zones(root))

    def read(self) -> dict[str, Fact]:
        found: dict[str, Fact] = {}
        for part in (self._processor, self._memory, self._temperatures, self._storage, self._clock, self._power):
            with suppress(OSError, ValueError, LookupError):
                found.update(part())
        return found

    def _processor(self) -> dict[str, Fact]:
        load = _text(self._root / "proc/loadavg").split()
        found: dict[str, Fact] = {f"cpu.load_{n}": float(load[at]) for at, n in enumerate((1, 5, 15))}
        found["uptime"] = float(_text(self._root / "proc/uptime").split()[0])
        before, now = self._cpu or CpuTime(0, 0), self._ticks()  # at first since the start
        if now.all > before.all:  # else it was asked twice in one tick
            self._percent = 100 * (now.busy - before.busy) / (now.all - before.all)
            self._cpu = now
        found["cpu.percent"] = self._percent
        return found

    def _ticks(self) -> CpuTime:
        with (self._root / "proc/stat").open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        return CpuTime(sum(ticks) - ticks[3] - ticks[4], sum(ticks))  # without idle and waiting for a disk

    def _memory(self) -> dict[str, Fact]:
        kib = {line.partition(":")[0]: int(line.split()[1]) for line in _text(self._root / "proc/meminfo").splitlines()}
        swap = kib["SwapTotal"]
        found: dict[str, Fact] = {
            "memory.available": kib["MemAvailable"] * 1024,
            "memory.total": kib["MemTotal"] * 1024,
        }
        return found | ({"memory.swap_used": (swap - kib["SwapFree"]) * 1024} if swap else {})

    def _temperatures(self) -> dict[str, Fact]:
        degrees: dict[str, float] = {}
        for name, path in self._zones.items():
            with suppress(OSError, ValueError):
                degrees[name] = int(_text(path)) / 1000
        found: dict[str, Fact] = {"temperature.highest": max(degrees.values())} if degrees else {}
        cpu = next((degrees[name] for word in CPU_ZONES for name in degrees if name.startswith(word)), None)
        nvme = next((degrees[name] for name in degrees if name.startswith("nvme")), None)
        found |= {"cpu.temperature": cpu} if cpu is not None else {}
        return found | ({"temperature.nvme": nvme} if nvme is not None else {})

    def _storage(self) -> dict[str, Fact]:
        space = os.statvfs(self._disk)
        found: dict[str, Fact] = {
            "disk.free": space.f_bavail * space.f_frsize,
            "disk.total": space.f_blocks * space.f_frsize,
        }
        if self._block is not None:
            with suppress(OSError, ValueError, IndexError):
                found["disk.written"] = int(_text(self._block / "stat").split()[6]) * SECTOR
        for fact, read in self._wear.items():
            with suppress(OSError, ValueError, IndexError):
                if (told := read()) > 0:  # 0x00: not defined
                    found[fact] = told
        return found

    def _power(self) -> dict[str, Fact]:
        """A file that reads 0 or 1; a FIFO is the daemon's own and can't be read twice."""
        path = Path(self._fail_input)
        if not self._fail_input.startswith("/") or not path.is_file():
            return {}
        return {"power.failing": {"0": False, "1": True}[_text(path)]}


class InterfaceFacts:
    """Counters of one network interface (sysfs-class-net-statistics); `read` is empty while there is none."""

    def __init__(self, name: str, *, root: Path = Path("/")) -> None:
        self._folder = root / "sys/class/net" / name

    def read(self) -> dict[str, Fact]:
        counted = {
            "received": "rx_bytes", "sent": "tx_bytes", "receive_errors": "rx_errors", "send_errors": "tx_errors",
            "receive_dropped": "rx_dropped", "send_dropped": "tx_dropped",
        }  # fmt: skip
        found: dict[str, Fact] = {}
        for fact, name in counted.items():
            with suppress(OSError, ValueError):
                found[fact] = int(_text(self._folder / "statistics" / name))
        if not found:
            return {}
        with suppress(OSError, ValueError):
            found["carrier"] = _text(self._folder / "operstate") in {"up", "unknown"}  # a tunnel knows no other
        with suppress(OSError, ValueError):
            speed = int(_text(self._folder / "speed"))
            found |= {"speed": speed} if speed > 0 else {}
        return found


def block_of(path: Path, root: Path = Path("/")) -> Path | None:
    """The whole device in sysfs below a path, None for what has none (tmpfs, a share)."""
    try:
        device = path.stat().st_dev
        found = (root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True)
    except OSError:
        return None
    return found.parent if (found / "partition").exists() else found


def _wear_of(block: Path | None) -> dict[str, Callable[[], int]]:
    if block is None:
        return {}
    mmc = block / "device"
    if (mmc / "life_time").exists():
        return {
            "disk.life_used_a": lambda: LIFE_STEP * int(_text(mmc / "life_time").split()[0], 16),
            "disk.life_used_b": lambda: LIFE_STEP * int(_text(mmc / "life_time").split()[1], 16),
            "disk.pre_end_of_life": lambda: int(_text(mmc / "pre_eol_info"), 16),
        }
    device = mmc.resolve()
    health = next((p / "health_descriptor" for p in device.parents if (p / "health_descriptor").is_dir()), None)
    if health is None:
        return {}
    return {
        "disk.life_used_a": lambda: LIFE_STEP * int(_text(health / "life_time_estimation_a"), 16),
        "disk.life_used_b": lambda: LIFE_STEP * int(_text(health / "life_time_estimation_b"), 16),
        "disk.pre_end_of_life": lambda: int(_text(health / "eol_info"), 16),
    }


def _zones(root: Path) -> Iterator[tuple[str, Path]]:
    """Thermal zones and hardware monitors by their name; several of one name are told apart by a number."""
    known: set[str] = set()
    places = [
        *((path / "type", path / "temp") for path in sorted((root / "sys/class/thermal").glob("thermal_zone*"))),
        *((path.parent / "name", path) for path in sorted((root / "sys/class/hwmon").glob("hwmon*/temp*_input"))),
    ]
    for named, path in places:
        with suppress(OSError):
            name = _text(named)
            unique = next(n for n in (name, *(f"{name}#{i}" for i in range(1, 1000))) if n not in known)
            known.add(unique)
            yield unique, path


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip()
