"""The only reader of the gateway's configuration file. Everything wrong is said at once, each with its place."""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from firmware_configs.loader import ProfileError, Profiles
from gateway.errors import Misconfigured
from protos.config import GatewayConfig, ModbusSensor, from_toml
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
    buses = {bus.id for bus in config.bus}
    for kind, ids in (("bus", [b.id for b in config.bus]), ("sensor", [s.id for s in config.sensor])):
        for name, times in Counter(ids).items():
            if times > 1:
                yield f"{kind}: {times} of them have the id {name!r}"
    for index, sensor in enumerate(config.sensor):
        if not isinstance(sensor, ModbusSensor):
            continue
        if sensor.bus not in buses:
            near = difflib.get_close_matches(sensor.bus, buses, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"sensor[{index}].bus: there is no bus {sensor.bus!r}{hint}"
        try:
            profile = profiles.modbus(sensor.profile)
        except ProfileError as error:
            yield f"sensor[{index}].profile: {error}"
            continue
        known = {register.quantity for register in profile.expanded()}
        named = {section: getattr(sensor, section) for section in ("calibration", "attrs", "validate", "report")}
        named["alarm"] = [rule.quantity for rule in sensor.alarm]
        for section, quantities in named.items():
            for quantity in quantities:
                if quantity not in known | {"*" if section == "report" else ""}:
                    near = difflib.get_close_matches(quantity, known, n=1)
                    hint = f"; did you mean {near[0]}?" if near else ""
                    yield f"sensor[{index}].{section}.{quantity}: not a quantity of {sensor.profile}{hint}"
