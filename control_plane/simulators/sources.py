"""What is measured in an installation: devices on Modbus, Bluetooth probes, MQTT messages; each with its truth.

A source knows three things: its part of the gateway's configuration, its part of a simulator's scenario, and how to
read that simulator's log. So the balance never asks the product what it should have delivered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_plane.simulators.balance import Read, answered, sent

BUS_TIMEOUT_S = 3.0
BROKER = "local"
COUNTED_MS = 3_600_000
"""A value that tells by itself which read it was may be matched at any distance."""
Reads = dict[tuple[str, ...], list[Read]]


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
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the sensor."""

    @property
    def tolerance_ms(self) -> int:
        """A row's time is the middle of its exchange; on a starved machine that may last as long as the bus waits."""
        return COUNTED_MS if self.counting else round(BUS_TIMEOUT_S * 1000) + 500

    def arguments(self) -> list[str]:
        """Of `simulate modbus`."""
        found = ["--profile", self.profile, "--unit", str(self.unit), *(["--counting"] if self.counting else [])]
        for one in self.signals:
            found += ["--signal", one]
        return found

    def bus(self, port: int) -> dict[str, Any]:
        return {"id": self.sensor, "kind": "tcp", "host": "127.0.0.1", "port": port, "timeout_s": BUS_TIMEOUT_S}

    def document(self) -> dict[str, Any]:
        """Its [[sensor]]."""
        found: dict[str, Any] = {"id": self.sensor, "driver": "modbus", "bus": self.sensor, "unit": self.unit}
        found |= {"profile": self.profile, "every_s": self.every_s} | _common(self.asset, self.cargo)
        return found | dict(self.more)

    def reads(self, log: Path) -> Reads:
        return answered(log, self.profile, self.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One Bluetooth sensor. `signal` as a scenario takes it: quantity → wave."""

    sensor: str
    address: str
    profile: str = "ruuvi-ruuvitag@1"
    format: str = "ruuvi-rawv2"
    every_s: float = 1.0
    signal: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    asset: str = ""
    cargo: str = ""
    tolerance_ms: int = 2500

    def scenario(self) -> dict[str, Any]:
        """Its [[sensor]] of `simulate bluez`."""
        sends = {"format": self.format, "every_s": self.every_s, "repeats": 2}
        return {"id": self.sensor, "address": self.address} | sends | {"signal": dict(self.signal)}

    def document(self) -> dict[str, Any]:
        found = {"id": self.sensor, "driver": "ble", "address": self.address, "profile": self.profile}
        return found | _common(self.asset, self.cargo)

    def stand_in(self) -> dict[str, Any]:
        """Its [[sensor]] where there is no message bus to simulate Bluetooth on: counts by itself."""
        found = {"id": self.sensor, "driver": "simulated", "every_s": self.every_s, "signal": "counting"}
        return found | {"quantities": {"count": "{count}"}} | _common(self.asset, "")

    def reads(self, log: Path) -> Reads:
        return sent(log, self.sensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One MQTT sensor: a profile, or inline `values` (quantity → (pointer, unit, decimals))."""

    sensor: str
    topic: str
    profile: str = ""
    values: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    replays: Mapping[str, str] = field(default_factory=dict)
    """Quantity → CSV:COLUMN."""
    waves: Mapping[str, tuple[str, int, Mapping[str, Any]]] = field(default_factory=dict)
    """Quantity of the profile → (pointer, decimals, signal)."""
    every_s: float = 1.0
    asset: str = ""
    tolerance_ms: int = 60_000  # what a broker kept for a gateway that was away is stamped when it comes

    def scenario(self) -> dict[str, Any]:
        """Its [[sensor]] of `simulate mqtt`."""
        values: dict[str, Any] = {
            name: {"path": path, "decimals": decimals, "replay": self.replays.get(name, "")}
            for name, (path, _, decimals) in self.values.items()
        }
        for name, (path, decimals, wave) in self.waves.items():
            values[name] = {"path": path, "decimals": decimals, "signal": dict(wave)}
        found = {"id": self.sensor, "topic": self.topic, "every_s": self.every_s, "values": values, "muted": True}
        return found | ({"profile": self.profile} if self.profile else {})

    def document(self) -> dict[str, Any]:
        found = {"id": self.sensor, "driver": "mqtt", "broker": BROKER, "topic": self.topic, "every_s": self.every_s}
        if self.profile:
            return found | {"profile": self.profile} | _common(self.asset, "")
        values = {
            name: {"path": path, "unit": unit, "decimals": decimals}
            for name, (path, unit, decimals) in self.values.items()
        }
        return found | {"values": values} | _common(self.asset, "")

    def reads(self, log: Path) -> Reads:
        return sent(log, self.sensor)


Source = Device | Probe | Message


def _common(asset: str, cargo: str) -> dict[str, Any]:
    found: dict[str, Any] = {"asset": asset} if asset else {}
    return found | ({"attrs": {cargo: {"role": "cargo_temperature"}}} if cargo else {})


def toml(document: Mapping[str, Any]) -> str:
    """A document of strings, numbers, booleans, tables and arrays of tables, as TOML."""
    lines: list[str] = []
    _table(document, "", lines)
    return "\n".join(lines) + "\n"


def _table(document: Mapping[str, Any], path: str, lines: list[str]) -> None:
    plain = {key: value for key, value in document.items() if not _is_section(value)}
    lines += [f"{key} = {_value(value)}" for key, value in plain.items()]
    for key, value in document.items():
        if key in plain:
            continue
        name = f"{path}{key}"
        for one in value if isinstance(value, list) else [value]:
            lines += ["", f"[[{name}]]" if isinstance(value, list) else f"[{name}]"]
            _table(one, f"{name}.", lines)


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return repr(value)
