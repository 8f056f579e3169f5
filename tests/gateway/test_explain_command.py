"""A person asks a real daemon what became of one quantity."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.clock import SystemClock
from gateway.decoders.advertisements import Advert
from gateway.health.explanation import Explanation, Step, text
from gateway.pipeline.flow import flow
from gateway.reading import Row
from gateway.sensors.ble import BleSensor
from gateway.sensors.explains import Explains
from protos.config import Alarm, Report, SimulatedSensor, Validation, from_toml
from tests.faults import daemons
from tests.faults.daemons import enrolled, once, running, until
from tests.gateway.buffer.boxes import COOLING
from tests.gateway.sensors.listening import Facts
from tests.gateway.sensors.rig import Polling, device, started

REPORTED = "\n[sensor.report.count]\ndeadband = 100000\nmin_s = 0\nmax_s = 3600\n[sensor.validate.count]\nmax = 3\n"


def explained(home: Path, tag: str) -> tuple[int, Any]:
    done = once(home, "explain", tag)
    return done.returncode, json.loads(done.stdout)


def says(found: Any) -> dict[str, str]:
    return {step["name"]: " | ".join(step["says"]) for step in found["steps"]}


def test_the_way_of_a_quantity_is_told_running_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "CONFIG", daemons.CONFIG + REPORTED)
    home = tmp_path / "gateway"
    home.mkdir()
    enrolled(home)
    with running(home) as daemon:
        until(lambda: "held back" in says(explained(home, "counter/count")[1]).get("pipeline", ""))
        code, found = explained(home, "counter/count")
        told = says(found)
        assert code == 1
        assert "out_of_range" in told["value"]
        assert "validated (max = 3): out_of_range" in told["pipeline"]
        assert "held back: changed by" in told["pipeline"]
        assert "in TELEMETRY batch 1" in told["batch"]
        assert "waiting" in told["batch"]
        assert "acknowledged nothing" in told["link"]
        assert any(line.startswith("not connected to the control plane") for line in found["wrong"])
        code, found = explained(home, "counter/cuont")
        assert (code, found["known"], found["wrong"]) == (
            1,
            False,
            ["cuont is not configured here; did you mean count?"],
        )
        assert daemon.stop() == 0
    code, found = explained(home, "counter/count")
    assert code == 3
    assert "in TELEMETRY batch" in says(found)["batch"]
    code, found = explained(home, "nobody")
    assert (code, found["known"]) == (3, False)


def test_stages_say_what_they_did_and_why() -> None:
    options = SimulatedSensor(
        id="cooling",
        validate={"temperature": Validation(min=0, max=10)},
        alarm=(Alarm(quantity="temperature", above=8.0, for_s=60),),
        report={"*": Report(deadband=0.5, min_s=1, max_s=60)},
    )
    taken: list[Row] = []

    class Taking:
        def append(self, _: int, row: Row) -> None:
            taken.append(row)

        def event(self, *_: object, **__: object) -> None:
            """Conditions go nowhere."""

    way = flow(options, [COOLING], Taking())  # type: ignore[arg-type]
    way.bind([1])

    def lines() -> list[str]:
        newest = way.newest[0]
        assert newest is not None
        return [line for stage in way.stages[0] for line in stage.explain(0, newest)]

    way.row(0, Row(1000, (41, 0)))
    assert lines()[-1].startswith("sent")
    way.row(0, Row(2000, (43, 0)))
    assert "held back: changed by 0.2 since it was last sent 1.0 s before (deadband 0.5" in lines()[-1]
    way.row(0, Row(3000, (95, 0)))
    way.row(0, Row(13_000, (97, 0)))
    assert "alarm temperature_above_8: not raised, beyond its limit for 10.0 of 60 s" in lines()
    assert len(taken) == 2


async def test_a_modbus_sensor_tells_its_registers_in_hex() -> None:
    async with started(device()) as simulated:
        polling = Polling(port=simulated.port)
        sensor, facts = polling.add(every_s=0.05)
        assert isinstance(sensor, Explains)
        assert list(sensor.last_frame(None, 0)) == []
        async with polling:
            while len(facts.rows) < 2:
                await asyncio.sleep(0.01)
            quantity = sensor.groups()[0].series[1].name
            (plan, register) = sensor.plan(quantity)
            (frame,) = sensor.last_frame(quantity, SystemClock().mono_ms())
    assert "every 0.05 s: holding" in plan
    assert register.startswith(f"{quantity} is holding")
    assert "(hex)" in frame


async def test_an_advertisement_is_told_with_its_strength_and_bytes_though_its_decoder_refuses_it() -> None:
    sensor = '[[sensor]]\nid = "tag"\ndriver = "ble"\naddress = "D4:12:43:55:AA:01"\nprofile = "ruuvi-ruuvitag@1"\n'
    config = from_toml("config_version = 1\n" + sensor)
    (made,) = sensors.build(config, clock=SystemClock(), profiles=Profiles()).sensors
    assert isinstance(made.driver, BleSensor)
    facts = Facts()
    running = asyncio.create_task(made.driver.run(facts))
    await asyncio.sleep(0)
    made.driver.queued(5000)
    made.driver.take(Advert("D4:12:43:55:AA:01", {0x0499: b"\x05\x12"}, {}, -71, 5000))
    told = list(made.driver.last_frame(None, 9000))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert told == ["advertisement 4.0 s ago, -71 dBm", "manufacturer 0499: 05 12"]
    assert facts.rows == []


def test_what_devices_say_can_not_command_a_terminal() -> None:
    step = Step(name="last frame", says=["\x1b[2J"])
    assert "\x1b" not in text(Explanation(tag="a", steps=[step], wrong=["\x1b]0;owned\x07"]))
