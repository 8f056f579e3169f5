"""`comboio-gateway plan`: which requests a configuration becomes, what they cost, and how fresh values are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware_configs.budget import Request
from firmware_configs.buses import BusPlan, SensorPlan, bus_plans, where
from firmware_configs.loader import Profiles
from gateway import settings


def report(path: Path, profiles: Profiles) -> list[dict[str, Any]]:
    """One entry per bus. Raises Misconfigured."""
    return [_bus(plan) for plan in bus_plans(settings.load(path, profiles), profiles)]


def _bus(plan: BusPlan) -> dict[str, Any]:
    return {
        "bus": plan.bus.id,
        "where": where(plan.bus),
        "utilisation": round(plan.utilisation, 4),
        "fits": plan.fits,
        "best_effort": plan.bus.best_effort,
        "sensors": [_sensor(plan, sensor) for sensor in plan.sensors],
    }


def _sensor(plan: BusPlan, sensor: SensorPlan) -> dict[str, Any]:
    return {
        "sensor": sensor.id,
        "unit": sensor.unit,
        "profile": sensor.profile,
        "values": sensor.values,
        "every_s": sensor.poll.every_s,
        "poll_ms": round(sensor.poll.ms, 2),
        "freshness_ms": round(plan.freshness_ms(sensor)) if plan.fits else None,
        "requests": [_request(*one) for one in zip(sensor.requests, sensor.request_ms, strict=True)],
    }


def _request(request: Request, ms: float) -> dict[str, Any]:
    return {"function": request.function, "address": request.address, "length": request.length, "ms": round(ms, 2)}


def text(found: list[dict[str, Any]]) -> str:
    """For a person."""
    if not found:
        return "There is no [[bus]] in this configuration."
    return "\n\n".join("\n".join(_lines(bus)) for bus in found)


def _lines(bus: dict[str, Any]) -> Iterator[str]:
    busy = f"{bus['utilisation']:.0%}" if bus["utilisation"] >= 0.1 else f"{bus['utilisation']:.1%}"
    verdict = "" if bus["fits"] else ": more than it can carry" + (", polls will fall out" * bus["best_effort"])
    yield f"bus {bus['bus']} at {bus['where']}, {busy} busy{verdict}"
    if not bus["sensors"]:
        yield "  no sensor is on it"
        return
    width = max(6, *(len(one["sensor"]) for one in bus["sensors"]))
    profile = max(7, *(len(one["profile"]) for one in bus["sensors"]))
    yield ""
    head = f"  {'sensor':<{width}}  {'unit':>4}  {'profile':<{profile}}  {'values':>6}  {'every':>8}  {'poll':>9}"
    yield head + f"  {'at most old':>11}"
    for one in bus["sensors"]:
        old = "–" if one["freshness_ms"] is None else f"{one['freshness_ms'] / 1000:.2f} s"
        row = f"  {one['sensor']:<{width}}  {one['unit']:>4}  {one['profile']:<{profile}}  {one['values']:>6}"
        yield row + f"  {one['every_s']:>6g} s  {one['poll_ms']:>6.1f} ms  {old:>11}"
        for request in one["requests"]:
            last = request["address"] + request["length"] - 1
            span = f"{request['address']}" if request["length"] == 1 else f"{request['address']} to {last}"
            asked = f"{request['function']} {span}"
            yield f"  {'':<{width}}        {asked:<{profile + 18}}  {request['ms']:>6.1f} ms"
