"""One simulated gateway: what it measures, what it keeps until it is acknowledged, and what it says.

It follows the protocol as a gateway does: seqs from 1, held until an ack or a reject names them, sent again after a new
connection unless Welcome has them. Its store lives in memory; a cut link costs it nothing.
"""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from protos.columns import Block, Schema, encode, pack
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

MOST_HELD = 2000
"""Batches kept; a box that is away for longer measures nothing more, and says how many it did not make."""
GPS, CLIMATE, METER = 1, 2, 3


@dataclass(slots=True)
class Tally:
    made: int = 0
    not_made: int = 0
    sent: int = 0
    sent_again: int = 0
    acked: int = 0
    refused: int = 0

    def add(self, other: Tally) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _Held:
    batch: pb.Batch
    times_sent: int = 0
    under_way: bool = False


@dataclass(slots=True, kw_only=True)
class Box:
    """`started_ms` is where its monotonic clock begins, `wall_off_ms` how wrong its wall clock is."""

    gateway: str
    certificate: str
    random: Random
    batch_s: float
    started_ms: int
    wall_off_ms: int
    tally: Tally = field(default_factory=Tally)
    window: int = 1
    suspended: bool = False
    """The server suspects a clone: nothing of it is taken."""
    epoch: int = 0
    boot: int = 1
    boot_id: bytes = b""
    run_id: bytes = b""
    _next: int = 1
    _made_to_ms: int = 0
    _held: OrderedDict[int, _Held] = field(default_factory=OrderedDict)
    _schema: Schema | None = None
    _declare: pb.Declare = field(default_factory=pb.Declare)
    _place: tuple[float, float] = (41.5, -8.4)
    _temperature: float = 4.0
    _count: int = 0

    def __post_init__(self) -> None:
        self.epoch = self.random.getrandbits(32)
        self.run_id, self.boot_id = self.random.randbytes(16), self.random.randbytes(16)
        self._declare = _declaration(self.epoch, self.random.randrange(-50, 50))
        self._schema = Schema.from_declare(self._declare)

    @property
    def held(self) -> int:
        """Batches without an answer."""
        return len(self._held)

    def twin(self) -> Box:
        """A copy of this box's disk, started elsewhere."""
        other = Box(
            gateway=self.gateway,
            certificate=self.certificate,
            random=Random(self.random.random()),  # noqa: S311 - seeded
            batch_s=self.batch_s,
            started_ms=self.started_ms,
            wall_off_ms=self.wall_off_ms,
        )
        other.epoch, other._next, other._declare = self.epoch, self._next, self._declare
        other._schema, other._made_to_ms = self._schema, self._made_to_ms
        return other

    # --- measuring -------------------------------------------------------------------------------------

    def measure(self, mono_ms: int, wall_ms: int) -> None:
        """Seal one batch of the seconds before."""
        if len(self._held) >= MOST_HELD:
            self.tally.not_made += 1
            return
        span_ms = round(self.batch_s * 1000)
        at_ms = self.started_ms + mono_ms
        begin_ms = max(0, at_ms - span_ms)
        events = []
        if self._next == 1:
            fact = pb.Anchor(
                boot=self.boot,
                mono_ms=at_ms,
                wall_ms=wall_ms + self.wall_off_ms,
                err_ms=abs(self.wall_off_ms) + 20,
                source=pb.CLOCK_RTC if self.wall_off_ms else pb.CLOCK_NTP,
            )
            events = [(at_ms, pb.Event(kind=pb.EVENT_ANCHOR, detail=fact.SerializeToString()))]
        assert self._schema is not None
        blocks = self._blocks(begin_ms, at_ms)
        body, count = encode(self._schema, boot=self.boot, blocks=blocks, base_mono_ms=begin_ms, events=events)
        codec, packed = pack(body)
        made = pb.Batch(
            epoch=self.epoch,
            seq=self._next,
            schema=1,
            codec=codec,
            count=count,
            body_len=len(body),
            body=packed,
            crc32=zlib.crc32(packed),
            complete_boot=self.boot,
            complete_mono_ms=at_ms,
        )
        self._held[self._next] = _Held(made)
        self._next += 1
        self.tally.made += 1

    def _blocks(self, begin_ms: int, end_ms: int) -> list[Block]:
        """A place every second, a probe every ten, a meter every five; each with a little jitter."""
        return [
            self._block(GPS, begin_ms, end_ms, 1000),
            self._block(CLIMATE, begin_ms, end_ms, 10_000),
            self._block(METER, begin_ms, end_ms, 5000),
        ]

    def _block(self, group: int, begin_ms: int, end_ms: int, period_ms: int) -> Block:
        rows = max(1, (end_ms - begin_ms) // period_ms)
        times = sorted(begin_ms + row * period_ms + self.random.randrange(20) for row in range(rows))
        measured = [self._row(group) for _ in times]
        return Block(group, times, [list(column) for column in zip(*measured, strict=True)])

    def _row(self, group: int) -> tuple[int, ...]:
        """As integers in the declared decimals."""
        if group == GPS:
            heading = self.random.uniform(0, 2 * math.pi)
            step = 0.0002
            self._place = (self._place[0] + step * math.cos(heading), self._place[1] + step * math.sin(heading))
            return round(self._place[0] * 1e6), round(self._place[1] * 1e6), self.random.randrange(0, 900)
        if group == CLIMATE:
            self._temperature += self.random.gauss(0, 0.05) + (4.0 - self._temperature) * 0.02
            return round(self._temperature * 100), self.random.randrange(550, 650)
        self._count += self.random.randrange(5)
        return self._count, self.random.randrange(2290, 2310)

    # --- speaking --------------------------------------------------------------------------------------

    def hello(self, mono_ms: int) -> wire.Hello:
        held = [pb.Range(first=first, last=last) for first, last in _runs(list(self._held))]
        return wire.Hello(
            protocol=1,
            epoch=self.epoch,
            opens=1,
            boot=self.boot,
            boot_id=self.boot_id,
            run_id=self.run_id,
            lanes=[
                wire.LaneState(lane=pb.TELEMETRY, next_seq=self._next, held=held),
                wire.LaneState(lane=pb.URGENT, next_seq=1),
            ],
            schema=1,
            codecs=[pb.CODEC_NONE, pb.CODEC_ZSTD],
            mono_ms=self.started_ms + mono_ms,
            version="simulated",
        )

    def greeted(self, welcome: wire.Welcome) -> list[wire.Uplink]:
        """What to say first. Everything held is to be sent again, but for what the server has."""
        self.window = max(1, min(16, welcome.limits.max_inflight))
        for one in self._held.values():
            one.under_way = False
        self._acknowledge(welcome.lanes)
        return [] if welcome.schema >= 1 else [self.declare()]

    def declare(self) -> wire.Uplink:
        return wire.Uplink(declare=self._declare)

    def acknowledged(self, ack: wire.Ack) -> list[wire.Uplink]:
        """What the server misses."""
        self._acknowledge(ack.lanes)
        if not ack.need_schema:
            return []
        for one in self._held.values():
            one.under_way = False
        return [self.declare()]

    def rejected(self, reject: wire.Reject) -> None:
        if self._held.pop(reject.seq, None) is not None:
            self.tally.refused += 1

    def heartbeat(self, mono_ms: int) -> wire.Uplink:
        said = wire.LaneComplete(lane=pb.TELEMETRY, seq=self._next - 1)
        said.complete_to.boot, said.complete_to.mono_ms = self.boot, self.started_ms + mono_ms
        backlog = wire.Backlog(batches=self.held)
        return wire.Uplink(heartbeat=wire.Heartbeat(lanes=[said], backlog=backlog))

    def due(self) -> list[wire.Uplink]:
        """The next batches that the window has room for."""
        room = self.window - sum(one.under_way for one in self._held.values())
        chosen = []
        for one in self._held.values():
            if room <= 0:
                break
            if one.under_way:
                continue
            room -= 1
            one.under_way = True
            one.times_sent += 1
            self.tally.sent += one.times_sent == 1
            self.tally.sent_again += one.times_sent > 1
            chosen.append(wire.Uplink(batch=one.batch))
        return chosen

    def _acknowledge(self, lanes: Iterable[wire.LaneReceived]) -> None:
        for said in lanes:
            if said.lane != pb.TELEMETRY:
                continue
            above = [(one.first, one.last) for one in said.above]
            gone = [
                seq for seq in self._held if seq <= said.acked or any(first <= seq <= last for first, last in above)
            ]
            for seq in gone:
                del self._held[seq]
            self.tally.acked += len(gone)


def _declaration(epoch: int, ref: int) -> pb.Declare:
    series = pb.Series
    return pb.Declare(
        epoch=epoch,
        schema=1,
        groups=[
            pb.Group(
                id=GPS,
                sensor="tracker",
                period_ms=1000,
                series=[
                    series(id=1, name="latitude", unit="deg", exp=6, ref=41_500_000),
                    series(id=2, name="longitude", unit="deg", exp=6, ref=-8_400_000),
                    series(id=3, name="speed", unit="km/h", exp=1),
                ],
            ),
            pb.Group(
                id=CLIMATE,
                sensor="cargo",
                period_ms=10_000,
                series=[
                    series(id=4, name="temperature", unit="Cel", exp=2, ref=400 + ref),
                    series(id=5, name="humidity", unit="%", exp=1, ref=600),
                ],
            ),
            pb.Group(
                id=METER,
                sensor="meter",
                period_ms=5000,
                series=[
                    series(id=6, name="energy", unit="kWh", exp=2),
                    series(id=7, name="voltage", unit="V", exp=1, ref=2300),
                ],
            ),
        ],
    )


def _runs(seqs: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for seq in seqs:
        if runs and seq == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return runs
