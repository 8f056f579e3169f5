"""What `profiles list` and `profiles show` tell of the profiles on this box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from firmware_configs.adverts import AdvertValue, BleProfile
from firmware_configs.budget import Line, SerialLine, TcpLine, plan, poll_ms
from firmware_configs.characteristics import GattProfile, GattValue
from firmware_configs.host import HostProfile, HostValue
from firmware_configs.loader import Found, Profile, Profiles
from firmware_configs.messages import MessageValue, MqttProfile
from firmware_configs.schema import ModbusProfile, Register
from firmware_configs.units import unit
from gateway.library.tables import table

LINES: dict[str, Line] = {"tcp": TcpLine(), "rtu_9600": SerialLine(baud=9600)}
LINE_NAMES = {"tcp": "Modbus TCP", "rtu_9600": "RTU at 9600 baud"}


def listed(profiles: Profiles) -> list[dict[str, Any]]:
    """One entry per profile file that counts, by kind and name."""
    return [_entry(kind, one) for kind, found in by_kind(profiles).items() for one in found]


def by_kind(profiles: Profiles) -> dict[str, list[Found[Any]]]:
    return {
        "modbus": list(profiles.found(ModbusProfile)),
        "ble": list(profiles.found(BleProfile)),
        "gatt": list(profiles.found(GattProfile)),
        "mqtt": list(profiles.found(MqttProfile)),
        "host": list(profiles.found(HostProfile)),
    }


def _entry(kind: str, one: Found[Any]) -> dict[str, Any]:
    profile = one.profile
    return {
        "name": one.name,
        "kind": kind,
        "quantities": len(profile.quantities()) if profile is not None else 0,
        "description": profile.description if profile is not None else "",
        "simulated": bool(profile is not None and profile.simulated),
        "file": str(one.path),
        "local": one.local,
        "shadows": str(one.shadows) if one.shadows is not None else None,
        "problem": one.problem or None,
    }


def list_text(entries: list[dict[str, Any]]) -> str:
    """For a person."""
    rows = [(one["name"], one["kind"], str(one["quantities"]), _remark(one)) for one in entries]
    return table(("profile", "kind", "quantities", "what it is"), rows, right=frozenset({2}))


def _remark(one: dict[str, Any]) -> str:
    if one["problem"]:
        return f"CAN'T BE USED: {one['problem'].splitlines()[0]}"
    if one["shadows"]:
        return f"{one['description']} (this box's own, instead of the shipped one)"
    return f"{one['description']}{' (this box’s own)' if one['local'] else ''}"


def shown(profile: Profile) -> dict[str, Any]:
    """Everything about one profile."""
    facts: dict[str, Any] = {
        "name": profile.name,
        "description": profile.description,
        "simulated": profile.simulated,
        "sources": [{"id": one.id, "title": one.title, "url": one.url} for one in profile.sources],
    }
    if isinstance(profile, ModbusProfile):
        return facts | {
            "registers": [_register(one) for one in profile.expanded()],
            "derived": [one.quantity for one in profile.derived],
            "plans": {name: _plan(profile, line) for name, line in LINES.items()},
        }
    if isinstance(profile, MqttProfile):
        topics = [message.topic or "(as the sensor says)" for message in profile.messages()]
        return facts | {"topics": topics, "values": [_value(one) for one in profile.values()]}
    return facts | {"values": [_value(one) for one in profile.value]}


def _value(one: AdvertValue | GattValue | MessageValue | HostValue) -> dict[str, Any]:
    return {"quantity": one.quantity, "type": one.type, "unit": one.unit, "source": one.source}


def _register(one: Register) -> dict[str, Any]:
    return {
        "quantity": one.quantity,
        "function": one.function,
        "address": one.address,
        "type": one.type,
        "unit": one.unit,
        "resolves": _resolution(one),
        "identifying": one.identifying,
        "source": one.source,
    }


def _resolution(one: Register) -> str:
    """How the raw number becomes the value, in as few words as there are."""
    if one.labels:
        return "labels"
    if one.scale_from is not None:
        return f"× 10^{one.scale_from}"
    if one.bit is not None:
        return f"bit {one.bit}" if one.bits is None else f"bits {one.bit} to {one.bit + one.bits - 1}"
    if one.scale is not None or one.offset:
        return f"× {one.scale or 1:g}{f' {one.offset:+g}' if one.offset else ''}"
    half = f"{one.byte} byte" if one.byte else ""
    return f"{10**-one.decimals:g}" if one.decimals else half


def _plan(profile: ModbusProfile, line: Line) -> dict[str, Any]:
    requests = plan(profile.expanded(), profile.limits, line, timing=profile.timing)
    return {
        "poll_ms": round(poll_ms(requests, line, profile.timing), 1),
        "requests": [{"function": r.function, "address": r.address, "length": r.length} for r in requests],
    }


def show_text(facts: dict[str, Any]) -> str:
    """For a person."""
    return "\n".join(_lines(facts))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['name']}: {facts['description']}{' (simulated)' if facts['simulated'] else ''}"
    yield ""
    if "registers" in facts:
        yield _register_table(facts["registers"])
        if facts["derived"]:
            yield f"\nComputed from these: {', '.join(facts['derived'])}"
        for name, found in facts["plans"].items():
            yield from _plan_lines(LINE_NAMES[name], found)
    else:
        yield from (f"topic  {topic}" for topic in facts.get("topics", ()))
        rows = [(one["quantity"], one["type"], unit(one["unit"]), one["source"]) for one in facts["values"]]
        yield table(("quantity", "type", "unit", "source"), rows)
    yield "\nsources"
    for source in facts["sources"]:
        yield f"  {source['id']}: {source['title']}{'  ' + source['url'] if source['url'] else ''}"


def _register_table(registers: list[dict[str, Any]]) -> str:
    rows = [
        (
            one["quantity"],
            one["function"],
            f"{one['address']}",
            f"0x{one['address']:04X}",
            one["type"],
            one["resolves"],
            unit(one["unit"]),
            one["source"],
        )
        for one in registers
    ]
    head = ("quantity", "table", "address", "", "type", "resolves", "unit", "source")
    return table(head, rows, right=frozenset({2}))


def _plan_lines(line: str, found: dict[str, Any]) -> Iterator[str]:
    many = len(found["requests"])
    yield f"\n{line}: {many} request{'s' * (many > 1)}, {found['poll_ms']:g} ms a poll"
    for one in found["requests"]:
        last = one["address"] + one["length"] - 1
        yield f"  {one['function']:<8}  {one['address']:>5} to {last:>5}  ({one['length']})"
