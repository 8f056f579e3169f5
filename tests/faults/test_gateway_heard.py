"""The whole daemon, killed while it hears: what MQTT publishes comes again, what Bluetooth said is in a gap."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiomqtt

from gateway.clock import SystemClock
from gateway.sensors.bluez_watch import BUS_VARIABLE
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from tests.faults.daemons import ROOT, enrolled, until
from tests.gateway.buffer.boxes import Box, blocks, gaps
from tests.servers import Mosquitto, mosquitto, require

HEAD = """
config_version = 1
[gateway]
name = "killed"
[uplink]
server = "127.0.0.1:1"
batch_interval_s = 0.3
"""
COUNTER = """
[[broker]]
id = "hall"
host = "127.0.0.1"
port = {port}
[[sensor]]
id = "counter"
driver = "mqtt"
broker = "hall"
topic = "hall/counter"
values = {{ n = {{ path = "/n", decimals = 0 }} }}
"""
TAG = """
[[sensor]]
id = "tag"
driver = "ble"
address = "D4:12:43:55:AA:01"
profile = "ruuvi-ruuvitag@1"
"""


@contextmanager
def daemon(home: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "gateway", "run", "--config", str(home / "gateway.toml")]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(home), "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | environment,
        )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline() or "{}") == {"ready": True}, (home / "log").read_text()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def home_with(tmp_path: Path, text: str) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "gateway.toml").write_text(HEAD + text)
    enrolled(home)
    return home


def stopped(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


async def kept(home: Path) -> tuple[list[columns.DecodedBlock], list[pb.Gap]]:
    """Everything the buffer holds, after a clean stop."""
    box = Box(home / "buffer", clock=SystemClock())  # type: ignore[arg-type]
    buffer = await box.open(())
    try:
        return await blocks(buffer), await gaps(buffer)
    finally:
        await buffer.close()


async def publish(broker: Mosquitto, first: int, last: int) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for n in range(first, last):
            await client.publish("hall/counter", json.dumps({"n": n}), qos=1)


def said(home: Path, event: str) -> int:
    return (home / "log").read_text().count(event)


def test_killed_again_and_again_it_loses_no_message_and_doubles_none(tmp_path: Path) -> None:
    home, rng, kills, count = tmp_path / "home", random.Random(20), 3, 50
    with mosquitto(tmp_path) as broker:
        home_with(tmp_path, COUNTER.format(port=broker.port))
        with daemon(home) as process:
            until(lambda: said(home, "mqtt.connected"))
            stopped(process)
        for kill in range(kills):
            asyncio.run(publish(broker, kill * count, (kill + 1) * count))
            before = said(home, "mqtt.connected")
            with daemon(home) as process:
                until(lambda before=before: said(home, "mqtt.connected") > before)  # type: ignore[misc]
                time.sleep(rng.uniform(0.0, 0.25))
                process.kill()
        with daemon(home) as process:
            until(lambda: said(home, "mqtt.connected") == kills + 2)
            time.sleep(1.0)
            stopped(process)
    found, lost = asyncio.run(kept(home))
    times = Counter(round(float(str(value))) for block in found for value in block.columns[0])
    assert set(times) == set(range(kills * count))
    assert [n for n, count in times.items() if count > 1] == []
    assert sum(gap.reason == pb.GAP_RESTART for gap in lost) >= kills


def test_killed_while_it_hears_a_sensor_what_was_said_meanwhile_lies_in_the_restart_gap(tmp_path: Path) -> None:
    require("dbus-daemon", "dbus")
    home, log = home_with(tmp_path, TAG), tmp_path / "sent"
    scenario = tmp_path / "s.toml"
    scenario.write_text(
        '[[sensor]]\nid = "tag"\naddress = "D4:12:43:55:AA:01"\nevery_s = 0.05\n'
        'signal = { temperature = { kind = "counting" } }\n'
    )
    arguments = ["simulate", "bluez", "--scenario", str(scenario), "--log", str(log), "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as simulator:
        try:
            assert simulator.stdout is not None
            bus = {BUS_VARIABLE: json.loads(simulator.stdout.readline())["bus"]}
            with daemon(home, **bus) as process:
                until(lambda: lines(log) >= 20)
                process.kill()
            with daemon(home, **bus) as process:
                until(lambda: said(home, "ble.listening") == 2)
                enough = lines(log) + 20
                until(lambda: lines(log) >= enough)
                stopped(process)
        finally:
            simulator.terminate()
            simulator.wait()
    found, lost = asyncio.run(kept(home))
    steps = [round(float(str(v)) / 0.005) for block in found for v in block.columns[0]]
    assert len(steps) == len(set(steps)), "each at most once"
    assert steps == sorted(steps)
    missing = set(range(1, max(steps))) - set(steps)
    (restart,) = [gap for gap in lost if gap.reason == pb.GAP_RESTART]
    sent_at = {one["k"]: one["mono_ms"] for one in map(json.loads, log.read_text().splitlines())}
    assert missing
    for k in missing:
        assert restart.from_mono_ms - 100 <= sent_at[k] <= restart.to_mono_ms + 100, k


def lines(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0
