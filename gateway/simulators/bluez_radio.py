"""What BlueZ does with an advertisement: who hears it, what it changes on the bus, when it says nothing.

From BlueZ's own behaviour as it is known: with DuplicateData every report is a change and replaces what was before;
without it data of a device is merged by key, and only a payload that differs, or a signal that moved by 8 dB, counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbus_fast import Variant

from gateway.simulators.bluez_objects import ADAPTER, DEVICE, ROOT, Objects, device_interfaces

RSSI_STEP_DB = 8
FLAGS_GENERAL = 0x06
Pattern = tuple[int, int, bytes]
"""(start, type of advertising data, bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One advertisement on the air."""

    address: str
    manufacturer: Mapping[int, bytes] = field(default_factory=dict)
    service: Mapping[str, bytes] = field(default_factory=dict)
    """By 128-bit UUID."""
    rssi: int = -60
    flags: int | None = FLAGS_GENERAL

    def matches(self, patterns: Iterable[Pattern]) -> bool:
        return any(data[at:].startswith(bytes(want)) for at, kind, want in patterns for data in self._ad(kind))

    def _ad(self, kind: int) -> Sequence[bytes]:
        match kind:
            case 0x01:
                return [] if self.flags is None else [bytes([self.flags])]
            case 0x16:
                return [bytes.fromhex(uuid[4:8])[::-1] + data for uuid, data in self.service.items()]
            case 0xFF:
                return [number.to_bytes(2, "little") + data for number, data in self.manufacturer.items()]
        return []


@dataclass(slots=True)
class Ear:
    """One adapter: whether it is on, who scans with it (client → filter) and who watches (client, path → patterns)."""

    powered: bool = True
    sessions: dict[str, Mapping[str, Variant]] = field(default_factory=dict)
    monitors: dict[tuple[str, str], list[Pattern]] = field(default_factory=dict)
    deaf: bool = False
    stuck: bool = False

    def hears(self, report: Report) -> bool:
        watched = any(report.matches(patterns) for patterns in self.monitors.values())
        return self.powered and not self.deaf and (bool(self.sessions) or watched)

    @property
    def duplicates(self) -> bool:
        return any(bool(_plain(filter_.get("DuplicateData", True))) for filter_ in self.sessions.values())


def receive(adapter: str, ear: Ear, report: Report, objects: Objects, *, bonded: bool = False) -> None:
    """One report reaches one adapter."""
    if not ear.hears(report):
        return
    path = f"{ROOT}/{adapter}/dev_{report.address.replace(':', '_')}"
    news = _properties(report)
    known = objects.tree.get(path)
    if known is None:
        interfaces = device_interfaces(adapter, report.address, bonded=bonded)
        interfaces[DEVICE].update(news)
        objects.add(path, interfaces)
        return
    changed = _changed(known[DEVICE], news, duplicates=ear.duplicates)
    if changed:
        objects.set(path, DEVICE, changed)


def forget_signal(adapter: str, objects: Objects) -> None:
    """Scanning stopped: how strong devices are is no longer known."""
    objects.set(f"{ROOT}/{adapter}", ADAPTER, {"Discovering": Variant("b", False)})
    for path in objects.devices_of(adapter):
        if "RSSI" in objects.tree[path][DEVICE]:
            objects.set(path, DEVICE, {}, ["RSSI"])


def _properties(report: Report) -> dict[str, Variant]:
    found = {"RSSI": Variant("n", report.rssi)}
    if report.manufacturer:
        found["ManufacturerData"] = Variant("a{qv}", {k: Variant("ay", v) for k, v in report.manufacturer.items()})
    if report.service:
        found["ServiceData"] = Variant("a{sv}", {k: Variant("ay", v) for k, v in report.service.items()})
    return found


def _changed(old: Mapping[str, Variant], new: Mapping[str, Variant], *, duplicates: bool) -> dict[str, Variant]:
    changed: dict[str, Variant] = {}
    for name, value in new.items():
        before = old.get(name)
        if name == "RSSI":
            if duplicates or before is None or abs(before.value - value.value) >= RSSI_STEP_DB:
                changed[name] = value
            continue
        merged = value if before is None or duplicates else Variant(value.signature, {**before.value, **value.value})
        if duplicates or merged != before:
            changed[name] = merged
    return changed


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Variant) else value
