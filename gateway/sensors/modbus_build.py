"""From configuration to buses, polls and the sensors that share them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from firmware_configs.buses import polls_of
from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.schema import ModbusProfile
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor, Supervised, secret
from gateway.sensors.modbus import ModbusSensor, wanted_of
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_poll import SharedPoll
from protos.config import GatewayConfig, TlsBus
from protos.config import ModbusSensor as SensorOptions


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """A bus task per [[bus]] in use, a poll per bus, unit, profile and period, a driver per [[sensor]].

    Raises Misconfigured.
    """
    for one in config.bus:
        if isinstance(one, TlsBus) and one.key_file:
            secret.read(one.key_file, setting=f"bus {one.id}: key_file")
    learnt = data_dir / "modbus" if data_dir is not None else None
    buses = {options.id: ModbusBus(options=options) for options in config.bus}
    sensors = []
    mine = [options for options in config.sensor if isinstance(options, SensorOptions)]
    for members in polls_of(mine):
        poll = _poll(members, buses=buses, clock=clock, profiles=profiles, learnt=learnt)
        sensors += [
            BuiltSensor(options.id, ModbusSensor(options=options, poll=poll, clock=clock)) for options in members
        ]
    used = {options.bus for options in mine}
    tasks = tuple(Supervised(f"bus {name}", bus.run) for name, bus in buses.items() if name in used)
    identify = {name: bus.identify for name, bus in buses.items() if name in used}
    return Built(sensors=tuple(sensors), tasks=tasks, identify=identify)


def _poll(
    members: Sequence[SensorOptions],
    *,
    buses: dict[str, ModbusBus],
    clock: Clock,
    profiles: Profiles,
    learnt: Path | None,
) -> SharedPoll:
    first = members[0]
    profile = _profile(first, profiles)
    wanted = {quantity for options in members for quantity in wanted_of(options, profile)}
    return SharedPoll(
        unit=first.unit,
        every_s=first.every_s,
        profile=profile.only(wanted),
        bus=_bus(first, buses),
        clock=clock,
        name=first.id,
        memory=learnt / f"{first.id}.json" if learnt is not None else None,
    )


def _profile(options: SensorOptions, profiles: Profiles) -> ModbusProfile:
    try:
        return profiles.modbus(options.profile)
    except ProfileError as error:
        raise Misconfigured(f"sensor {options.id}: profile {error}") from error


def _bus(options: SensorOptions, buses: dict[str, ModbusBus]) -> ModbusBus:
    if options.bus not in buses:
        close = difflib.get_close_matches(options.bus, list(buses), n=1)
        near = f"; did you mean {close[0]}?" if close else ""
        raise Misconfigured(f"sensor {options.id}: bus {options.bus!r} is not a [[bus]] of this configuration{near}")
    return buses[options.bus]
