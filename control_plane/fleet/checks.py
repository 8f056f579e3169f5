"""What can be known of a rendered document without the gateway's program: the whole of it, all mistakes at once."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from firmware_configs.budget import Request, bus_load, plan
from firmware_configs.loader import ProfileError, Profiles
from protos.config import GatewayConfig, ModbusSensor, canonical
from protos.strict import DocumentError, convert, pointed


class Mistake(NamedTuple):
    pointer: str
    message: str


class Checked(NamedTuple):
    """`body` is the canonical document; meaningless when there are mistakes."""

    body: bytes
    mistakes: tuple[Mistake, ...]


def check(document: Mapping[str, Any], profiles: Profiles) -> Checked:
    try:
        config = convert(document, GatewayConfig)
    except DocumentError as error:
        return Checked(b"", tuple(Mistake(*pointed(problem)) for problem in error.problems))
    mistakes = [Mistake(*pointed(problem)) for problem in _disagreements(config, profiles)]
    return Checked(canonical(config), tuple(mistakes))


def _disagreements(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    if config.management != "managed":
        yield 'management: is decided on the gateway; what is pushed is always "managed"'
    for kind, ids in (("bus", [b.id for b in config.bus]), ("sensor", [s.id for s in config.sensor])):
        for name, times in Counter(ids).items():
            if times > 1:
                yield f"{kind}: {times} of them have the id {name!r}"
    yield from _modbus(config, profiles)


def _modbus(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    buses = [bus.id for bus in config.bus]
    polls: dict[str, list[tuple[float, tuple[Request, ...]]]] = defaultdict(list)
    for index, sensor in enumerate(config.sensor):
        if not isinstance(sensor, ModbusSensor):
            continue
        if sensor.bus not in buses:
            yield f"sensor[{index}].bus: there is no bus {sensor.bus!r}{_near(sensor.bus, buses)}"
        try:
            profile = profiles.modbus(sensor.profile)
        except ProfileError as error:
            yield f"sensor[{index}].profile: {error}"
            continue
        registers = profile.expanded()
        polls[sensor.bus].append((sensor.every_s, plan(registers, profile.limits)))
        known = [register.quantity for register in registers]
        named: dict[str, list[str]] = {
            section: list(getattr(sensor, section)) for section in ("calibration", "attrs", "validate", "report")
        }
        named["alarm"] = [rule.quantity for rule in sensor.alarm]
        for section, quantities in named.items():
            for quantity in quantities:
                if quantity not in known and (section, quantity) != ("report", "*"):
                    near = _near(quantity, known)
                    yield f"sensor[{index}].{section}.{quantity}: not a quantity of {sensor.profile}{near}"
    for index, bus in enumerate(buses):
        load = bus_load(polls[bus])
        if load > 1.0:
            yield f"bus[{index}]: the sensors on it need {load:.0%} of what it can carry; read them more seldom"


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
