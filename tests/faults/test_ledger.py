"""The loss ledger, both sides of it: real buffer, real journal, real projector, and a life that loses things."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from control_plane.projections import balances
from control_plane.store.engine import Stores
from gateway.buffer import balance, disk
from gateway.reading import Lost, Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.hours import HOUR_MS, Cell
from protos.ranges import Ranges
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY, hello
from tests.effort import tries
from tests.gateway.buffer.boxes import COOLING, METER, Box

MINUTE_MS = 60_000
STEPS = 120


@dataclass
class Life:
    """What really happened, beside what the two ledgers say of it."""

    box: Box
    road: Road
    random: random.Random
    read: Counter[Cell] = field(default_factory=Counter)
    unread: int = 0
    happened: Counter[str] = field(default_factory=Counter)

    async def begin(self) -> None:
        await self.box.open([COOLING, METER])
        self.road.hello(hello(epoch=self.box.buffer.opening.epoch))

    async def run(self) -> None:
        await self.begin()
        acts = {
            "rows": 30, "fail": 8, "refused": 3, "seal": 14, "arrive": 5, "reject": 2, "damage": 2, "kill": 4,
            "reboot": 2, "crowd": 2,
        }  # fmt: skip
        for name in self.random.choices(list(acts), weights=list(acts.values()), k=STEPS):
            self.happened[name] += 1
            await getattr(self, name)()
        await self.arrive(everything=True)
        self.road.project()

    async def rows(self) -> None:
        for _ in range(self.random.randrange(1, 40)):
            self.box.clock.mono += self.random.choice((500, 1000, 1000, 5000, 7 * MINUTE_MS))
            group = self.random.randrange(2)
            self._append(group, (self.random.randrange(-500, 500), 1) if group == 0 else (self.random.random(),))

    def _append(self, group: int, values: tuple[float | str, ...]) -> None:
        now_ms = self.box.clock.mono
        self.read[Cell(self.box.ids[group], self.box.buffer.opening.boot, now_ms // HOUR_MS)] += 1
        self.box.buffer.append(self.box.ids[group], Row(now_ms, values))

    async def fail(self) -> None:
        began = self.box.clock.mono
        self.box.clock.mono += self.random.choice((1000, 30_000, 3 * HOUR_MS))
        reads = self.random.randrange(1, 50)
        self.unread += reads
        self.box.buffer.lost(self.box.ids[0], Lost(began, self.box.clock.mono, reads, pb.GAP_UNREADABLE))

    async def refused(self) -> None:
        """A decoder handed over what its declaration does not allow."""
        self.box.clock.mono += 1000
        self._append(0, (self.random.choice((1 << 70, "no number")), 1))

    async def seal(self) -> None:
        await self.box.buffer.seal()
        await self.box.buffer._seal_urgent()

    async def arrive(self, *, everything: bool = False) -> None:
        """Some batches are delivered and acknowledged; newest first, as after an outage."""
        await self.seal()
        buffer = self.box.buffer
        for declared in await buffer.schemas():
            self.road.declare(declared)
        for lane in (pb.URGENT, pb.TELEMETRY):
            found = await buffer.lease(lane, 0, 10_000)
            taken = [one for one in reversed(found) if everything or self.random.random() < 0.6]
            for one in taken:
                self.road.arrive(one.envelope(buffer.opening.epoch))
            await buffer.ack(lane, Ranges((one.seq, one.seq) for one in taken))

    async def reject(self) -> None:
        waiting = await self.box.buffer.lease(pb.TELEMETRY, 0, 100)
        if waiting:
            await self.box.buffer.reject(pb.TELEMETRY, self.random.choice(waiting).seq, "over a limit")

    async def damage(self) -> None:
        """A page rots; the next look at it sets the batch aside."""
        waiting = await self.box.buffer.lease(pb.TELEMETRY, 0, 100)
        if waiting:
            seq = self.random.choice(waiting).seq
            with closing(sqlite3.connect(self.box.folder / "sealed.db", isolation_level=None)) as db:
                db.execute("UPDATE batch SET crc32 = (crc32 + 1) & 0xffffffff WHERE lane = 0 AND seq = ?", (seq,))
            await self.box.buffer.lease(pb.TELEMETRY, 0, 10_000)

    async def kill(self) -> None:
        """Rows of more than 250 ms ago are in the tail by now, gap records of more than 20 ms ago are sealed."""
        await self.box.buffer.flush()
        await self.box.buffer._seal_urgent()
        await self.box.kill()
        self.box.clock.mono += 5000
        await self.begin()

    async def reboot(self) -> None:
        self.box.clock.boot = self.random.randbytes(16)
        await self.kill()
        self.box.clock.mono = self.random.randrange(1, 100_000)
        await self.box.kill()
        await self.begin()

    async def crowd(self) -> None:
        """Neither the tail nor memory have space for a while; then the disk is nearly full, too."""
        limit = disk.MAX_UNSEALED_READINGS
        disk.MAX_UNSEALED_READINGS = 20
        try:
            await self.rows()
        finally:
            disk.MAX_UNSEALED_READINGS = limit
        await self.seal()
        buffer = self.box.buffer
        buffer._limit_bytes = buffer._bytes() - 1
        await buffer.tidy()
        buffer.limit(BufferSection())


def rows_of(lines: Iterable[balance.Line]) -> dict[Cell, tuple[int, dict[str, int], list[str]]]:
    """What was delivered, and lost, and lost without being counted."""
    return {Cell(one.group, one.boot, one.hour): (one.delivered, one.lost, one.unknown) for one in lines}


def told(lines: Iterable[balances.Line]) -> dict[Cell, tuple[int, dict[str, int], list[str]]]:
    return {
        Cell(one.key[3], one.key[1], one.key[2]): (
            one.received,
            {lost.reason: lost.rows for lost in one.lost if lost.rows},
            sorted(lost.reason for lost in one.lost if lost.unknown),
        )
        for one in lines
    }


@pytest.mark.parametrize("seed", range(tries(3)))
async def test_the_gateway_and_the_control_plane_say_the_same_of_every_hour(
    tmp_path: Path, stores: Stores, seed: int
) -> None:
    life = Life(Box(tmp_path / "buffer"), Road(stores, TurnedClock()), random.Random(seed))
    await life.run()
    await life.box.buffer.close()
    here = balance.ledger(life.box.folder)
    there = balances.Balances(journal=stores.journal, telemetry=stores.telemetry).lines(GATEWAY, limit=10_000)
    assert rows_of(here) == told(there)
    assert not any(line.waiting for line in here)
    assert sum(line.produced for line in here) == sum(life.read.values()) + life.unread
    read = {Cell(line.group, line.boot, line.hour): line.produced for line in here}
    assert all(read[cell] >= 1 for cell in life.read)
    assert {reason for line in here for reason in line.lost} >= {"unreadable", "dropped"}, life.happened
