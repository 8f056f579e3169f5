"""One stream to the control plane, made again for ever.

A connection: Hello → Welcome (the server's word on what it holds) → declares and batches up, acks down. It is given
up when something is under way and nothing was acknowledged for as long as `Progress` has patience (a half-open link is
found by lack of progress), when the server says goodbye, or when the transport breaks. The sensors never notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import grpc
import structlog

from gateway.backoff import Backoff
from gateway.buffer.buffer import Buffer
from gateway.cancelling import apart
from gateway.clock import Clock
from gateway.errors import Misconfigured, Retryable
from gateway.uplink.anchors import Anchors
from gateway.uplink.configuration import Commanded, Configuration, NoCommands
from gateway.uplink.greeting import Dismissed, Greeting, Paused, dismissed, received, welcome
from gateway.uplink.health import LinkHealth
from gateway.uplink.policy import Leave, leave
from gateway.uplink.progress import Progress
from gateway.uplink.sender import Sender, Write
from gateway.uplink.spending import SAVE_AT_BYTES, Spending
from gateway.uplink.tunnel import LOCAL, host_port, reach, tunnel
from gateway.uplink.ways import Ways
from protos.columns import BodyError, Dictionary
from protos.comboio.v1 import link_pb2 as wire
from protos.config import UplinkSection, Via

METHOD = "/comboio.v1.Link/Connect"
WELCOME_TIMEOUT_S = 15.0
HEARTBEAT_EVERY_S = 10.0
FACTS_EVERY_S = 60.0
LONG_AWAY_S = 600.0
LOOK_FOR_BETTER_S = 60.0
MAX_MESSAGE_BYTES = 20 << 20
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.primary_user_agent", "comboio-gateway"),
    ("grpc.enable_retries", 0),
)

log = structlog.get_logger("gateway.uplink")
Call = grpc.aio.StreamStreamCall[wire.Uplink, wire.Downlink]


class Endpoint(Protocol):
    """Where to connect and as whom; certificates change while the daemon runs."""

    async def before_connecting(self) -> tuple[str, grpc.ChannelCredentials]:
        """(host:port, credentials) for the next attempt."""

    def connected(self) -> None:
        """Welcome came."""

    def failed(self) -> None:
        """The attempt ended before Welcome."""


class Link:
    """The uplink. `run()` is supervised and ends only by cancellation."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        clock: Clock,
        settings: UplinkSection,
        endpoint: Endpoint,
        set_batch_interval: Callable[[float], None],
        anchors: Anchors,
        version: Callable[[], str],
        configuration: Configuration,
        spending: Spending,
        sensors_silent: Callable[[], int] = lambda: 0,
        commands: Commanded | None = None,
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._settings = settings
        self._endpoint = endpoint
        self._set_batch_interval = set_batch_interval
        self._anchors = anchors
        self._configuration = configuration
        self._commands = commands or NoCommands()
        self._greeting = Greeting(
            buffer=buffer,
            clock=clock,
            anchors=anchors,
            configuration=configuration,
            version=version,
            sensors_silent=sensors_silent,
        )
        self._spending = spending
        self._ways = Ways(settings.via, clock=clock)
        self._via: Via | None = None
        self._paced_s = settings.batch_interval_s
        self._progress = Progress(cap_s=settings.ack_timeout_s)
        self._backoff = Backoff()
        self._away_since_ms = clock.mono_ms()
        self._not_reached = ""
        self.health = LinkHealth()

    async def run(self) -> None:
        await asyncio.sleep(self._backoff.next_s() / 3)  # a fleet that boots together does not knock together
        while True:
            delay_s = 0.0
            try:
                await apart(self._connection)
            except* Retryable as group:
                error = _first(group)
                delay_s = (error.after_s or 0.0) if isinstance(error, Retryable) else 0.0
                self.health.paused = self.health.paused or isinstance(error, Paused)
                self._failed(str(error), by_the_way=not isinstance(error, Dismissed))
            except* grpc.aio.AioRpcError as group:
                self._failed(self._not_reached or _sentence(_first(group)))
            except* (OSError, Misconfigured) as group:
                self._failed(str(_first(group)))
            self._away()
            # on top of what the server said: it says the same to everybody
            await asyncio.sleep(delay_s + self._backoff.next_s())

    def _away(self) -> None:
        """Nobody waits for batches after a long outage: larger ones take a third of the space."""
        now_ms = self._clock.mono_ms()
        if self.health.connected:
            self._away_since_ms = now_ms
        if self._via is not None and self.health.connected_since_ms is not None:
            self._ways.carried_for(self._via, now_ms - self.health.connected_since_ms)
        self.health.connected = False
        self.health.connected_since_ms = None
        long = now_ms - self._away_since_ms >= LONG_AWAY_S * 1000
        self._paced_s = max(self._settings.batch_interval_s, LONG_AWAY_S if long else 0.0)
        self._set_batch_interval(max(self._paced_s, self._leave().interval_s))

    def _failed(self, why: str, *, by_the_way: bool = True) -> None:
        self.health.last_error = why
        if by_the_way and self._via is not None:
            self._ways.failed(self._via)
        if not self.health.connected:
            self._endpoint.failed()
        log.warning("link.down", why=why, **({"via": self._via.id} if self._via else {}))

    async def _connection(self) -> None:
        self._via, self._not_reached = None, ""
        address, credentials = await self._endpoint.before_connecting()
        self._via = self._ways.choose()
        self.health.server = address
        async with (
            self._road(address) as (target, options),
            grpc.aio.secure_channel(target, credentials, options=(*CHANNEL_OPTIONS, *options)) as channel,
        ):
            method = channel.stream_stream(
                METHOD,
                request_serializer=wire.Uplink.SerializeToString,
                response_deserializer=wire.Downlink.FromString,
            )
            call: Call = method()  # type: ignore[assignment]  # the stubs infer the serializer's base class
            try:
                await self._conversation(call)
            except* asyncio.InvalidStateError:  # a write after the call had ended: how it ended is what counts
                raise Retryable(f"{(await call.code()).name}: {await call.details()}") from None
            finally:
                call.cancel()

    @asynccontextmanager
    async def _road(self, address: str) -> AsyncIterator[tuple[str, Sequence[tuple[str, int | str]]]]:
        """Where gRPC connects to, and what it must be told so that it still demands the server's own certificate."""
        via = self._via
        self._told(self._leave())
        if via is None:
            yield address, ()
            return
        try:
            host, _ = host_port(address)
        except ValueError:
            raise Misconfigured(f"uplink.server: {address!r} is not host:port") from None

        def unreachable(error: OSError) -> None:
            self._not_reached = f"{address} by {via.id}: {error or 'no answer'}"

        counted = functools.partial(self._spending.add, via.id)
        try:
            async with tunnel(address, via, carried=counted, unreachable=unreachable) as port:
                yield (
                    f"{LOCAL}:{port}",
                    (("grpc.ssl_target_name_override", host), ("grpc.default_authority", address)),
                )
        finally:
            with contextlib.suppress(OSError):
                self._spending.save()

    async def _conversation(self, call: Call) -> None:
        asked = self._clock.mono_ms()
        hello = await self._greeting.hello()
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await call.write(wire.Uplink(hello=hello))
                answer = welcome(await call.read())
        except TimeoutError:
            raise Retryable("the server did not answer Hello") from None
        self._anchors.from_server(asked_mono_ms=asked, server_ms=answer.server_ms)
        await self._agree(answer)
        lock = asyncio.Lock()

        async def write(message: wire.Uplink) -> None:
            async with lock:
                await call.write(message)

        sender = self._sender(answer, write)
        self.health.connected = True
        self.health.connected_since_ms = self._clock.mono_ms()
        self.health.connections += 1
        log.info("link.up", session=answer.session, **({"via": self._via.id} if self._via else {}))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.run(), name="uplink.send")
            tasks.create_task(self._read(call, sender, write), name="uplink.read")
            tasks.create_task(self._watch(sender), name="uplink.watch")
            tasks.create_task(self._heartbeat(sender, write), name="uplink.heartbeat")
            tasks.create_task(self._configure(write), name="uplink.configuration")
            if self._via is not None:
                tasks.create_task(self._look_for_better(self._via), name="uplink.better")

    async def _agree(self, answer: wire.Welcome) -> None:
        """Go on where the server is, or begin the epoch that it orders and say Hello again."""
        self._endpoint.connected()
        self.health.paused = False
        if answer.new_epoch:
            await self._buffer.begin_epoch(received(answer.lanes))
            raise Dismissed("the server had this store begin a new epoch")
        await self._buffer.welcomed(answer.session, received(answer.lanes))

    def _sender(self, answer: wire.Welcome, write: Write) -> Sender:
        self._progress.connected()
        sender = Sender(
            buffer=self._buffer,
            write=write,
            window=min(self._settings.window, answer.limits.max_inflight or self._settings.window),
            known_schema=answer.schema,
            clock=self._clock,
            progress=self._progress,
            may_send=lambda: self._leave().telemetry,
        )
        self._paced_s = self._settings.batch_interval_s
        self._pace(answer.pace, sender)
        return sender

    async def _read(self, call: Call, sender: Sender, write: Write) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, wire.Downlink):
                raise Retryable("the server closed the stream")
            await self._answer(message, sender, write)

    async def _answer(self, message: wire.Downlink, sender: Sender, write: Write) -> None:
        kind = message.WhichOneof("msg")
        if kind == "ack":
            before = sender.acked_batches
            await sender.acknowledged(message.ack.lanes)
            if message.ack.need_schema:
                sender.repeat_declares()
            if message.ack.need_dictionaries:
                sender.supply(message.ack.need_dictionaries)
            if sender.acked_batches > before:
                self._backoff.reset()
                self.health.acked_batches += sender.acked_batches - before
                self.health.last_ack_ms = self._clock.mono_ms()
        elif kind == "reject":
            await sender.rejected(message.reject)
        elif kind == "dictionary":
            await self._learn(message.dictionary)
        elif kind == "pace":
            self._pace(message.pace, sender)
        elif kind == "config_offer":
            self._configuration.offered(message.config_offer)
        elif kind == "goodbye":
            raise dismissed(message.goodbye, "the server said goodbye")
        elif kind == "command":
            refused = self._commands.commanded(message.command)
            if refused is not None:  # answered, so that nobody waits
                await write(wire.Uplink(command_result=refused))

    async def _learn(self, said: wire.Dictionary) -> None:
        """Without it all goes on as before, and the next Hello shows that it isn't here."""
        try:
            await self._buffer.learn(Dictionary(said.data, said.sha256), schema=said.schema)
        except (BodyError, OSError) as error:
            log.warning("dictionary.refused", error=str(error))

    async def _configure(self, write: Write) -> None:
        """Say which document runs, whole, at once and whenever it changed; and what becomes of offers."""
        told = None
        async for statements in self._configuration.heard():
            for status in statements:
                await write(wire.Uplink(config_status=status))
            effective = self._configuration.effective_config()
            if effective != told:
                await write(wire.Uplink(effective_config=effective))
                told = effective

    def _pace(self, pace: wire.Pace, sender: Sender) -> None:
        if pace.batch_interval_ms:
            self._paced_s = pace.batch_interval_ms / 1000
        sender.pace(pace, most=self._settings.window)
        self._told(self._leave())

    def _leave(self) -> Leave:
        """What may go by the way that is taken, now."""
        via = self._via
        if via is None:
            return Leave()
        return leave(via, used_bytes=self._spending.of(via.id), wall_ms=self._clock.wall_ms())

    def _told(self, now: Leave) -> None:
        """Keep to it, and say so."""
        via, health = self._via, self.health
        if now.why != health.held_back and not now.telemetry:
            log.warning("telemetry.held_back", why=now.why)
        health.via, health.held_back = via.id if via else "", now.why
        health.day_limit_bytes = round(via.daily_mb * 1e6) if via else 0
        health.day_bytes = self._spending.of(via.id) if via and via.daily_mb else 0
        self._set_batch_interval(max(self._paced_s, now.interval_s))

    async def _watch(self, sender: Sender) -> None:
        """Give the connection up when what was sent is not acknowledged; keep to what the link's policy allows."""
        before_bytes = self.health.sent_bytes
        while True:
            patience_s = self._progress.patience_s
            await asyncio.sleep(min(1.0, patience_s / 4))
            self.health.sent_bytes = before_bytes + sender.sent_bytes
            if sender.stalled_ms() > patience_s * 1000:
                self._progress.gave_up()
                raise Retryable(f"no acknowledgement for {patience_s:.3g} s; the link is dead")
            if self._via is not None:
                self._told(self._leave())
                await self._remember_bytes(self._via)

    async def _remember_bytes(self, via: Via) -> None:
        """Durably, a hundred times a day at most."""
        if via.daily_mb:
            at_bytes = max(SAVE_AT_BYTES, round(via.daily_mb * 1e4))
            with contextlib.suppress(OSError):  # a full disk has other voices; the bytes are counted in memory on
                await asyncio.to_thread(self._spending.save, at_bytes=at_bytes)

    async def _look_for_better(self, current: Via) -> None:
        """Go back to a preferred way once it has been reachable several times in a row."""
        while True:
            await asyncio.sleep(LOOK_FOR_BETTER_S * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load
            for via in self._ways.better(current):
                if self._ways.looked(via, reached=await self._reachable(via)):
                    raise Dismissed(f"{via.id} can be reached again; leaving {current.id}")

    async def _reachable(self, via: Via) -> bool:
        try:
            _, writer = await reach(self.health.server, via)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def _heartbeat(self, sender: Sender, write: Write) -> None:
        """At once, then on silence; and while batches flow as often as the facts that they don't carry are due."""
        sent, said_ms = sender.sent_batches, None
        costly = self._via is not None and self._via.policy != "free"
        while True:
            now_ms = self._clock.mono_ms()
            if said_ms is None or sender.sent_batches == sent or now_ms - said_ms >= FACTS_EVERY_S * 1000:
                await write(wire.Uplink(heartbeat=self._greeting.heartbeat()))
                said_ms = now_ms
            sent = sender.sent_batches
            await asyncio.sleep(FACTS_EVERY_S if costly else HEARTBEAT_EVERY_S)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _sentence(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        with contextlib.suppress(Exception):
            return f"{error.code().name}: {error.details()}"
    return str(error)
