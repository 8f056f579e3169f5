"""One life of a gateway's buffer: a script of everything its callers do, which says beforehand what it is about to do.

What is said goes to a file beside the buffer, one JSON line each, by a write() of its own, so that it is known however
the process ends: what was handed over, what was promised, and what a server has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from gateway.buffer import bodies, thinner, thinning
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.disk import DiskBuffer
from gateway.reading import GroupShape, Lost, Row, SeriesShape
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import TurnedClock

FAST = GroupShape(
    sensor="fast", period_ms=1000, series=(SeriesShape(name="n"), SeriesShape(name="door", type=pb.VT_BOOL))
)
SLOW = GroupShape(sensor="slow", period_ms=5000, series=(SeriesShape(name="n", raw=True),))
TEXT = GroupShape(
    sensor="text", period_ms=5000, series=(SeriesShape(name="n"), SeriesShape(name="words", type=pb.VT_STRING))
)
SLOW_READ_MS = 1700
"""A slow read is as old as that when it is handed over: rows of several groups are not in the order of their times."""


@dataclass
class Life:
    """Opens the buffer in `folder`; every act may be the last."""

    folder: Path
    rng: random.Random
    clock: TurnedClock
    numbers_from: int
    said: Path
    buffer: DiskBuffer = field(init=False)
    groups: list[tuple[int, GroupShape]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # what is large, and how much a segment takes: few bodies of these scripts are as large as those of a day
        bodies.INLINE_BYTES, bodies.SEGMENT_BYTES = self.rng.choice([(16, 300), (60, 2000), (2048, 262144)])
        self._n = self.numbers_from
        self._fd = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(self, *what: object) -> None:
        os.write(self._fd, json.dumps(what).encode() + b"\n")

    async def open(self, shapes: Sequence[GroupShape] = (FAST, SLOW)) -> DiskBuffer:
        settings = BufferSection(keep_acknowledged_h=0, sync_every_s=0.05)
        self.buffer = DiskBuffer(self.folder, clock=self.clock, settings=settings, batch_interval_s=10)
        try:
            ids = await self.buffer.open(shapes)
        except BaseException:
            await abandon(self.buffer)
            raise
        self.groups = list(zip(ids, shapes, strict=True))
        opening = self.buffer.opening
        self.say("opened", opening.epoch, opening.boot, opening.opens)
        self.clock.mono += SLOW_READ_MS  # nothing is read before the buffer is open
        return self.buffer

    async def close(self) -> None:
        await self.buffer.close()

    def end(self) -> None:
        os.close(self._fd)

    # --- acts ----------------------------------------------------------------------------------------

    def append(self) -> Any:
        group, shape = self.rng.choice(self.groups)
        self.clock.mono += self.rng.choice([10, 300, 1000])
        return self.append_to(group, shape)

    def append_to(self, group: int, shape: GroupShape) -> Any:
        self.clock.mono += 1
        self._n += 1
        mono = self.clock.mono - (SLOW_READ_MS if shape is SLOW else 0)
        values: tuple[Any, ...] = (self._n, self._n % 2)
        if shape is SLOW:
            values = (self._n + 0.25,)
        elif shape is TEXT:
            values = (self._n, "w" * self.rng.randint(0, 300))
        self.say("append", self.buffer.opening.epoch, group, self._n, self.buffer.opening.boot, mono)
        return self.buffer.append(group, Row(mono, values))

    async def append_some(self) -> None:
        for _ in range(self.rng.randint(1, 12)):
            self.append()

    async def flush(self) -> None:
        await self.buffer.flush()
        if not self.buffer.refused():
            self.say("written", self._n)

    async def durable(self) -> None:
        await self.append().durable()
        self.say("durable", self._n)

    async def seal(self) -> None:
        await self.buffer.seal()
        self.say("durable", self._n)
        await self.see()

    async def event(self) -> None:
        self._n += 1
        number = self._n
        receipt = self.buffer.event(pb.EVENT_FIELD_ACT, str(number).encode())
        self.say("event", number)
        await self.buffer._seal_urgent()
        await receipt.durable()
        self.say("event-durable", number)

    async def lose(self) -> None:
        group, shape = self.groups[0]
        self.append_to(group, shape)
        after = self.clock.mono
        self.clock.mono += 100
        self.say("lost", self.buffer.opening.epoch, group, self.buffer.opening.boot, after + 50)
        self.buffer.lost(group, Lost(after, after + 100, 1, pb.GAP_UNREADABLE))
        self.append_to(group, shape)

    async def see(self) -> list[SealedBatch]:
        """What a server would be sent now."""
        found = []
        for lane in (pb.URGENT, pb.TELEMETRY):
            found += await self.buffer.lease(lane, 0, 10_000)
        await tell(self.buffer, found, self.say)
        return found

    async def acknowledge(self) -> None:
        found = await self.see()
        for lane in (pb.URGENT, pb.TELEMETRY):
            seqs = [batch.seq for batch in found if batch.lane == lane and self.rng.random() < 0.7]
            self.say("acked", self.buffer.opening.epoch, lane, seqs)
            await self.buffer.ack(lane, Ranges((seq, seq) for seq in seqs))

    async def reject(self) -> None:
        waiting = [batch.seq for batch in await self.see() if batch.lane == pb.TELEMETRY]
        if waiting:
            await self.buffer.reject(pb.TELEMETRY, self.rng.choice(waiting), "crc wrong twice")

    async def tidy(self) -> None:
        await self.see()
        if self.rng.random() < 0.3:  # under pressure, the oldest go
            self.buffer._limit_bytes = 1
        await self.buffer.tidy()
        self.buffer._limit_bytes = 1 << 30

    async def thin(self) -> None:
        """As under pressure, one step: what was seen and not acknowledged was not received, the server said since."""
        await self.see()
        await self.buffer.welcomed(1, {lane: state.acked for lane, state in self.buffer._store.lanes.items()})
        with (
            mock.patch.object(thinning, "STEPS_MS", (2_000, 10_000)),
            mock.patch.multiple(thinner, SAVES_AT_LEAST=-9.0, STRETCHES=0),
        ):
            async with self.buffer._seal_lock:
                await self.buffer._in("store", self.buffer._thinner.step)

    async def declare(self) -> None:
        shapes = [FAST, SLOW, TEXT] if len(self.groups) == 2 else [FAST, SLOW]
        self.groups = list(zip(await self.buffer.declare(shapes), shapes, strict=True))

    async def restart(self) -> None:
        await self.buffer.close()
        await self.open([shape for _, shape in self.groups])

    async def begin_epoch(self) -> None:
        """The server has all that was acknowledged, and orders a new epoch."""
        anchor = pb.Anchor(boot=self.buffer.opening.boot, mono_ms=self.clock.mono, wall_ms=self.clock.wall)
        self.buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())
        await self.buffer._seal_urgent()
        await self.see()
        store = self.buffer._store
        held = {int(view.lane): view.held for view in await self.buffer.views()}
        kept = {
            lane: [seq for first, last in seqs for seq in range(first, last + 1) if seq not in store.lanes[lane].acked]
            for lane, seqs in held.items()
        }
        self.say("order", self.buffer.opening.epoch, kept)
        await self.buffer.begin_epoch({lane: state.acked for lane, state in store.lanes.items()})
        self.say("epoch", self.buffer.opening.epoch)

    async def live(self, acts: int, *, ordered: bool = False) -> None:
        """A script of so many acts, drawn by the seed; `ordered`: changes of epoch among them."""
        rare: list[Callable[[], Any]] = [self.reject, self.tidy, self.declare, self.restart, self.thin]
        rare += [self.begin_epoch] * ordered
        often: list[Callable[[], Any]] = [self.append_some, self.flush, self.durable, self.seal, self.event]
        often += [self.append_some, self.flush, self.acknowledge, self.lose, self.seal]
        await self.open()
        for _ in range(acts):
            await self.rng.choice(rare if self.rng.random() < 0.2 else often)()

    async def last(self) -> dict[str, Any]:
        """Read every group once more and seal, so that nothing is pending; returns what the buffer then holds."""
        for group, shape in self.groups:
            self.append_to(group, shape)
        await self.buffer.seal()
        await self.buffer._seal_urgent()
        found = [b for lane in (pb.URGENT, pb.TELEMETRY) for b in await self.buffer.lease(lane, 0, 10_000)]
        held: list[Any] = []
        await tell(self.buffer, found, lambda *line: held.append(line))
        views = {int(view.lane): view.next_seq for view in await self.buffer.views()}
        return {"epoch": self.buffer.opening.epoch, "held": held, "next_seq": views}


async def tell(buffer: DiskBuffer, batches: Sequence[SealedBatch], say: Callable[..., object]) -> None:
    """Say what is in them."""
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    for batch in batches:
        body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
        decoded = columns.decode(schemas[batch.schema], body, count=batch.count)
        rows = [
            [block.group, int(n), decoded.boot, time]
            for block in decoded.blocks
            for n, time in zip(block.columns[0], block.times, strict=True)
            if isinstance(n, int | float)
        ]
        gaps, events, notes = [], [], []
        for _, event in decoded.events:
            if event.kind == pb.EVENT_GAP:
                gaps.append(_gap(pb.Gap.FromString(event.detail)))
            elif event.kind == pb.EVENT_INTEGRITY:
                notes.append(event.detail.decode())
            elif event.kind != pb.EVENT_ANCHOR:  # told again in each epoch
                events.append(int(event.detail))
        say("seen", buffer.opening.epoch, batch.lane, batch.seq, batch.crc32, rows, gaps, events, notes, batch.replaces)


def _gap(gap: pb.Gap) -> list[Any]:
    seqs = [[r.first, r.last] for r in gap.seqs]
    ends = [gap.from_boot, gap.from_mono_ms, gap.to_boot, gap.to_mono_ms]
    return [int(gap.lane), seqs, gap.group, *ends, int(gap.reason), gap.count]


async def abandon(buffer: DiskBuffer) -> None:
    """Let go of a buffer that could not be opened, as the end of its process would."""
    for name in ("_store", "_tail"):
        part = getattr(buffer, name, None)
        if part is not None:
            with contextlib.suppress(Exception):
                part.close()
    for thread in buffer._threads.values():
        await asyncio.to_thread(thread.shutdown)
