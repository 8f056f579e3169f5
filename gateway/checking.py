"""Everything that can be known of a configuration without touching a device: what `check-config` and an offer meet."""

from __future__ import annotations

import re

from firmware_configs.buses import overloads
from firmware_configs.loader import Profiles
from gateway import sensors, settings
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.pipeline import flow
from gateway.sensors.modbus_serial import unstable
from protos.config import AsciiBus, GatewayConfig, RtuBus


def problems(config: GatewayConfig, *, clock: Clock, profiles: Profiles) -> list[str]:
    """One sentence per mistake, each starting with its path."""
    found = [*settings.disagreements(config, profiles), *overloads(config, profiles)]
    if found:
        return found
    try:
        built = sensors.build(config, clock=clock, profiles=profiles)
        for options, sensor in zip(config.sensor, built.sensors, strict=True):
            flow.check(options, sensor.driver.groups())
    except Misconfigured as error:
        return [_with_path(line, config) for line in str(error).splitlines()]
    return []


def advice(config: GatewayConfig) -> list[str]:
    """What works and may not for long, one sentence each, starting with its path."""
    serial = [(n, one.port) for n, one in enumerate(config.bus) if isinstance(one, RtuBus | AsciiBus)]
    return [f"bus[{n}].port: {why}" for n, port in serial if (why := unstable(port)) is not None]


def _with_path(line: str, config: GatewayConfig) -> str:
    """'sensor probe: text' → 'sensor[2]: text'; a path that follows the sensor is joined to it."""
    named = re.match(r'sensor "?([^:" ]+)"?: (.*)', line)
    ids = [sensor.id for sensor in config.sensor]
    if named is None or named[1] not in ids:
        return line if re.match(r"[a-z_.\[\]0-9]+: ", line) else f"document: {line}"
    joint = "." if re.match(r"[a-z_]+\.[^ :]+: ", named[2]) else ": "
    return f"sensor[{ids.index(named[1])}]{joint}{named[2]}"
