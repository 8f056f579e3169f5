"""Gateway, broker, or both are killed while messages flow: what was acknowledged to the gateway's sources is there.

The broker keeps its sessions on disk and writes them at each change, as a broker must that is to survive a kill; it is
given time to write before it is killed, or the message was lost before it reached anybody.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiomqtt
import pytest

from protos.comboio.v1 import batch_pb2 as pb
from tests.faults.daemons import until
from tests.faults.test_gateway_heard import COUNTER, daemon, home_with, kept, said, stopped
from tests.servers import Mosquitto

ROUNDS, COUNT = 2, 40
IN_FLIGHT = 20
"""What mosquitto sends without an acknowledgement."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Durable(tmp_path)
    made.start()
    yield made
    made.kill()


class Durable(Mosquitto):
    """It writes its sessions to disk at each change."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._store = folder / "sessions"
        self._store.mkdir()

    def start(self, *more: str) -> None:
        super().start(
            "persistence true",
            f"persistence_location {self._store}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "user root",
            *more,
        )

    @property
    def written(self) -> int:
        """When it last wrote, in ns."""
        path = self._store / "mosquitto.db"
        return path.stat().st_mtime_ns if path.exists() else 0

    @contextmanager
    def writes_after(self) -> Iterator[None]:
        """What was said to it inside is on its disk at the end."""
        yield
        since = time.time_ns()
        until(lambda: self.written > since or self._quiet(since), within_s=30)

    def _quiet(self, since: int) -> bool:
        return time.time_ns() - since > 2_000_000_000 and self.written > 0


async def publish(broker: Mosquitto, first: int, last: int) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for n in range(first, last):
            await client.publish("hall/counter", json.dumps({"n": n}), qos=1)


def counted(home: Path) -> tuple[Counter[int], list[pb.Gap]]:
    found, lost = asyncio.run(kept(home))
    return Counter(round(float(str(value))) for block in found for value in block.columns[0]), lost


def text(broker: Mosquitto, version: str) -> str:
    return COUNTER.format(port=broker.port).replace("[[sensor]]", f'version = "{version}"\n[[sensor]]', 1)


def drained(home: Path, connections: int) -> None:
    """The gateway has connected so often; what was kept for it has had time to come."""
    until(lambda: said(home, "mqtt.connected") >= connections, within_s=60)


@pytest.mark.parametrize("version", ["5"])
def test_a_killed_gateway_loses_no_message_and_doubles_none(tmp_path: Path, broker: Mosquitto, version: str) -> None:
    home, rng = home_with(tmp_path, text(broker, version)), random.Random(7)
    with daemon(home) as process:
        drained(home, 1)
        stopped(process)
    for n in range(ROUNDS):
        asyncio.run(publish(broker, n * COUNT, (n + 1) * COUNT))
        with daemon(home) as process:
            drained(home, n + 2)
            time.sleep(rng.uniform(0.05, 0.25))
            process.kill()
    with daemon(home) as process:
        drained(home, ROUNDS + 2)
        asyncio.run(publish(broker, ROUNDS * COUNT, ROUNDS * COUNT + 1))
        until(lambda: last_taken(home, ROUNDS * COUNT), within_s=60)
        stopped(process)
    times, lost = counted(home)
    assert set(times) == set(range(ROUNDS * COUNT + 1))
    assert [n for n, many in times.items() if many > 1] == []
    assert sum(gap.reason == pb.GAP_RESTART for gap in lost) >= 1


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_killed_broker_and_both_killed_lose_nothing_that_was_written(
    tmp_path: Path, broker: Durable, version: str
) -> None:
    """Nothing is lost; what the broker sends again with its word that it did so is not doubled."""
    home, rng = home_with(tmp_path, text(broker, version)), random.Random(11)
    with daemon(home) as process:
        drained(home, 1)
        with broker.writes_after():
            stopped(process)
    sent = 0
    for both in (False, True):
        with broker.writes_after():
            asyncio.run(publish(broker, sent, sent + COUNT))
        sent += COUNT
        connections = said(home, "mqtt.connected")
        with daemon(home) as process:
            drained(home, connections + 1)
            until(lambda first=sent - COUNT: last_taken(home, first), within_s=60)  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.1))
            broker.kill()
            if both:
                process.kill()
            broker.start()
            if not both:
                drained(home, connections + 2)
                asyncio.run(publish(broker, sent, sent + 1))
                sent += 1
                until(lambda newest=sent - 1: last_taken(home, newest), within_s=60)  # type: ignore[misc]
                stopped(process)
    connections = said(home, "mqtt.connected")
    with daemon(home) as process:
        drained(home, connections + 1)
        asyncio.run(publish(broker, sent, sent + 1))
        until(lambda: last_taken(home, sent), within_s=60)
        stopped(process)
    times, _ = counted(home)
    assert set(times) == set(range(sent + 1))
    doubled = [n for n, many in times.items() if many > 1]
    assert len(doubled) <= IN_FLIGHT, "only what was under way when the broker forgot that it had sent it"


def last_taken(home: Path, n: int) -> bool:
    """The gateway has taken the message of that number: its memory of taken messages has one for each."""
    path = home / "mqtt" / "hall.taken"
    return path.exists() and digest(n) in path.read_text()


def digest(n: int) -> str:
    from hashlib import blake2b

    return blake2b(json.dumps({"n": n}).encode(), digest_size=16).hexdigest()
