"""From configuration to buses and the sensors on them."""

from __future__ import annotations

import difflib
from pathlib import Path

from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.schema import ModbusProfile
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor, Supervised
from gateway.sensors.modbus import ModbusSensor
from gateway.sensors.modbus_bus import ModbusBus
from protos.config import GatewayConfig
from protos.config import ModbusSensor as SensorOptions


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One bus task per [[bus]] that a sensor uses, one driver per [[sensor]]. Raises Misconfigured."""
    learnt = data_dir / "modbus" if data_dir is not None else None
    buses = {options.id: ModbusBus(options=options) for options in config.bus}
    sensors = []
    for options in config.sensor:
        if isinstance(options, SensorOptions):
            driver = ModbusSensor(
                options=options,
                profile=_profile(options, profiles),
                clock=clock,
                bus=_bus(options, buses),
                memory=learnt / f"{options.id}.json" if learnt is not None else None,
            )
            sensors.append(BuiltSensor(options.id, driver))
    used = {options.bus for options in config.sensor if isinstance(options, SensorOptions)}
    tasks = tuple(Supervised(f"bus {name}", bus.run) for name, bus in buses.items() if name in used)
    return Built(sensors=tuple(sensors), tasks=tasks)


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
