"""What a connection says of the box: Hello, Heartbeat; and what the server's first answer means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gateway.buffer.buffer import Buffer, LaneView
from gateway.clock import Clock
from gateway.errors import Retryable
from gateway.uplink.anchors import Anchors
from gateway.uplink.configuration import Configuration
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

PROTOCOL = 1


class Dismissed(Retryable):
    """The connection ended although the link was good: nothing is wrong with the way it took."""


class Paused(Dismissed):
    """The server takes nothing of this box, nor of another one with its identity, until a person decided."""


class Greeting:
    """The parts of which the box speaks."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        clock: Clock,
        anchors: Anchors,
        configuration: Configuration,
        version: Callable[[], str],
        sensors_silent: Callable[[], int],
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._anchors = anchors
        self._configuration = configuration
        self._version = version
        self._sensors_silent = sensors_silent

    async def hello(self) -> wire.Hello:
        opening = self._buffer.opening
        views = await self._buffer.views()
        schemas = await self._buffer.schemas()
        descent = await self._buffer.descent()
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
            predecessor_epoch=descent.predecessor,
            moved=[
                wire.Moved(lane=one.lane, seqs=_ranges(one.seqs), agreed=one.agreed, replaced=_ranges(one.replaced))
                for one in descent.moved
            ],
            last_session=descent.last_session,
        )

    def heartbeat(self) -> wire.Heartbeat:
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


def welcome(message: object) -> wire.Welcome:
    """The server's first answer. Raises Retryable when it is another one."""
    if not isinstance(message, wire.Downlink):
        raise Retryable("the server closed the stream before Welcome")
    if message.WhichOneof("msg") == "goodbye":
        raise dismissed(message.goodbye, "the server refused")
    if message.WhichOneof("msg") != "welcome":
        raise Retryable("the server answered Hello with something else")
    return message.welcome


def dismissed(goodbye: wire.Goodbye, what: str) -> Dismissed:
    """What the server's goodbye amounts to."""
    text = goodbye.text or wire.GoodbyeReason.Name(goodbye.reason)
    kind = Paused if goodbye.reason == wire.GOODBYE_CLONE_SUSPECTED else Dismissed
    return kind(f"{what}: {text}", after_s=goodbye.return_after_ms / 1000)


def received(lanes: Iterable[wire.LaneReceived]) -> dict[int, Ranges]:
    """Lane → every seq that the server holds."""
    found: dict[int, Ranges] = {}
    for said in lanes:
        held = found[said.lane] = Ranges((r.first, r.last) for r in said.above)
        held.add(1, said.acked)
    return found


def _lane_state(view: LaneView) -> wire.LaneState:
    return wire.LaneState(lane=view.lane, next_seq=view.next_seq, held=_ranges(view.held))


def _ranges(seqs: Ranges) -> list[pb.Range]:
    return [pb.Range(first=first, last=last) for first, last in seqs]
