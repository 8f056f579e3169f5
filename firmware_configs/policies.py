"""Which readings are worth sending, where a sensor leaves it to its profile. Pure."""

from __future__ import annotations

import msgspec

from firmware_configs.document import quantities
from firmware_configs.loader import Profiles
from protos.config import ModbusSensor, Report, Sensor

EVERYTHING_ELSE = "*"


def with_reports(sensor: Sensor, profiles: Profiles) -> Sensor:
    """The same sensor, with its profile's report policies below its own if it asks for them. Raises ProfileError."""
    if not isinstance(sensor, ModbusSensor) or not sensor.report_by_profile:
        return sensor
    known = quantities(sensor, profiles)
    policies: dict[str, Report] = {}
    for quantity, policy in profiles.modbus(sensor.profile).report.items():
        name = sensor.rename.get(quantity, quantity)
        if name in known or name == EVERYTHING_ELSE:
            policies[name] = policy
    return msgspec.structs.replace(sensor, report=policies | sensor.report)
