"""A control plane in the test's own loop: a real gRPC server that speaks the contract and does what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from protos.columns import dictionary_id
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

Context = grpc.aio.ServicerContext[wire.Uplink, wire.Downlink]


@dataclass
class Plane:
    """What it heard, and how it answers."""

    acks: bool = True
    welcome: wire.Welcome = field(default_factory=lambda: wire.Welcome(session=1))
    hellos: list[wire.Hello] = field(default_factory=list)
    declares: list[pb.Declare] = field(default_factory=list)
    batches: list[pb.Batch] = field(default_factory=list)
    heartbeats: list[wire.Heartbeat] = field(default_factory=list)
    others: list[wire.Uplink] = field(default_factory=list)
    says: list[wire.Downlink] = field(default_factory=list)
    """Sent once, right after Welcome."""
    refuses: list[wire.Goodbye] = field(default_factory=list)
    """Said once each instead of Welcome."""
    orders: int = 0
    """So many Welcomes order a new epoch."""
    rejects: set[int] = field(default_factory=set)
    asks_for_schema: int = 0
    lacks: set[int] = field(default_factory=set)
    """Dictionaries it has lost; asked for once each, until they come."""
    asked: set[int] = field(default_factory=set)
    dictionaries: list[wire.Dictionary] = field(default_factory=list)
    received: dict[int, Ranges] = field(default_factory=dict)
    port: int = 0
    calls: list[Context] = field(default_factory=list)

    async def acknowledge(self) -> None:
        """Everything so far, on the newest connection."""
        for lane in {batch.lane for batch in self.batches}:
            held = self.received.setdefault(lane, Ranges())
            for batch in self.batches:
                if batch.lane == lane:
                    held.add(batch.seq)
            above = [pb.Range(first=first, last=last) for first, last in held]
            said = wire.LaneReceived(lane=lane, above=above)
            await self.calls[-1].write(wire.Downlink(ack=wire.Ack(lanes=[said])))

    async def connect(self, _: AsyncIterator[wire.Uplink], context: Context) -> None:
        hello = await context.read()
        assert isinstance(hello, wire.Uplink)
        self.hellos.append(hello.hello)
        self.calls.append(context)
        if self.refuses:
            await context.write(wire.Downlink(goodbye=self.refuses.pop(0)))
            return
        await context.write(wire.Downlink(welcome=self._welcome()))
        while self.says:
            await context.write(self.says.pop(0))
        while isinstance(message := await context.read(), wire.Uplink):
            await self._take(message, context)

    def _welcome(self) -> wire.Welcome:
        """As told to, and what it holds."""
        answer = wire.Welcome()
        answer.CopyFrom(self.welcome)
        if self.orders:
            self.orders -= 1
            answer.new_epoch = True
        for lane, held in self.received.items():
            above = [pb.Range(first=first, last=last) for first, last in held]
            answer.lanes.add(lane=pb.Lane.ValueType(lane), above=above)
        return answer

    async def _take(self, message: wire.Uplink, context: Context) -> None:
        kind = message.WhichOneof("msg")
        if kind == "batch":
            await self._batch(message.batch, context)
        elif kind == "declare":
            self.declares.append(message.declare)
        elif kind == "dictionary":
            self.dictionaries.append(message.dictionary)
            self.lacks.discard(dictionary_id(message.dictionary.sha256))
        elif kind == "heartbeat":
            self.heartbeats.append(message.heartbeat)
        else:
            self.others.append(message)

    async def _batch(self, batch: pb.Batch, context: Context) -> None:
        self.batches.append(batch)
        if self.asks_for_schema:
            self.asks_for_schema -= 1
            await context.write(wire.Downlink(ack=wire.Ack(epoch=batch.epoch, need_schema=True)))
        elif batch.dictionary in self.lacks:
            if batch.dictionary not in self.asked:
                self.asked.add(batch.dictionary)
                ask = wire.Ack(epoch=batch.epoch, need_dictionaries=[batch.dictionary])
                await context.write(wire.Downlink(ack=ask))
        elif batch.seq in self.rejects and batch.lane == pb.TELEMETRY:
            self.rejects.discard(batch.seq)
            no = wire.Reject(epoch=batch.epoch, lane=batch.lane, seq=batch.seq, reason="over a limit")
            await context.write(wire.Downlink(reject=no))
        elif self.acks:
            held = self.received.setdefault(batch.lane, Ranges())
            held.add(batch.seq)
            above = [pb.Range(first=first, last=last) for first, last in held]
            lane = wire.LaneReceived(lane=batch.lane, above=above)
            await context.write(wire.Downlink(ack=wire.Ack(epoch=batch.epoch, lanes=[lane])))

    def telemetry(self) -> list[int]:
        return [batch.seq for batch in self.batches if batch.lane == pb.TELEMETRY]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen on the port of before, or a free one."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.connect,
            request_deserializer=wire.Uplink.FromString,
            response_serializer=wire.Downlink.SerializeToString,
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("comboio.v1.Link", {"Connect": handler}),)
        )
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", grpc.local_server_credentials())
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


async def until(condition: object, *, within_s: float = 8.0) -> None:
    """Wait until `condition()` holds."""
    assert callable(condition)
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
