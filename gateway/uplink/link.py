"""One stream to the control plane, made again for ever.

A connection: Hello → Welcome (the server's word on what it holds) → declares and batches up, acks down. It is given
up when nothing sent is acknowledged within `ack_timeout_s` (a half-open link is found by lack of progress), when the
server says goodbye, or when the transport breaks. The sensors never notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
import structlog

from gateway.backoff import Backoff
from gateway.buffer.buffer import Buffer, LaneView
from gateway.cancelling import apart
from gateway.clock import Clock
from gateway.errors import Misconfigured, Retryable
from gateway.uplink.anchors import Anchors
from gateway.uplink.configuration import Configuration
from gateway.uplink.sender import Sender, Write
from protos.columns import BodyError, Dictionary
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.config import UplinkSection

PROTOCOL = 1
METHOD = "/comboio.v1.Link/Connect"
WELCOME_TIMEOUT_S = 15.0
HEARTBEAT_EVERY_S = 10.0
FACTS_EVERY_S = 60.0
LONG_AWAY_S = 600.0
MAX_MESSAGE_BYTES = 20 << 20
CHANNEL_OPTIONS = (
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


@dataclass(slots=True)
class LinkHealth:
    """What a person asks of the link."""

    connected: bool = False
    connected_since_ms: int | None = None
    """Monotonic."""
    server: str = ""
    """Where the last attempt went."""
    connections: int = 0
    last_error: str = ""
    acked_batches: int = 0
    sent_bytes: int = 0


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
        sensors_silent: Callable[[], int] = lambda: 0,
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._settings = settings
        self._endpoint = endpoint
        self._set_batch_interval = set_batch_interval
        self._anchors = anchors
        self._version = version
        self._configuration = configuration
        self._sensors_silent = sensors_silent
        self._backoff = Backoff()
        self._away_since_ms = clock.mono_ms()
        self.health = LinkHealth()

    async def run(self) -> None:
        await asyncio.sleep(self._backoff.next_s() / 3)  # a fleet that boots together does not knock together
        while True:
            delay_s = None
            try:
                await apart(self._connection)
            except* Retryable as group:
                error = _first(group)
                delay_s = error.after_s if isinstance(error, Retryable) else None
                self._failed(str(error))
            except* grpc.aio.AioRpcError as group:
                error = _first(group)
                self._failed(_sentence(error))
            except* (OSError, Misconfigured) as group:
                self._failed(str(_first(group)))
            self._away()
            await asyncio.sleep(max(delay_s or 0.0, self._backoff.next_s()))

    def _away(self) -> None:
        """Nobody waits for batches after a long outage: larger ones take a third of the space."""
        now_ms = self._clock.mono_ms()
        if self.health.connected:
            self._away_since_ms = now_ms
        self.health.connected = False
        self.health.connected_since_ms = None
        long = now_ms - self._away_since_ms >= LONG_AWAY_S * 1000
        interval_s = self._settings.batch_interval_s
        self._set_batch_interval(max(interval_s, LONG_AWAY_S) if long else interval_s)

    def _failed(self, why: str) -> None:
        self.health.last_error = why
        if not self.health.connected:
            self._endpoint.failed()
        log.warning("link.down", why=why)

    async def _connection(self) -> None:
        address, credentials = await self._endpoint.before_connecting()
        self.health.server = address
        async with grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
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

    async def _conversation(self, call: Call) -> None:
        asked = self._clock.mono_ms()
        hello = await self._hello()
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await call.write(wire.Uplink(hello=hello))
                welcome = _welcome(await call.read())
        except TimeoutError:
            raise Retryable("the server did not answer Hello") from None
        if welcome.new_epoch:
            raise Retryable("the server asks for a new epoch, which this version can't start", after_s=60.0)
        self._anchors.from_server(asked_mono_ms=asked, server_ms=welcome.server_ms)
        lock = asyncio.Lock()

        async def write(message: wire.Uplink) -> None:
            async with lock:
                await call.write(message)

        window = min(self._settings.window, welcome.limits.max_inflight or self._settings.window)
        sender = Sender(buffer=self._buffer, write=write, window=window, known_schema=welcome.schema)
        self._set_batch_interval(self._settings.batch_interval_s)
        self._pace(welcome.pace, sender)
        await sender.acknowledged(welcome.lanes)
        self.health.connected = True
        self.health.connected_since_ms = self._clock.mono_ms()
        self.health.connections += 1
        self._endpoint.connected()
        log.info("link.up", session=welcome.session)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.run(), name="uplink.send")
            tasks.create_task(self._read(call, sender, write), name="uplink.read")
            tasks.create_task(self._watch(sender), name="uplink.watch")
            tasks.create_task(self._heartbeat(sender, write), name="uplink.heartbeat")
            tasks.create_task(self._configure(write), name="uplink.configuration")

    async def _hello(self) -> wire.Hello:
        opening = self._buffer.opening
        views = await self._buffer.views()
        schemas = await self._buffer.schemas()
        return wire.Hello(
            protocol=PROTOCOL,
            epoch=opening.epoch,
            opens=opening.opens,
            boot=opening.boot,
            boot_id=opening.boot_id,
            lanes=[_lane_state(view) for view in views],
            schema=schemas[-1].schema if schemas else 0,
            dictionaries=self._buffer.dictionaries(),
            codecs=[pb.CODEC_NONE, pb.CODEC_ZSTD, pb.CODEC_ZSTD_DICT],
            mono_ms=self._clock.mono_ms(),
            wall_ms=self._clock.wall_ms(),
            clock=self._anchors.state(),
            running=self._configuration.running(),
            version=await asyncio.to_thread(self._version),
            run_id=opening.run_id,
        )

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
        elif kind == "reject":
            await sender.rejected(message.reject)
        elif kind == "dictionary":
            await self._learn(message.dictionary)
        elif kind == "pace":
            self._pace(message.pace, sender)
        elif kind == "config_offer":
            self._configuration.offered(message.config_offer)
        elif kind == "goodbye":
            text = message.goodbye.text or wire.GoodbyeReason.Name(message.goodbye.reason)
            raise Retryable(f"the server said goodbye: {text}", after_s=message.goodbye.return_after_ms / 1000)
        else:
            await _refuse_politely(message, write)

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
            self._set_batch_interval(pace.batch_interval_ms / 1000)
        if pace.window:
            sender.window = min(pace.window, self._settings.window)

    async def _watch(self, sender: Sender) -> None:
        """Give the connection up when what was sent is not acknowledged."""
        quiet_since, seen = self._clock.mono_ms(), (-1, 0)
        before_bytes = self.health.sent_bytes
        while True:
            await asyncio.sleep(min(1.0, self._settings.ack_timeout_s / 4))
            self.health.sent_bytes = before_bytes + sender.sent_bytes
            now, state = self._clock.mono_ms(), (sender.acked_batches, min(1, sender.in_flight))
            if not sender.in_flight or state != seen:
                quiet_since, seen = now, state
            elif now - quiet_since > self._settings.ack_timeout_s * 1000:
                raise Retryable(f"no acknowledgement for {self._settings.ack_timeout_s:.0f} s; the link is dead")

    async def _heartbeat(self, sender: Sender, write: Write) -> None:
        """At once, then on silence; and while batches flow as often as the facts that they don't carry are due."""
        sent, said_ms = sender.sent_batches, None
        while True:
            now_ms = self._clock.mono_ms()
            if said_ms is None or sender.sent_batches == sent or now_ms - said_ms >= FACTS_EVERY_S * 1000:
                await write(wire.Uplink(heartbeat=self._heartbeat_message()))
                said_ms = now_ms
            sent = sender.sent_batches
            await asyncio.sleep(HEARTBEAT_EVERY_S)

    def _heartbeat_message(self) -> wire.Heartbeat:
        usage = self._buffer.usage()
        lanes = [
            wire.LaneComplete(
                lane=said.lane, seq=said.seq, complete_to=wire.CompleteTo(boot=said.boot, mono_ms=said.mono_ms)
            )
            for said in self._buffer.completeness()
        ]
        backlog = wire.Backlog(
            batches=usage.waiting_batches, bytes=usage.waiting_bytes, oldest_wall_ms=usage.oldest_waiting_ms
        )
        return wire.Heartbeat(
            lanes=lanes,
            backlog=backlog,
            running=self._configuration.running(),
            clock=self._anchors.state(),
            sensors_silent=self._sensors_silent(),
        )


async def _refuse_politely(message: wire.Downlink, write: Write) -> None:
    """What this version can't do is answered, so that nobody waits."""
    if message.WhichOneof("msg") == "command":
        text = f"this gateway does not know the command {message.command.name!r}"
        result = wire.CommandResult(id=message.command.id, state=wire.COMMAND_UNSUPPORTED, text=text)
        await write(wire.Uplink(command_result=result))


def _welcome(message: object) -> wire.Welcome:
    if not isinstance(message, wire.Downlink):
        raise Retryable("the server closed the stream before Welcome")
    if message.WhichOneof("msg") == "goodbye":
        goodbye = message.goodbye
        raise Retryable(f"the server refused: {goodbye.text}", after_s=goodbye.return_after_ms / 1000)
    if message.WhichOneof("msg") != "welcome":
        raise Retryable("the server answered Hello with something else")
    return message.welcome


def _lane_state(view: LaneView) -> wire.LaneState:
    held = [pb.Range(first=first, last=last) for first, last in view.held]
    return wire.LaneState(lane=view.lane, next_seq=view.next_seq, held=held)


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
