"""What a configuration asks of its Modbus buses: one word for the gateway, its command line and the control plane.

Pure. A configuration whose buses can't carry their sensors is refused where one is saved, offered or checked, unless it
says `best_effort`. A gateway that is started with one runs it and warns: it may have run for years.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from firmware_configs.budget import (
    Line,
    Poll,
    Request,
    SerialLine,
    TcpLine,
    freshness_ms,
    plan,
    poll_ms,
    utilisation,
)
from firmware_configs.loader import ProfileError, Profiles
from protos.config import AsciiBus, Bus, GatewayConfig, ModbusSensor, RtuBus, RtuOverTcpBus

NETWORK_MS = 5.0
"""What a device server and the network to it add to a question and its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorPlan:
    """One poll and the sensors it is for: its requests in order, and how long they keep the bus."""

    id: str
    """Of all of them, joined."""
    unit: int
    profile: str
    values: int
    requests: tuple[Request, ...]
    request_ms: tuple[float, ...]
    poll: Poll


@dataclass(frozen=True, slots=True, kw_only=True)
class BusPlan:
    """One bus and everything on it."""

    bus: Bus
    sensors: tuple[SensorPlan, ...]

    @property
    def utilisation(self) -> float:
        return utilisation([sensor.poll for sensor in self.sensors])

    @property
    def fits(self) -> bool:
        return self.utilisation <= 1.0

    def freshness_ms(self, sensor: SensorPlan) -> float:
        """How old its values are at most; only of a bus that fits."""
        return freshness_ms(sensor.poll, [other.poll for other in self.sensors if other is not sensor])


def line_of(bus: Bus) -> Line:
    """What exchanges take there."""
    if isinstance(bus, RtuOverTcpBus):  # the line behind it, and what a network adds to each question
        return SerialLine(baud=bus.baud, turnaround_ms=10.0 + NETWORK_MS, pause_ms=bus.pause_ms)
    if isinstance(bus, RtuBus | AsciiBus):
        return SerialLine(
            baud=bus.baud,
            character_bits=character_bits(bus),
            ascii=isinstance(bus, AsciiBus),
            pause_ms=bus.pause_ms,
        )
    return TcpLine(pause_ms=bus.pause_ms)


def character_bits(bus: RtuBus | AsciiBus) -> int:
    """Start bit, data bits, parity and stop bits."""
    data = bus.data_bits if isinstance(bus, AsciiBus) else 8
    return 1 + data + (bus.parity != "none") + bus.stop_bits


def where(bus: Bus) -> str:
    """Where it is, for a person."""
    if not isinstance(bus, RtuBus | AsciiBus):
        return f"{bus.host}:{bus.port}"
    data = bus.data_bits if isinstance(bus, AsciiBus) else 8
    return f"{bus.port} ({bus.baud} {data}{bus.parity[0].upper()}{bus.stop_bits})"


def bus_plans(config: GatewayConfig, profiles: Profiles) -> tuple[BusPlan, ...]:
    """One per [[bus]], in their order. Sensors whose profile or bus isn't there are left out: others say so."""
    mine = [one for one in config.sensor if isinstance(one, ModbusSensor)]
    return tuple(BusPlan(bus=bus, sensors=tuple(_sensors(mine, bus, profiles))) for bus in config.bus)


def polls_of(sensors: Sequence[ModbusSensor]) -> list[list[ModbusSensor]]:
    """Sensors that are read together, in the order of the first of each: one bus, unit, profile and period."""
    together: dict[tuple[str, int, str, float], list[ModbusSensor]] = {}
    for one in sensors:
        together.setdefault((one.bus, one.unit, one.profile, one.every_s), []).append(one)
    return list(together.values())


def _sensors(sensors: Sequence[ModbusSensor], bus: Bus, profiles: Profiles) -> Iterator[SensorPlan]:
    line = line_of(bus)
    for members in polls_of([one for one in sensors if one.bus == bus.id]):
        with suppress(ProfileError):
            first = members[0]
            whole = profiles.modbus(first.profile)
            wanted = [quantity for one in members for quantity in one.quantities or whole.quantities()]
            profile = whole.only(wanted)
            requests = plan(profile.expanded(), profile.limits, line, timing=profile.timing)
            yield SensorPlan(
                id=", ".join(one.id for one in members),
                unit=first.unit,
                profile=profile.name,
                values=len(wanted),
                requests=requests,
                request_ms=tuple(line.request_ms(request, profile.timing) for request in requests),
                poll=Poll(first.every_s, poll_ms(requests, line, profile.timing)),
            )


def overloads(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    """A sentence per bus that can't carry its sensors and does not say best_effort, each with its path."""
    for index, one in enumerate(bus_plans(config, profiles)):
        if one.fits or one.bus.best_effort:
            continue
        heaviest = max(one.sensors, key=lambda sensor: sensor.poll.ms / sensor.poll.every_s)
        yield (
            f"bus[{index}]: the sensors on {one.bus.id!r} need {one.utilisation:.0%} of what it can carry; most of it "
            f"{heaviest.id} ({heaviest.poll.ms:.0f} ms every {heaviest.poll.every_s:g} s). Read them more seldom, or "
            f"set best_effort = true and let polls fall out"
        )
