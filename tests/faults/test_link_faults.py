"""The link does its worst, in seeded random order: every reading and every act arrives, and arrives once.

One round of every fault runs with every test, `make faults` runs ten (COMBOIO_EFFORT).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control_plane.store.engine import Stores
from gateway.backoff import Backoff
from gateway.buffer.disk import DiskBuffer
from gateway.clock import SystemClock
from gateway.reading import GroupShape, Row, SeriesShape
from gateway.simulators.link import DOWN, UP, LinkProxy
from gateway.uplink.anchors import Anchors
from gateway.uplink.greeting import welcome
from gateway.uplink.link import Link
from gateway.uplink.spending import Spending
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.config import BufferSection, UplinkSection, Via
from tests.effort import tries
from tests.faults.far_end import FarEnd, far_end
from tests.gateway.uplink.hand_written import by_hand
from tests.gateway.uplink.plane import until

ROUNDS = tries(1)
SHAPE = GroupShape(sensor="counter", period_ms=10, series=(SeriesShape(name="count", exp=0),))
PATIENCE_S = 1.0
ACT_EVERY = 20


class Box:
    """A buffer that is fed all the time, and its uplink."""

    def __init__(self, buffer: DiskBuffer, link: Link, group: int) -> None:
        self.buffer = buffer
        self.link = link
        self._group = group
        self.rows = 0
        self.acts: list[bytes] = []

    async def feed(self) -> None:
        clock = SystemClock()
        while True:
            self.buffer.append(self._group, Row(clock.mono_ms(), (self.rows,)))
            self.rows += 1
            if self.rows % ACT_EVERY == 0:
                self.acts.append(b"act %d" % self.rows)
                self.buffer.event(pb.EVENT_FIELD_ACT, self.acts[-1])
            await asyncio.sleep(0.005)

    async def emptied(self) -> None:
        """What was taken is sealed, sent and acknowledged."""
        await self.buffer.seal()
        lanes = self.buffer._store.lanes
        await until(lambda: all(lane.acked.through() == lane.next_seq - 1 for lane in lanes.values()), within_s=30)


@asynccontextmanager
async def box(folder: Path, plane: FarEnd, *vias: Via) -> AsyncIterator[Box]:
    clock = SystemClock()
    buffer = DiskBuffer(folder / "buffer", clock=clock, settings=BufferSection(), batch_interval_s=0.1)
    (group,) = await buffer.open([SHAPE])
    link = Link(
        buffer=buffer,
        clock=clock,
        settings=UplinkSection(ack_timeout_s=PATIENCE_S, batch_interval_s=0.1, via=vias),
        endpoint=plane,
        set_batch_interval=lambda seconds: setattr(buffer, "batch_interval_s", seconds),
        anchors=Anchors(clock=clock, boot=1, record=lambda _: None, kernel=lambda: None),
        version=lambda: "test",
        configuration=by_hand(folder / "desired", clock),
        spending=Spending(folder / "uplink-day.json", clock=clock),
    )
    link._backoff = Backoff(base_s=0.05, cap_s=0.3)
    made = Box(buffer, link, group)
    loops = [asyncio.create_task(run) for run in (buffer.run(), link.run())]
    feeding = asyncio.create_task(made.feed())
    try:
        yield made
    finally:
        feeding.cancel()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(feeding, *loops, return_exceptions=True)
        await buffer.close()


def forgetful(message: object) -> wire.Welcome:
    """A Welcome that tells nothing of what was received: all that was not acknowledged is delivered again."""
    answer = welcome(message)
    del answer.lanes[:]
    return answer


class Trouble:
    """What can happen to a link, for how long and how badly is drawn."""

    def __init__(self, link: LinkProxy, rng: random.Random, connected: Callable[[], bool]) -> None:
        self._link = link
        self._connected = connected
        self._rng = rng
        self.kinds: list[Callable[[], Awaitable[None]]] = [
            self._cut,
            self._hole,
            self._deaf,
            self._unheard,
            self._short_lived,
            self._trickling,
            self._slow,
            self._far_away,
        ]

    async def _for(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self._rng.uniform(least_s, most_s))

    async def _cut(self) -> None:
        await self._link.cut()
        await self._for(0.05, 0.4)

    async def _hole(self) -> None:
        self._link.black_hole()
        await self._for(0.2, 1.8 * PATIENCE_S)

    async def _deaf(self) -> None:
        """Acknowledgements of what goes on arriving are lost, and then the connection."""
        await until(self._connected)
        await self._for(0.1, 0.2)
        self._link.black_hole(DOWN)
        await self._for(0.3, 0.6)
        await self._link.cut()

    async def _unheard(self) -> None:
        self._link.black_hole(UP)
        await self._for(0.3, 0.6)
        await self._link.cut()

    async def _short_lived(self) -> None:
        """Connection after connection ends within what a handshake, a Hello and a few batches take."""
        for _ in range(4):
            self._link.reset_after(self._rng.randint(1, 15_000))
            await self._for(0.1, 0.3)

    async def _trickling(self) -> None:
        self._link.trickle(1)
        await self._for(0.3, 0.8)

    async def _slow(self) -> None:
        self._link.slow(bytes_per_s=self._rng.choice([2_000, 20_000]))
        await self._for(0.5, 1.0)

    async def _far_away(self) -> None:
        self._link.slow(delay_s=self._rng.uniform(0.05, 0.3))
        await self._for(0.3, 0.8)


@pytest.mark.timeout(30 + 60 * ROUNDS)
async def test_whatever_the_link_does_every_reading_arrives_once(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.uplink.link.welcome", forgetful)
    seed = int(os.environ.get("COMBOIO_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
    rng = random.Random(seed)
    async with far_end(stores, tmp_path) as plane, box(tmp_path, plane, *rng.choice([(), (Via(id="any"),)])) as running:
        await until(lambda: running.link.health.connected)
        trouble = Trouble(plane.link, rng, lambda: running.link.health.connected)
        for _ in range(ROUNDS):
            rng.shuffle(trouble.kinds)
            for number, happens in enumerate(trouble.kinds):
                await happens()
                await plane.link.restore()
                await asyncio.sleep(rng.uniform(0.05, 0.4))
                if number % 2:  # the other half meets a link that is still coming up
                    await until(lambda: running.link.health.connected, within_s=30)
        await running.emptied()
        rows, acts = running.rows, list(running.acts)
        await running.emptied()
        values, heard = plane.arrived()
    said = f"COMBOIO_SEED={seed}"
    assert {number: times for number, times in values.items() if times != 1} == {}, said
    assert set(range(rows)) - set(values) == set(), said
    assert {one: heard[one] for one in acts if heard[one] != 1} == {}, said
    assert running.link.health.connections >= 3, said
    assert plane.journal.duplicates > 0, said


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_black_hole_stalls_the_link_for_one_patience_at_most(stores: Stores, tmp_path: Path) -> None:
    async with far_end(stores, tmp_path) as plane, box(tmp_path, plane) as running:
        await until(lambda: running.link.health.acked_batches > 3)
        plane.link.black_hole()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: not running.link.health.connected)
        found_s = loop.time() - began
        await plane.link.restore()
        await until(lambda: running.link.health.connected)
        await running.emptied()
    assert found_s < 2 * PATIENCE_S
    assert "the link is dead" in running.link.health.last_error


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_while_a_backlog_drains_over_a_slow_link_new_readings_are_there_within_two_seconds(
    stores: Stores, tmp_path: Path
) -> None:
    async with far_end(stores, tmp_path) as plane:
        await plane.link.cut()
        async with box(tmp_path, plane) as running:
            for _ in range(60):  # an outage's worth
                running.buffer.append(running._group, Row(SystemClock().mono_ms(), (-1,)))
                await running.buffer.seal()
            await asyncio.sleep(0.5)
            await plane.link.restore()
            plane.link.slow(bytes_per_s=6_000)
            await until(lambda: running.link.health.connected)
            lags = []
            for _ in range(4):
                newest, began = running.rows, asyncio.get_running_loop().time()
                while newest not in plane.arrived()[0]:
                    await asyncio.sleep(0.05)
                lags.append(asyncio.get_running_loop().time() - began)
            plane.link.slow()
            await running.emptied()
            assert plane.arrived()[0][-1] == 60
    assert max(lags) < 2.0
