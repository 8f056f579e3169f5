"""What can be known of a rendered document without the gateway's program: the whole of it, all mistakes at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from firmware_configs import document
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


def check(rendered: Mapping[str, Any], profiles: Profiles) -> Checked:
    try:
        config = convert(rendered, GatewayConfig)
    except DocumentError as error:
        return Checked(b"", tuple(Mistake(*pointed(problem)) for problem in error.problems))
    mistakes = [Mistake(*pointed(problem)) for problem in _disagreements(config, profiles)]
    return Checked(canonical(config), tuple(mistakes))


def _disagreements(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    if config.management != "managed":
        yield 'management: is decided on the gateway; what is pushed is always "managed"'
    yield from document.disagreements(config, profiles)
    yield from _overloads(config, profiles)


def _overloads(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    """Buses that can't carry their sensors. What names no profile or bus was said before."""
    polls: dict[str, list[tuple[float, tuple[Request, ...]]]] = defaultdict(list)
    for sensor in config.sensor:
        if isinstance(sensor, ModbusSensor):
            with suppress(ProfileError):
                profile = profiles.modbus(sensor.profile)
                polls[sensor.bus].append((sensor.every_s, plan(profile.expanded(), profile.limits)))
    for index, bus in enumerate(config.bus):
        load = bus_load(polls[bus.id])
        if load > 1.0:
            yield f"bus[{index}]: the sensors on it need {load:.0%} of what it can carry; read them more seldom"
