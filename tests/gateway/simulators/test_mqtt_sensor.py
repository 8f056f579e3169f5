"""Simulated MQTT sensors: what they publish, and a log that balances with what the gateway made of it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from control_plane.simulators.balance import sent
from firmware_configs.loader import Profiles
from gateway.simulators import mqtt_sensor
from gateway.simulators.mqtt_sensor import MqttPlay, PublishedValue, message
from gateway.simulators.sent_log import SentLog
from gateway.simulators.waves import Wave
from tests.gateway.sensors.listening import CLOCK, Listening, balance, listening
from tests.gateway.sensors.rig import until
from tests.gateway.simulators.test_cli import simulate
from tests.servers import mosquitto

SCENARIO = """
[[sensor]]
id = "climate"
topic = "zigbee2mqtt/climate"
profile = "aqara-wsdcgq11lm@1"
every_s = 0.02
count = 60
values = { temperature = { path = "/temperature", decimals = 2, signal = { kind = "counting" } } }
[[sensor]]
id = "counter"
topic = "plain/counter"
profile = "comboio-counter@1"
every_s = 0.02
count = 60
[[fault]]
fault = "garbage"
at_s = 0.3
"""
DOCUMENT = """
[[broker]]
id = "hall"
host = "127.0.0.1"
port = {port}
[[sensor]]
id = "climate"
driver = "mqtt"
broker = "hall"
topic = "zigbee2mqtt/climate"
profile = "aqara-wsdcgq11lm@1"
[[sensor]]
id = "counter"
driver = "mqtt"
broker = "hall"
topic = "plain/counter"
profile = "comboio-counter@1"
"""


def test_a_message_is_json_with_its_values_where_the_pointers_say() -> None:
    values = {
        "temperature": PublishedValue(path="/climate/temperature", decimals=1, signal=Wave(kind="constant", mean=4.2)),
        "count": PublishedValue(path="/count", decimals=0, signal=Wave(kind="counting")),
    }
    payload, meant = message(values, 7, 0.0)
    assert json.loads(payload) == {"climate": {"temperature": 4.2}, "count": 7}
    assert meant == {"temperature": 4.2, "count": 7}


async def test_every_message_published_arrives_once_or_lies_in_a_gap(tmp_path: Path) -> None:
    path, file = tmp_path / "scenario.toml", tmp_path / "sent.jsonl"
    path.write_text(SCENARIO)
    with mosquitto(tmp_path) as broker:
        async with listening(DOCUMENT.format(port=broker.port)) as running:
            task = running.built.tasks[0].run.__self__  # type: ignore[attr-defined]
            await until(lambda: task.counters["connected"])
            log = SentLog(path=file, clock=CLOCK)
            play = MqttPlay(
                scenario=mqtt_sensor.load(path), broker=("127.0.0.1", broker.port), log=log, profiles=Profiles()
            )
            playing = asyncio.create_task(play.run())
            await until(lambda: all(one.k == 60 for one in play.publishers))
            await until(lambda: all(len(facts.rows) == 60 for facts in running.facts.values()))
            await playing
            log.close()
            await until(lambda: task.counters["acknowledged"] == 122)
        for sensor, facts in running.facts.items():
            assert running.driver[sensor].counters["refused"] == 1
            assert sum(lost.reads for lost in facts.losts) == 1
            judge(running, sensor, file)
        assert {s.attrs.get("simulated") for s in running.driver["counter"].groups()[0].series} == {"true"}


def judge(running: Listening, sensor: str, file: Path) -> None:
    done = balance(running, sensor, file)
    assert done.balanced, done
    assert done.delivered == done.produced == 60


def test_the_command_publishes_and_obeys(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SCENARIO)
    arguments = ["mqtt", "--scenario", str(tmp_path / "s.toml"), "--log", str(tmp_path / "log")]
    with (
        mosquitto(tmp_path) as broker,
        simulate(*arguments, "--broker", f"127.0.0.1:{broker.port}", "--control", "127.0.0.1:0") as said,
        socket.create_connection(("127.0.0.1", said["control_port"])) as control,
    ):
        answers = control.makefile("rw")
        sent_so_far = 0
        while sent_so_far < 5:
            answers.write("status\n")
            answers.flush()
            sent_so_far = json.loads(answers.readline())["sent"]["climate"]
        answers.write('{"fault": "mute", "sensor": "nobody"}\n')
        answers.flush()
        assert answers.readline() == "error: there is no sensor nobody\n"
    (reads,) = sent(tmp_path / "log", "climate").values()
    assert len(reads) >= 5


def test_a_sensor_that_publishes_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[[sensor]]\nid = "x"\ntopic = "t"\n')
    with pytest.raises(ValueError, match="sensor x: give a profile, or values"):
        MqttPlay(
            scenario=mqtt_sensor.load(path),
            broker=("127.0.0.1", 1),
            log=SentLog(path=None, clock=CLOCK),
            profiles=Profiles(),
        )
