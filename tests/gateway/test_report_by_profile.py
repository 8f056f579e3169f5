"""The daemon heeds the report policies of a profile for sensors that ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.loader import Profiles
from gateway.clock import SystemClock
from gateway.daemon import built
from gateway.pipeline.report import Report
from protos.config import from_toml
from tests.gateway.buffer.boxes import Box

TEXT = """
config_version = 1
[[bus]]
id = "plc"
kind = "tcp"
host = "127.0.0.1"
[[sensor]]
id = "probe"
driver = "modbus"
bus = "plc"
profile = "xy-md02@1"
"""


@pytest.mark.parametrize("asks", [False, True])
async def test_only_a_sensor_that_asks_holds_readings_back(tmp_path: Path, *, asks: bool) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()
    text = TEXT + f"report_by_profile = {str(asks).lower()}\n"
    plan = built(from_toml(text), buffer, SystemClock(), Profiles(), tmp_path)
    (way,) = plan.flows
    assert [isinstance(stage, Report) for stage in way.stages[0]] == [True] * asks
    await buffer.close()
