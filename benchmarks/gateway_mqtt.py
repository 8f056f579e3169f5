"""gateway.mqtt_per_cpu_s: MQTT messages taken, decoded and acknowledged after they are in the buffer, per CPU second.

The daemon runs as its users run it, with a buffer on disk and nobody at the other end of the uplink; the broker is
mosquitto as it comes, published to at QoS 1 by this process: six values a message. CPU is user + system of the
gateway's process alone. gateway.host_cpu is what reading the box itself costs.

    python -m benchmarks.gateway_mqtt --messages 20000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt

from benchmarks.figures import Figure
from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.clock import SystemClock
from gateway.reading import Row
from protos.config import from_toml
from tests.faults.daemons import ROOT, enrolled
from tests.servers import Mosquitto, mosquitto

TOPIC = "zigbee2mqtt/climate"
CLIENT = "comboio-bench"
DOCUMENT = """
config_version = 1
[gateway]
name = "bench"
[uplink]
server = "127.0.0.1:1"
[[broker]]
id = "hall"
host = "127.0.0.1"
port = {port}
client_id = "{client}"
[[sensor]]
id = "climate"
driver = "mqtt"
broker = "hall"
topic = "{topic}"
profile = "aqara-wsdcgq11lm@1"
"""
BOX = """
[[sensor]]
id = "box"
driver = "host"
every_s = {every_s}
"""


def figures(*, messages: int = 10_000, reads: int = 2000) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="comboio-bench-") as folder:
        Path(folder).chmod(0o755)
        yield mqtt(Path(folder), messages)
    with tempfile.TemporaryDirectory(prefix="comboio-bench-") as folder:
        yield host(Path(folder), reads)


def mqtt(folder: Path, messages: int) -> Figure:
    home = folder / "home"
    home.mkdir()
    enrolled(home)
    with mosquitto(folder) as broker:
        broker.kill()
        broker.start("max_queued_messages 0")
        (home / "gateway.toml").write_text(DOCUMENT.format(port=broker.port, client=CLIENT, topic=TOPIC))
        with _running(home) as pid:
            while "mqtt.connected" not in (home / "log").read_text():
                time.sleep(0.05)
            time.sleep(2.0)
            began, spent = time.monotonic(), _cpu_s(pid)
            asyncio.run(_publish(broker, messages))
            while _taken(home) < messages:
                if time.monotonic() - began > 600:
                    raise ValueError(f"{_taken(home)} of {messages} messages came")
                time.sleep(0.5)
            spent = _cpu_s(pid) - spent
            took = time.monotonic() - began
    remark = f"{messages} messages of 6 values in {took:.1f} s, each acknowledged when durable, 20 in flight"
    return Figure("gateway.mqtt_per_cpu_s", messages / spent, "1/s", remark)


def host(folder: Path, reads: int) -> Figure:
    """The driver alone, with its thread, as often as it can."""
    spent = asyncio.run(_read(folder, reads))
    remark = f"{spent * 1e3:.2f} ms CPU a reading, mean of {reads}, by process_time"
    return Figure("gateway.host_cpu", 100 * spent / 10, "% of a core at 10 s", remark)


async def _read(folder: Path, reads: int) -> float:
    document = "config_version = 1\n" + BOX.format(every_s=1.0)
    (built,) = sensors.build(from_toml(document), clock=SystemClock(), profiles=Profiles(), data_dir=folder).sensors
    driver: Any = built.driver
    driver._every_s = 0.0
    done = asyncio.Event()

    class Counted:
        many = 0

        def row(self, group: int, row: Row) -> None:
            del group, row
            self.many += 1
            if self.many == reads:
                done.set()

    began = time.process_time()
    running = asyncio.create_task(driver.run(Counted()))
    await done.wait()
    spent = time.process_time() - began
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return spent / reads


async def _publish(broker: Mosquitto, messages: int) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        client.pending_calls_threshold = messages
        for start in range(0, messages, 10):
            numbers = range(start, min(start + 10, messages))
            await asyncio.gather(*(client.publish(TOPIC, _payload(n), qos=1) for n in numbers))


def _payload(n: int) -> bytes:
    said = {"temperature": 20 + n % 100 / 100, "humidity": 40 + n % 7, "pressure": 1000 + n % 9, "battery": 97}
    return json.dumps(said | {"voltage": 3005, "linkquality": n % 200, "n": n}).encode()


def _taken(home: Path) -> int:
    found = json.loads(_said(home, "status").stdout or "{}")
    sensors = {one["id"]: one for one in found.get("sensors", ())}
    return int(sensors.get("climate", {}).get("counters", {}).get("rows", 0))


def _said(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments, "--data-dir", str(home), "--json"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


@contextlib.contextmanager
def _running(home: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "gateway", "run", "--config", str(home / "gateway.toml"), "--json"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(home)], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, env=os.environ
        )
    assert process.stdout is not None
    try:
        if json.loads(process.stdout.readline() or "{}") != {"ready": True}:
            raise ValueError((home / "log").read_text())
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def _cpu_s(pid: int) -> float:
    """User + system so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gateway_mqtt", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--reads", type=int, default=2000, help="of the box itself")
    told = parser.parse_args()
    for figure in figures(messages=told.messages, reads=told.reads):
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
