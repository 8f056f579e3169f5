"""MQTT sensors against a real broker: nothing acknowledged before it is durable, nothing twice, nothing stops it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.errors import Misconfigured
from gateway.sensors.mqtt_broker import MqttBroker
from gateway.simulators.link import LinkProxy, obey
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import from_toml
from tests.gateway.sensors.listening import CLOCK, Listening, listening
from tests.gateway.sensors.rig import until
from tests.servers import Mosquitto, mosquitto

TOPIC = "hall/counter"
COUNTER = f"""
[[sensor]]
id = "counter"
driver = "mqtt"
broker = "hall"
topic = "{TOPIC}"
values = {{ n = {{ path = "/n", decimals = 0 }}, open = {{ path = "/open", type = "boolean" }} }}
"""
STALE = (pb.QUALITY_STALE, pb.QUALITY_STALE)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as started:
        yield started


def document(broker: Mosquitto, *more: str) -> str:
    lines = [
        "[gateway]",
        'name = "Truck 17"',
        "[[broker]]",
        'id = "hall"',
        'host = "127.0.0.1"',
        f"port = {broker.port}",
    ]
    return "\n".join([*lines, *more]) + COUNTER


async def publish(broker: Mosquitto, *payloads: Any, retain: bool = False, qos: int = 1) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for payload in payloads:
            said = payload if isinstance(payload, bytes) else json.dumps({"n": payload, "open": True})
            await client.publish(TOPIC, said, qos=qos, retain=retain)


def task_of(running: Listening) -> MqttBroker:
    found = running.built.tasks[0].run.__self__  # type: ignore[attr-defined]
    assert isinstance(found, MqttBroker)
    return found


async def connected(running: Listening, times: int = 1) -> MqttBroker:
    task = task_of(running)
    await until(lambda: task.counters["connected"] >= times)
    return task


async def received(running: Listening, count: int) -> None:
    """So many came and are not acknowledged: rows, or waiting for those before them."""
    waiting = task_of(running)._waiting
    await until(lambda: len(running.facts["counter"].rows) + len(waiting) == count)


async def rows(running: Listening, count: int) -> list[Any]:
    await until(lambda: len(running.facts["counter"].rows) >= count)
    return running.facts["counter"].column(0)


async def test_each_message_gives_one_row_in_order(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        task = await connected(running)
        await publish(broker, *range(60))
        assert await rows(running, 60) == list(range(60))
        await until(lambda: task.counters["acknowledged"] == 60)
        facts = running.facts["counter"]
        assert {row.quality for row in facts.rows} == {None}
        assert facts.losts == []
        times = [row.mono_ms for row in facts.rows]
        assert times == sorted(set(times))
        assert task.problem is None


async def test_nothing_is_acknowledged_before_it_is_durable(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        task = await connected(running)
        running.facts["counter"].disk_works.clear()
        await publish(broker, *range(50))
        await received(running, 20)
        await asyncio.sleep(0.3)
        assert task.counters["acknowledged"] == 0
        await received(running, 20)  # the broker's own limit of unacknowledged messages holds
        running.facts["counter"].disk_works.set()
        assert await rows(running, 50) == list(range(50))
        await until(lambda: task.counters["acknowledged"] == 50)


async def test_what_was_not_acknowledged_comes_again_to_the_next_gateway(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        await connected(running)
        running.facts["counter"].disk_works.clear()
        await publish(broker, *range(50))
        await received(running, 20)
    async with listening(document(broker)) as running:
        assert await rows(running, 50) == list(range(50))
        task = await connected(running)
        await until(lambda: task.counters["acknowledged"] >= 50)
    async with listening(document(broker)) as running:
        await connected(running)
        await publish(broker, 50)
        assert await rows(running, 1) == [50]


async def test_a_broken_connection_doubles_nothing_and_acknowledges_on_the_next_one(broker: Mosquitto) -> None:
    async with (
        link_to(broker) as link,
        listening(through(link, broker)) as running,
    ):
        task = await connected(running)
        running.facts["counter"].disk_works.clear()
        await publish(broker, *range(50))
        await rows(running, 1)
        await received(running, 20)
        handed_over = len(running.facts["counter"].rows)
        await obey(link, "cut")
        await obey(link, "restore")
        await connected(running, 2)
        running.facts["counter"].disk_works.set()
        assert await rows(running, 50) == list(range(50))
        await until(lambda: task.counters["again"] == handed_over)
        assert running.facts["counter"].losts == []


async def test_acknowledgements_that_never_reached_the_broker_double_nothing(broker: Mosquitto) -> None:
    async with link_to(broker) as link, listening(through(link, broker)) as running:
        task = await connected(running)
        running.facts["counter"].disk_works.clear()
        await publish(broker, *range(10))
        await received(running, 10)
        await obey(link, "blackhole")
        running.facts["counter"].disk_works.set()
        await until(lambda: task.counters["acknowledged"] == 10)
        await obey(link, "cut")
        await obey(link, "restore")
        await connected(running, 2)
        await publish(broker, 10)
        assert await rows(running, 11) == list(range(11))
        assert task.counters["again"] == 10
        quality = [row.quality for row in running.facts["counter"].rows]
        assert quality[:10] == [None] * 10


def through(link: LinkProxy, broker: Mosquitto) -> str:
    return document(broker).replace(f"port = {broker.port}", f"port = {link.port}")


@asynccontextmanager
async def link_to(broker: Mosquitto) -> AsyncIterator[LinkProxy]:
    link = LinkProxy(to=("127.0.0.1", broker.port))
    await link.start("127.0.0.1", 0)
    try:
        yield link
    finally:
        await link.close()


async def test_what_the_broker_kept_while_we_were_away_is_stale_and_what_follows_is_not(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        await connected(running)
    await publish(broker, *range(50))
    async with listening(document(broker)) as running:
        assert await rows(running, 50) == list(range(50))
        task = await connected(running)
        await until(lambda: task.counters["acknowledged"] == 51)  # and the marker
        await publish(broker, 50, 51)
        await rows(running, 52)
        facts = running.facts["counter"]
        assert [row.quality for row in facts.rows] == [STALE] * 50 + [None, None]
        assert facts.losts == []


async def test_a_retained_message_is_stale_and_told_once(broker: Mosquitto) -> None:
    await publish(broker, 1, retain=True)
    async with listening(document(broker)) as running:
        assert await rows(running, 1) == [1]
        await publish(broker, 2)
        await rows(running, 2)
        broker.kill()
        broker.start()
        await connected(running, 2)
        await publish(broker, 3)
        await rows(running, 3)
        assert [row.quality for row in running.facts["counter"].rows] == [STALE, None, None]


async def test_messages_nobody_can_read_are_acknowledged_counted_and_in_a_gap(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        task = await connected(running)
        await publish(broker, 1, b"", b"{", b"\xff\xfe", b'{"n": "warm"}', b"[" * 70_000, 2)
        assert await rows(running, 2) == [1, 2]
        await until(lambda: task.counters["acknowledged"] == 7)
        first, lost, second = running.facts["counter"].all
        assert lost == (first.mono_ms, second.mono_ms, 5, pb.GAP_REFUSED)  # type: ignore[union-attr]
        assert running.driver["counter"].counters["refused"] == 5


async def test_a_value_of_another_type_spoils_only_itself(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        await connected(running)
        await publish(broker, b'{"n": "warm", "open": false}', b'{"n": 3}')
        await rows(running, 2)
        assert [(row.values, row.quality) for row in running.facts["counter"].rows] == [
            ((None, False), (pb.QUALITY_BAD_SENSOR, pb.QUALITY_GOOD)),
            ((3, None), (pb.QUALITY_GOOD, pb.QUALITY_BAD_COMM)),
        ]


async def test_a_broker_that_forgot_us_leaves_a_gap_and_one_that_kept_everything_does_not(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        await connected(running)
        await publish(broker, 1)
        await rows(running, 1)
        broker.kill()
        broker.start()
        await connected(running, 2)
        await publish(broker, 2)
        await rows(running, 2)
        first, lost, second = running.facts["counter"].all
        assert (lost.after_mono_ms, lost.reason) == (first.mono_ms, pb.GAP_UNREADABLE)  # type: ignore[union-attr]
        assert lost.before_mono_ms <= second.mono_ms  # type: ignore[union-attr]


async def test_a_broker_that_is_away_at_the_start_stops_nothing(broker: Mosquitto) -> None:
    broker.kill()
    async with listening(document(broker)) as running:
        task = task_of(running)
        await until(lambda: task.counters["broken"] >= 2)
        assert "refused" in str(task.problem)
        assert not any(one.done() for one in running.tasks)
        broker.start()
        await connected(running)
        await publish(broker, 7)
        assert await rows(running, 1) == [7]


async def test_a_topic_of_an_older_configuration_is_acknowledged_and_forgotten(broker: Mosquitto) -> None:
    async with listening(document(broker)) as running:
        await connected(running)
    other = document(broker).replace(TOPIC, "hall/other")
    await publish(broker, 1)
    async with listening(other) as running:
        task = await connected(running)
        await until(lambda: task.counters["unknown_topic"] == 1)
        assert running.facts["counter"].all == []


async def test_a_wrong_password_is_said_and_tried_again(broker: Mosquitto, tmp_path: Path) -> None:
    broker.kill()
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o644)
    broker.start("allow_anonymous false")
    secret = tmp_path / "password"
    secret.write_text("guess")
    secret.chmod(0o600)
    text = document(broker, 'username = "box"', f'password_file = "{secret}"')
    async with listening(text) as running:
        task = task_of(running)
        await until(lambda: task.counters["broken"] >= 1)
        assert "Not authorized" in str(task.problem) or "Connection Refused" in str(task.problem)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('broker = "hall"', 'broker = "hal"'), "broker 'hal' is not a .* did you mean hall"),
        (("values =", 'profile = "aqara-wsdcgq11lm@1"\nvalues ='), "give either profile, or values"),
        (('type = "boolean"', 'type = "boolean", decimals = 1'), "values.open.decimals: a boolean has no decimals"),
        (
            ("port =", 'password_file = "/nowhere/secret"\nport ='),
            "broker hall: password_file: /nowhere/secret: No such",
        ),
    ],
)
def test_a_mistake_is_told_with_its_setting(broker: Mosquitto, change: tuple[str, str], why: str) -> None:
    config = from_toml("config_version = 1\n" + document(broker).replace(*change))
    with pytest.raises(Misconfigured, match=why):
        sensors.build(config, clock=CLOCK, profiles=Profiles())


@pytest.fixture
async def client(broker: Mosquitto) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client("127.0.0.1", broker.port) as made:
        yield made


async def test_the_parts_of_the_library_that_have_no_public_name_are_there(client: aiomqtt.Client) -> None:
    for name in ("_client", "_queue", "_on_connect", "_on_message"):
        assert hasattr(client, name), f"aiomqtt changed: {name} is gone; see gateway/sensors/mqtt_client.py"
    for name in ("manual_ack_set", "ack", "connect_timeout"):
        assert hasattr(client._client, name), f"paho changed: {name} is gone; see gateway/sensors/mqtt_client.py"
