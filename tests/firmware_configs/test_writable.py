"""What a configuration allows to be written must be there, be writable, and mean the same written and read."""

from __future__ import annotations

from typing import Any

import pytest

from firmware_configs.document import disagreements
from firmware_configs.loader import Profiles
from gateway.sensors import build
from protos.config import GatewayConfig
from protos.strict import convert
from tests.gateway.sensors.rig import CLOCK


def config(**sensor: Any) -> GatewayConfig:
    bus = {"id": "b", "kind": "tcp", "host": "127.0.0.1"}
    one = {"id": "cooling", "driver": "modbus", "bus": "b", "profile": "comboio-controller@1"} | sensor
    return convert({"config_version": 1, "bus": [bus], "sensor": [one]}, GatewayConfig)


@pytest.mark.parametrize(
    ("sensor", "problem"),
    [
        (
            {"allow_write": ["setpont"]},
            "'setpont' is no quantity of this sensor; did you mean setpoint?",
        ),
        ({"allow_write": ["mode", "differential"]}, "allow_write[1]: 'differential' can't be written; comboio-"),
        ({"allow_write": ["setpoint"], "quantities": ["mode"]}, "allow_write[0]: 'setpoint' is no quantity"),
        ({"allow_write": ["setpoint"], "rename": {"setpoint": "target"}}, "allow_write[0]: 'setpoint' is no quantity"),
        ({"allow_write": ["setpoint"], "calibration": {"setpoint": {"offset": 1.0}}}, "'setpoint' is calibrated here"),
    ],
)
def test_a_mistake_is_told_with_its_place(sensor: dict[str, Any], problem: str) -> None:
    (found,) = disagreements(config(**sensor), Profiles())
    assert found.startswith("sensor[0].")
    assert problem in found


def test_what_is_right_is_declared_with_its_limits() -> None:
    wanted = config(allow_write=["target", "mode"], rename={"setpoint": "target"})
    assert not list(disagreements(wanted, Profiles()))
    (built,) = build(wanted, clock=CLOCK, profiles=Profiles()).sensors
    attrs = {series.name: series.attrs for series in built.driver.groups()[0].series}
    assert attrs["target"] == {"simulated": "true", "writable": "true", "write_min": "-30", "write_max": "30"}
    assert {name for name, one in attrs.items() if "writable" in one} == {"target", "mode"}
    assert built.driver.point("target") is not None  # type: ignore[attr-defined]
