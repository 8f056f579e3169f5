"""The only reader of the gateway's configuration file. Everything wrong is said at once, each with its place."""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from firmware_configs.loader import ProfileError, Profiles
from gateway.errors import Misconfigured
from protos.config import BleSensor, GatewayConfig, ModbusSensor, MqttSensor, Sensor, SimulatedSensor, from_toml
from protos.strict import DocumentError


def load(path: Path, profiles: Profiles) -> GatewayConfig:
    """Read and check a hand-written document. Raises Misconfigured with one line per mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{path}: is not UTF-8 text: {error}") from error
    try:
        config = from_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path}: {error}") from error
    except DocumentError as error:
        raise Misconfigured("\n".join(f"{path}: {problem}" for problem in error.problems)) from error
    problems = disagreements(config, profiles)
    if problems:
        raise Misconfigured("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def disagreements(config: GatewayConfig, profiles: Profiles) -> list[str]:
    """What the types can't say, one sentence per mistake, each starting with its path."""
    return list(_disagreements(config, profiles))


def _disagreements(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    """Names that must be unique, or must exist."""
    unique = (
        ("bus", [b.id for b in config.bus]),
        ("broker", [b.id for b in config.broker]),
        ("sensor", [s.id for s in config.sensor]),
    )
    for kind, ids in unique:
        for name, times in Counter(ids).items():
            if times > 1:
                yield f"{kind}: {times} of them have the id {name!r}"
    for index, sensor in enumerate(config.sensor):
        for problem in _of_sensor(sensor, config, profiles):
            yield f"sensor[{index}].{problem}"


def _of_sensor(sensor: Sensor, config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    if isinstance(sensor, SimulatedSensor):
        return
    if isinstance(sensor, ModbusSensor) and sensor.bus not in (buses := [bus.id for bus in config.bus]):
        yield f"bus: there is no bus {sensor.bus!r}{_near(sensor.bus, buses)}"
    if isinstance(sensor, MqttSensor):
        if sensor.broker not in (brokers := [broker.id for broker in config.broker]):
            yield f"broker: there is no broker {sensor.broker!r}{_near(sensor.broker, brokers)}"
        if (sensor.profile is None) == (not sensor.values):
            yield "profile: give either a profile, or values for each quantity of its messages"
            return
    try:
        known = _quantities(sensor, profiles)
    except ProfileError as error:
        yield f"profile: {error}"
        return
    named = {section: getattr(sensor, section) for section in ("calibration", "attrs", "validate", "report")}
    named["alarm"] = [rule.quantity for rule in sensor.alarm]
    for section, quantities in named.items():
        for quantity in quantities:
            if quantity not in known and (section, quantity) != ("report", "*"):
                yield f"{section}.{quantity}: not a quantity of {sensor.profile or 'values'}{_near(quantity, known)}"


def _quantities(sensor: ModbusSensor | BleSensor | MqttSensor, profiles: Profiles) -> Collection[str]:
    """Raises ProfileError."""
    if isinstance(sensor, ModbusSensor):
        return [register.quantity for register in profiles.modbus(sensor.profile).expanded()]
    if isinstance(sensor, BleSensor):
        return profiles.ble(sensor.profile).quantities()
    return sensor.values if sensor.profile is None else profiles.mqtt(sensor.profile).quantities()


def _near(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
