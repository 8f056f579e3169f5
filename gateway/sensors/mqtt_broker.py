"""One broker: connects, subscribes, hands messages to their sensors, acknowledges what is durable.

Invariants
1. A message is acknowledged after its rows are durable, in the order of receipt, on the connection it came on.
2. A message that the broker sends again, because the connection broke before our acknowledgement reached it, is not
   emitted twice: what was taken on the last connections is remembered, by a killed gateway too (`mqtt_memory`).
3. A message nobody can read is acknowledged: it must not stop the others.

While we are away the broker keeps messages for us (QoS 1, persistent session), and whoever reads them later can't know
their age. They end where a marker comes back that we publish to ourselves on reconnecting; before it all is `behind`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import aiomqtt
import structlog

from gateway.backoff import Backoff
from gateway.cancelling import apart
from gateway.clock import Clock
from gateway.errors import Misconfigured, Rejected
from gateway.reading import Receipt
from gateway.sensors.mqtt import MqttSensor, Said
from gateway.sensors.mqtt_client import AckingClient, Delivery
from gateway.sensors.mqtt_memory import REMEMBERED, Key, MqttMemory, Rows
from gateway.sensors.mqtt_topics import Routes
from protos.config import Broker as BrokerOptions

QOS = 1
REFUSED = 128
LINGER_S = 0.05
"""Messages of this long are made durable by one write to the disk."""
BEHIND_MOST_S = 60.0
"""Where the marker may not be published, everything is taken for current after this long."""
STEADY_S = 60.0
WAITING_MOST, WAITING_BYTES = 10_000, 16 << 20
"""Beyond either, messages of QoS 0 are dropped: no broker keeps them. Of others the broker's own limit holds."""

log = structlog.get_logger("gateway.mqtt")


class Waiting(NamedTuple):
    """A message and when it came, until it is handed over."""

    delivery: Delivery
    mono_ms: int


class MqttBroker:
    """A supervised task. `sensors` join it by running; it connects once all of them do."""

    def __init__(
        self,
        *,
        options: BrokerOptions,
        client_id: str,
        password: str | None,
        clock: Clock,
        memory: MqttMemory | None = None,
        backoff: Backoff | None = None,
        behind_most_s: float = BEHIND_MOST_S,
    ) -> None:
        self.problem: str | None = "not connected yet"
        self.counters: Counter[str] = Counter()
        self.sensors: list[MqttSensor] = []
        """Set by the builder; their topics are subscribed to."""
        self._routes = Routes(())
        self._by_id: dict[str, MqttSensor] = {}
        self._options = options
        self._client_id = client_id
        self._password = password
        self._clock = clock
        self._memory = memory
        self._backoff = backoff or Backoff(base_s=0.5, cap_s=60.0)
        self._behind_most_ms = round(behind_most_s * 1000)
        self._marker_topic = f"comboio/{client_id}/marker"
        self._running: set[MqttSensor] = set()
        self._all_run = asyncio.Event()
        self._connection = 0
        self._subscribed = False
        self._refused: list[str] = []
        """Topics that the broker doesn't let us have."""
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._taken: OrderedDict[Key, tuple[int, Sequence[Receipt]]] = OrderedDict()
        self._behind_until_ms = 0
        self._marker = b""

    @contextmanager
    def joined(self, sensor: MqttSensor) -> Iterator[None]:
        """While it runs, a sensor is told of its messages."""
        self._running.add(sensor)
        if len(self._running) == len(self.sensors):
            self._all_run.set()
        try:
            yield
        finally:
            self._running.discard(sensor)
            self._all_run.clear()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        try:
            await self._stay_connected()
        finally:
            if self._memory is not None:
                self._memory.close()

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        self._by_id = {sensor.id: sensor for sensor in self.sensors}
        self._routes = Routes(wanted for sensor in self.sensors for wanted in sensor.wanted)
        while True:
            await self._all_run.wait()
            if self._memory is not None:
                self._memory.open()
            began = loop.time()
            try:
                why = await apart(self._connect)  # what waits inside may fail as it is cancelled, and tell only that
            except aiomqtt.MqttError as error:
                why = _in_words(error)
            except Misconfigured as error:
                why = str(error)
            finally:
                for sensor in self.sensors:
                    sensor.deaf(self._clock.mono_ms())
            if loop.time() - began > STEADY_S:
                self._backoff.reset()
            if why != self.problem:
                log.warning("mqtt.away", broker=self._options.id, why=why)
            self.problem = why
            self.counters["broken"] += 1
            await asyncio.sleep(self._backoff.next_s())

    async def _connect(self) -> str:
        """One connection's life; returns why we ended it ourselves. Raises MqttError when it broke."""
        options = self._options
        client = AckingClient(options, client_id=self._client_id, password=self._password)
        async with client.connected():
            self._connection += 1
            if not client.session_kept:
                self._taken.clear()
                if self._memory is not None:
                    self._memory.forget()
            news = asyncio.Event()
            tasks = [asyncio.create_task(self._receive(client, news), name=f"mqtt.{options.id}.receive")]
            try:
                await self._welcome(client)
                # Only now: no row may come before the end of the gap that the welcome closes.
                tasks.append(asyncio.create_task(self._settle(client, news), name=f"mqtt.{options.id}.settle"))
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return next(iter(done)).result() or "it ended by itself"
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._waiting.clear()  # they come again, on the next connection
                self._waiting_bytes = 0

    async def _welcome(self, client: AckingClient) -> None:
        """Subscribe, unless the broker kept what this process subscribed to: it would repeat retained messages."""
        now_ms = self._clock.mono_ms()
        self._behind_until_ms = now_ms + self._behind_most_ms if client.session_kept else 0
        if not (client.session_kept and self._subscribed):
            await self._subscribe(client)
        if client.session_kept:
            self._marker = secrets.token_hex(8).encode()
            await client.publish(self._marker_topic, self._marker, qos=QOS)
        for sensor in self.sensors:
            sensor.hears(self._clock.mono_ms(), kept=client.session_kept)
        self.problem = f"the broker refuses us {', '.join(self._refused)}" if self._refused else None
        self.counters["connected"] += 1
        log.info("mqtt.connected", broker=self._options.id, number=self._connection, session=client.session_kept)

    async def _subscribe(self, client: AckingClient) -> None:
        topics = [*self._routes.filters, self._marker_topic]
        refused: list[str] = []
        codes = await client.subscribe([(topic, QOS) for topic in topics])
        for topic, code in zip(topics, codes, strict=True):
            if int(getattr(code, "value", code)) >= REFUSED:  # type: ignore[call-overload]
                self.counters["refused_topics"] += 1
                refused.append(topic)
                log.error("mqtt.refused", broker=self._options.id, topic=topic)
        self._refused = refused
        self._subscribed = True

    # --- messages -----------------------------------------------------------------------------------

    @property
    def waiting_since(self) -> int | None:
        """mono_ms of the oldest message that has not been handed over."""
        return self._waiting[0].mono_ms if self._waiting else None

    async def _receive(self, client: AckingClient, news: asyncio.Event) -> str:
        async for delivery in client.deliveries():
            now_ms = self._clock.mono_ms()
            full = len(self._waiting) >= WAITING_MOST or self._waiting_bytes >= WAITING_BYTES
            if full and not delivery.qos:
                self.counters["overflowed"] += 1
                for wanted in self._routes.of(delivery.topic):
                    self._by_id[wanted.sensor].overflowed(wanted, now_ms)
                continue
            self._waiting.append(Waiting(delivery, now_ms))
            self._waiting_bytes += len(delivery.payload)
            news.set()
        return "the messages ended"

    async def _settle(self, client: AckingClient, news: asyncio.Event) -> str:
        """Hand over what waits, make it durable, acknowledge it: with as little time between as there can be.

        A gateway killed after the rows were written and before the broker heard of it is sent them once more.
        """
        while True:
            await news.wait()
            await asyncio.sleep(LINGER_S)
            news.clear()
            if not self._all_run.is_set():
                return "a sensor stopped; what it was not told comes again"
            made = self._hand_over_all()
            for delivery, receipts in made:
                for receipt in receipts:
                    try:
                        await receipt.durable()
                    except Rejected:
                        self.counters["dropped"] += 1  # the buffer's own gap says so
                client.acknowledge(delivery)
                self.counters["acknowledged"] += 1
                self._backoff.reset()

    def _hand_over_all(self) -> list[tuple[Delivery, Sequence[Receipt]]]:
        """What waits, as rows; without giving way to the task that writes them."""
        fresh: dict[Key, dict[str, Rows]] = {}
        made = [self._hand_over(one, fresh) for one in self._waiting]
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._memory is not None:
            self._memory.write(fresh)
        return made

    def _hand_over(self, one: Waiting, fresh: dict[Key, dict[str, Rows]]) -> tuple[Delivery, Sequence[Receipt]]:
        delivery = one.delivery
        key = (delivery.mid, delivery.topic, blake2b(delivery.payload, digest_size=16).digest())
        known = self._taken.get(key) if delivery.again else None
        receipts: Sequence[Receipt] = ()
        if known is not None:
            receipts = known[1]
            self.counters["again"] += 1
        elif delivery.again and self._memory is not None and self._memory.known(key):
            self.counters["again"] += 1
        else:
            already = self._memory.recovered(key) if delivery.again and self._memory is not None else {}
            receipts, rows = self._rows(one, already)
            if rows and delivery.qos:
                fresh[key] = rows
        if delivery.qos:
            self._taken[key] = (self._connection, receipts)
            self._taken.move_to_end(key)
            if len(self._taken) > REMEMBERED:
                self._taken.popitem(last=False)
        return delivery, receipts

    def _caught_up(self) -> None:
        """All that the broker had to send again has come by now."""
        self._behind_until_ms = 0
        for key in [key for key, (connection, _) in self._taken.items() if connection != self._connection]:
            del self._taken[key]

    def _rows(self, one: Waiting, already: Mapping[str, int]) -> tuple[list[Receipt], dict[str, Rows]]:
        """The rows of a message; `already`: how many of them, per group, the buffer has from a process before."""
        self.counters["messages"] += 1
        delivery = one.delivery
        if delivery.topic == self._marker_topic:
            if delivery.payload == self._marker:
                self._caught_up()
            return [], {}
        behind = delivery.again or one.mono_ms < self._behind_until_ms
        said = Said(delivery.topic, delivery.payload, delivery.size, delivery.retain, behind, one.mono_ms)
        wishes = self._routes.of(delivery.topic)
        if not wishes:
            self.counters["unknown_topic"] += 1  # of a configuration before this one
        receipts: list[Receipt] = []
        rows: dict[str, Rows] = {}
        for wanted in wishes:
            made = self._by_id[wanted.sensor].message(wanted, said, already)
            if made is not None:
                receipts += made.receipts
                rows[made.key] = Rows(made.first_ms, made.many, made.skipped)
        return receipts, rows


def _in_words(error: aiomqtt.MqttError) -> str:
    """For a technician, who may mend it."""
    said = "the connection broke" if error.__cause__ else str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("verify failed: ")[2].partition(" (_ssl")[0]
        return f"its certificate is not accepted: {reason or said}"
    if "WRONG_VERSION_NUMBER" in said or "record layer" in said:
        return "it doesn't speak TLS at this port"
    return said
