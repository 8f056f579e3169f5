"""What brokers ask for and do: TLS and names, MQTT 5, wildcards, wills, enormous messages, half packets."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from firmware_configs.loader import Profiles
from gateway import sensors
from gateway.errors import Misconfigured
from gateway.sensors import mqtt_broker
from gateway.sensors.mqtt import Said
from gateway.sensors.mqtt_client import PACKET_BYTES
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import from_toml
from tests.gateway.sensors.listening import CLOCK, Listening, listening
from tests.gateway.sensors.modbus_ends import Keys, keys
from tests.gateway.sensors.rig import until
from tests.gateway.sensors.test_mqtt import task_of
from tests.servers import Mosquitto, mosquitto, require

PLAIN = 'values = { n = { path = "/n", decimals = 0 } }'


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as started:
        yield started


def document(broker: Mosquitto, sensor: str, *more: str) -> str:
    head = ["[gateway]", 'name = "Truck 17"', "[[broker]]", 'id = "hall"', 'host = "127.0.0.1"']
    lines = [*head, f"port = {broker.port}", *more, "[[sensor]]", 'id = "it"', 'driver = "mqtt"', 'broker = "hall"']
    return "\n".join([*lines, sensor])


async def publish(broker: Mosquitto, *messages: tuple[str, str | bytes], **options: Any) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port, **options.pop("client", {})) as client:
        for topic, payload in messages:
            await client.publish(topic, payload, qos=options.get("qos", 1), retain=options.get("retain", False))


async def connected(running: Listening, times: int = 1) -> mqtt_broker.MqttBroker:
    task = task_of(running)
    await until(lambda: task.counters["connected"] >= times, within_s=30)
    return task


def column(running: Listening, index: int = 0) -> list[Any]:
    return running.facts["it"].column(index)


class ManyFacts:
    """Of a sensor with several groups."""

    def __init__(self) -> None:
        self.facts: dict[int, list[Any]] = {}

    def row(self, group: int, row: Any) -> Any:
        self.facts.setdefault(group, []).append(row)
        return self

    def lost(self, group: int, lost: Any) -> None:
        assert lost.after_mono_ms < lost.before_mono_ms
        self.facts.setdefault(group, []).append(lost)

    async def durable(self) -> None:
        return


# --- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Keys:
    return keys(tmp_path, "broker.example")


@pytest.fixture
def secure(tmp_path: Path, made: Keys, broker: Mosquitto) -> Mosquitto:
    broker.kill()
    files = [f"cafile {made.ca}", f"certfile {made.cert}", f"keyfile {made.key}", "user root"]
    broker.start(*files, "require_certificate true", "use_identity_as_username true")
    return broker


def ours(made: Keys, **change: str) -> list[str]:
    given = {"ca_file": made.ca, "cert_file": made.cert, "key_file": made.key, "server_name": "broker.example"} | change
    return ["tls = true", *(f'{name} = "{text}"' for name, text in given.items() if text)]


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_a_broker_that_asks_for_certificates_gets_ours_and_is_known_by_its_name(
    secure: Mosquitto, made: Keys, version: str
) -> None:
    more = [*ours(made), f'version = "{version}"']
    async with listening(document(secure, f'topic = "t"\n{PLAIN}', *more)) as running:
        task = await connected(running)
        parameters = aiomqtt.TLSParameters(ca_certs=str(made.ca), certfile=str(made.cert), keyfile=str(made.key))
        client = {"tls_params": parameters, "tls_insecure": True}
        await publish(secure, *(("t", json.dumps({"n": n})) for n in range(60)), client=client)
        await until(lambda: column(running) == list(range(60)))
        await until(lambda: task.counters["acknowledged"] == 60)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"server_name": ""}, "certificate is not accepted: IP address mismatch"),
        ({"server_name": "other.example"}, "certificate is not accepted: Hostname mismatch"),
        ({"ca_file": ""}, "certificate is not accepted: self-signed certificate"),
    ],
)
async def test_a_broker_that_cannot_prove_who_it_is_gets_nothing(
    secure: Mosquitto, made: Keys, change: dict[str, str], why: str
) -> None:
    async with listening(document(secure, f'topic = "t"\n{PLAIN}', *ours(made, **change))) as running:
        task = task_of(running)
        await until(lambda: task.counters["broken"] >= 1, within_s=30)
        assert why in str(task.problem)


async def test_tls_to_a_port_that_speaks_none_is_told(broker: Mosquitto, made: Keys) -> None:
    async with listening(document(broker, f'topic = "t"\n{PLAIN}', *ours(made))) as running:
        task = task_of(running)
        await until(lambda: task.counters["broken"] >= 1, within_s=30)
        assert task.problem
        assert task.counters["connected"] == 0


def test_a_file_that_is_no_certificate_is_told_before_anything_runs(broker: Mosquitto, made: Keys) -> None:
    made.key.write_text("nonsense")
    config = from_toml("config_version = 1\n" + document(broker, f'topic = "t"\n{PLAIN}', *ours(made)))
    with pytest.raises(Misconfigured, match=r"broker hall: cert_file: .*plc\.crt"):
        sensors.build(config, clock=CLOCK, profiles=Profiles())


async def test_a_name_and_its_password_are_shown_to_the_broker(broker: Mosquitto, tmp_path: Path) -> None:
    broker.kill()
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    made = [require("mosquitto_passwd", "mosquitto"), "-c", "-b", str(passwords), "box", "sesame"]
    await asyncio.to_thread(subprocess.run, made, check=True)
    secret.touch(mode=0o600)
    secret.write_text("sesame\n")
    broker.start("allow_anonymous false", f"password_file {passwords}", "user root")
    more = ['username = "box"', f'password_file = "{secret}"']
    async with listening(document(broker, f'topic = "t"\n{PLAIN}', *more)) as running:
        await connected(running)
        await publish(broker, ("t", '{"n": 1}'), client={"username": "box", "password": "sesame"})
        await until(lambda: column(running) == [1])


# --- MQTT 5 ---------------------------------------------------------------------------------------------


async def test_with_mqtt_5_the_broker_keeps_what_was_said_while_we_were_away(broker: Mosquitto) -> None:
    text = document(broker, f'topic = "t"\n{PLAIN}', 'version = "5"')
    async with listening(text) as running:
        await connected(running)
        running.facts["it"].disk_works.clear()
        await publish(broker, *(("t", json.dumps({"n": n})) for n in range(50)))
        await until(lambda: column(running))
    async with listening(text) as running:
        task = await connected(running)
        await until(lambda: column(running) == list(range(50)))
        await until(lambda: task.counters["acknowledged"] == 51)  # and the marker
        assert running.facts["it"].losts == []
    async with listening(text) as running:
        await connected(running)
        await publish(broker, ("t", '{"n": 50}'))
        await until(lambda: column(running) == [50])


async def test_a_session_that_may_not_last_is_gone_and_that_is_a_gap(broker: Mosquitto) -> None:
    text = document(broker, f'topic = "t"\n{PLAIN}\nevery_s = 0.01', 'version = "5"', "session_h = 0.00028")
    broker.kill()
    broker.start("sys_interval 1")
    async with listening(text) as running:
        await connected(running)
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.subscribe("$SYS/broker/clients/expired")
        async for message in client.messages:
            if int(bytes(message.payload)) > 0:
                break
    await publish(broker, ("t", '{"n": 1}'))
    async with listening(text) as running:
        task = await connected(running)
        await publish(broker, ("t", '{"n": 2}'))
        await until(lambda: column(running) == [2])
        assert task.counters["again"] == 0


# --- topics ---------------------------------------------------------------------------------------------


async def test_any_gateway_that_hears_a_device_is_listened_to_and_told(broker: Mosquitto) -> None:
    text = document(broker, 'profile = "theengs-lywsd03mmc@1"\ndevice = "A4C138FFEE01"')
    async with listening(text) as running:
        await connected(running)
        said = {"tempc": 4.1, "hum": 71, "batt": 64, "volt": 2.81, "rssi": -77}
        other = ("home/hall-1/BTtoMQTT/A4C138000000", json.dumps(said))
        await publish(broker, other, *((f"home/hall-{n}/BTtoMQTT/A4C138FFEE01", json.dumps(said)) for n in (1, 2)))
        await until(lambda: column(running, 5) == ["hall-1", "hall-2"])


async def test_a_device_of_several_topics_is_one_sensor_and_its_last_will_is_no_reading(broker: Mosquitto) -> None:
    text = document(broker, 'profile = "shelly-1pm@1"\ndevice = "shelly1pm-BA1936"')
    made = sensors.build(from_toml("config_version = 1\n" + text), clock=CLOCK, profiles=Profiles())
    (sensor,), (task,) = made.sensors, made.tasks
    driver: Any = sensor.driver
    facts = ManyFacts()
    running = [asyncio.create_task(driver.run(facts)), asyncio.create_task(task.run())]  # type: ignore[arg-type]
    try:
        await until(lambda: task.problem() is None)
        base = "shellies/shelly1pm-BA1936"
        told = [("relay/0", "on"), ("relay/0/power", "61.73"), ("temperature", "45.1"), ("online", "false")]
        await publish(broker, *((f"{base}/{topic}", payload) for topic, payload in told))
        await until(lambda: driver.problem == "the broker says that it is offline")
        assert {group: [row.values for row in rows] for group, rows in facts.facts.items()} == {
            0: [(True,)], 1: [(6173,)], 3: [(4510,)]
        }  # fmt: skip
        await publish(broker, (f"{base}/online", "true"))
        await until(lambda: driver.problem is None)
        assert (driver.counters["offline"], driver.counters["online"], driver.counters["heard"]) == (1, 1, 3)
        assert [shape.period_ms for shape in driver.groups()] == [60_000] * 5
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_topics_within_one_another_are_asked_for_once_and_told_to_each(broker: Mosquitto) -> None:
    wide = f'topic = "plant/#"\n{PLAIN}\n[[sensor]]\nid = "narrow"\ndriver = "mqtt"\nbroker = "hall"\n'
    async with listening(document(broker, wide + f'topic = "plant/door"\n{PLAIN}')) as running:
        task = await connected(running)
        assert task._routes.filters == ["plant/#"]
        await publish(broker, ("plant/door", '{"n": 1}'), ("plant/gate/3", '{"n": 2}'))
        await until(lambda: column(running) == [1, 2])
        await until(lambda: running.facts["narrow"].column() == [1])
        assert task.counters["messages"] == 2


# --- time -----------------------------------------------------------------------------------------------


async def test_a_devices_own_time_goes_beside_the_row_and_a_wrong_clock_is_told(broker: Mosquitto) -> None:
    sensor = 'topic = "t"\neach = "/d"\ntime = { path = "/ts", format = "unix_ms" }\n' + PLAIN
    async with listening(document(broker, sensor)) as running:
        await connected(running)
        now = CLOCK.wall_ms()
        driver = running.driver["it"]
        assert driver.groups()[0].late_source
        await publish(broker, ("t", json.dumps({"d": [{"n": n, "ts": now - 3000 + n} for n in range(4)]})))
        await until(lambda: column(running) == [0, 1, 2, 3])
        rows = running.facts["it"].rows
        assert [row.device_ms for row in rows] == [now - 3000 + n for n in range(4)]
        assert len({row.mono_ms for row in rows}) == 4
        assert driver.problem is None
        for off_ms, counter, why in (
            (3 * 3_600_000, "clock_ahead", "its clock is 3 h ahead of this box's"),
            (-40 * 86_400_000, "clock_behind", "its clock is 40 days behind this box's"),
        ):
            await publish(broker, ("t", json.dumps({"d": [{"n": 9, "ts": now + off_ms}]})))
            await until(lambda counter=counter: driver.counters[counter] == 1)  # type: ignore[misc]
            assert driver.problem == why
        await publish(broker, ("t", '{"d": [{"n": 9}]}'))
        await until(lambda: driver.counters["no_time"] == 1)
        await publish(broker, ("t", json.dumps({"d": [{"n": 9, "ts": CLOCK.wall_ms()}]})))
        await until(lambda: driver.problem is None)


async def test_of_a_message_that_comes_again_only_the_rows_that_a_kill_cost_are_made(broker: Mosquitto) -> None:
    async with listening(document(broker, f'topic = "t"\neach = "/d"\n{PLAIN}')) as running:
        await connected(running)
        driver = running.driver["it"]
        payload = json.dumps({"d": [{"n": n} for n in range(4)]}).encode()
        again = Said("t", payload, len(payload), retained=False, behind=True, mono_ms=CLOCK.mono_ms())
        made = driver.message(driver.wanted[0], again, {"it/n": 3})
        assert column(running) == [3]
        assert (made.key, made.many, made.skipped, len(made.receipts)) == ("it/n", 1, 3, 1)
        assert running.facts["it"].rows[0].quality == (pb.QUALITY_STALE,)


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_an_enormous_message_is_counted_acknowledged_and_never_held_whole(
    broker: Mosquitto, version: str
) -> None:
    async with listening(document(broker, f'topic = "t"\n{PLAIN}', f'version = "{version}"')) as running:
        task = await connected(running)
        driver = running.driver["it"]
        sizes = [PACKET_BYTES - 20, PACKET_BYTES + 1, 3_000_000, 20_000_000]
        await publish(broker, ("t", '{"n": 1}'), *(("t", b"x" * size) for size in sizes), ("t", '{"n": 2}'))
        await until(lambda: column(running) == [1, 2], within_s=60)
        await until(lambda: task.counters["acknowledged"] == 6, within_s=30)
        assert driver.counters["refused_too_large"] == 4
        assert len(driver._parts[0].message.payload) <= 4096
        first, lost, second = running.facts["it"].all
        assert lost == (first.mono_ms, second.mono_ms, 4, pb.GAP_REFUSED)  # type: ignore[union-attr]


async def test_each_cause_has_its_counter_and_the_last_one_is_told_until_a_good_message(broker: Mosquitto) -> None:
    async with listening(document(broker, f'topic = "t"\n{PLAIN}')) as running:
        task = await connected(running)
        driver = running.driver["it"]
        wrong = [b"", b"{", b"\xff", b"[" * 60_000, b'{"n":1,"n":2}', b'{"x":1}', b'{"n":NaN}']
        await publish(broker, *(("t", payload) for payload in wrong))
        await until(lambda: task.counters["acknowledged"] == len(wrong))
        found = {name.removeprefix("refused_"): count for name, count in driver.counters.items() if "refused_" in name}
        assert found == {
            "empty": 1, "not_json": 1, "not_text": 1, "too_deep": 1, "duplicate_name": 1, "nothing_wanted": 2
        }  # fmt: skip
        assert driver.problem == "a message on t can't be read: none of the wanted values is in the message"
        await publish(broker, ("t", '{"n": 3}'))
        await until(lambda: driver.problem is None)


async def test_what_can_not_be_decoded_does_not_come_again(broker: Mosquitto) -> None:
    text = document(broker, f'topic = "t"\n{PLAIN}')
    async with listening(text) as running:
        task = await connected(running)
        await publish(broker, ("t", "{"))
        await until(lambda: task.counters["acknowledged"] == 1)
    async with listening(text) as running:
        task = await connected(running)
        await until(lambda: task.counters["acknowledged"] == 1)  # the marker
        assert running.driver["it"].counters["heard"] == 0


async def test_too_many_messages_that_no_broker_keeps_are_dropped_and_counted(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_broker, "WAITING_MOST", 5)
    async with listening(document(broker, f'topic = "t"\n{PLAIN}')) as running:
        task = await connected(running)
        facts = running.facts["it"]
        facts.disk_works.clear()
        await publish(broker, ("t", '{"n": 0}'))
        await until(lambda: column(running) == [0])
        await publish(broker, *(("t", json.dumps({"n": n})) for n in range(1, 21)), qos=0)
        await until(lambda: task.counters["overflowed"] == 15)
        facts.disk_works.set()
        await until(lambda: column(running) == [0, 1, 2, 3, 4, 5])
        await publish(broker, ("t", '{"n": 21}'))
        await until(lambda: column(running)[-1] == 21)
        assert sum(lost.reads for lost in facts.losts if lost.reason == pb.GAP_QUEUE_FULL) == 15


class Liar:
    """A broker that says what it likes once it has been greeted."""

    def __init__(self, *says: bytes) -> None:
        self.says = says
        self.greeted = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await reader.read(1024)
            self.greeted += 1
            for said in self.says:
                writer.write(said)
                await writer.drain()
                await asyncio.sleep(0.02)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x04\x00\x01\x01\x01"
HALF = b"\x32\x20\x00\x01t\x00\x05{"
NO_UTF8 = b"\x32\x0b\x00\x01\xff\x00\x05" + b'{"n":1'


@pytest.mark.parametrize(
    "says",
    [
        (b"",),
        (CONNACK[:2],),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (CONNACK, SUBACK, HALF),
        (CONNACK, SUBACK, NO_UTF8),
        (CONNACK, SUBACK, b"\xf0\xff\xff\xff\xff\xff"),
        (CONNACK, SUBACK, b"\x32\x02\x00\x09"),
    ],
)
async def test_a_broker_that_breaks_off_or_talks_nonsense_is_tried_again(says: tuple[bytes, ...]) -> None:
    liar = Liar(*says)
    server = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = f'[[broker]]\nid = "hall"\nhost = "127.0.0.1"\nport = {port}\n[[sensor]]\nid = "it"\ndriver = "mqtt"\n'
    async with listening(text + f'broker = "hall"\ntopic = "t"\n{PLAIN}') as running:
        await until(lambda: liar.greeted >= 2, within_s=30)
        assert not any(task.done() for task in running.tasks)
        assert column(running) == []
    server.close()
    await liar.end()
    await server.wait_closed()
