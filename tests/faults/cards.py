"""A gateway's storage as a thing: it can be copied, put back, and put into another box."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from control_plane.clock import SystemClock
from control_plane.projections.completeness import CompletenessProjection
from control_plane.projections.history import HistoryProjection
from control_plane.projections.projector import Projector
from control_plane.projections.reading import HistoryReader
from control_plane.projections.state import StateProjection
from control_plane.store.engine import Stores
from control_plane.store.tables import gap, integrity
from gateway.backoff import Backoff
from gateway.buffer.disk import DiskBuffer
from gateway.buffer.sealed import LANES
from gateway.reading import GroupShape, Row, SeriesShape
from gateway.uplink.anchors import Anchors
from gateway.uplink.link import Link
from gateway.uplink.spending import Spending
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection, UplinkSection
from protos.ranges import Ranges
from tests.faults.far_end import FarEnd
from tests.gateway.buffer.boxes import TurnedClock
from tests.gateway.uplink.hand_written import by_hand
from tests.gateway.uplink.plane import until

SHAPE = GroupShape(sensor="counter", period_ms=1000, series=(SeriesShape(name="count", exp=0),))
SERIES = ("counter", "count")
FAR_FUTURE_MS = 1 << 45


@dataclass
class Fleet:
    """Numbers every reading of every box, and knows what came of them."""

    stores: Stores
    produced: int = 0
    boots: int = 0
    mono_ms: int = 1_000_000
    projector: Projector = field(init=False)

    def __post_init__(self) -> None:
        self.restart_worker()

    def restart_worker(self) -> None:
        self.projector = Projector(
            journal=self.stores.journal,
            telemetry=self.stores.telemetry,
            clock=SystemClock(),
            completeness=CompletenessProjection(),
            others=(StateProjection(), HistoryProjection()),
        )

    def project(self) -> None:
        while self.projector.step():
            pass

    def arrived(self, *gateways: str) -> Counter[int]:
        """How often each reading is in the history of these gateways."""
        self.project()
        reader = HistoryReader(journal=self.stores.journal, telemetry=self.stores.telemetry)
        found: Counter[int] = Counter()
        for gateway in gateways:
            readings = reader.read(gateway, [SERIES], from_ms=0, to_ms=FAR_FUTURE_MS)[SERIES]
            found.update(int(value) for value in readings.values if isinstance(value, int | float))
        return found

    def once(self, *numbers: int) -> Counter[int]:
        return Counter(numbers)

    def gaps(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """Reason and seqs of those that name batches."""
        rows = self._rows(gap)
        return sorted((pb.GapReason.Name(row.reason), list(Ranges.unpack(row.seqs))) for row in rows if row.seqs)

    def alerts(self) -> list[str]:
        return sorted(row.kind for row in self._rows(integrity))

    def _rows(self, table: Table) -> list[Any]:
        self.project()
        with self.stores.telemetry.read() as connection:
            return list(connection.execute(select(table)).all())


class Card:
    """One storage in one box. `open` after each change of box or start; a reading is a row of its own number."""

    def __init__(self, fleet: Fleet, folder: Path, *, kept_h: float = 24) -> None:
        self.fleet = fleet
        self.folder = folder
        self._kept_h = kept_h
        self.clock = TurnedClock()

    async def open(self, *, booted: bool = True) -> Card:
        if booted:
            self.fleet.boots += 1
            self.clock.boot = self.fleet.boots.to_bytes(16, "little")
        self._turn(60_000)
        settings = BufferSection(keep_acknowledged_h=self._kept_h)
        self.buffer = DiskBuffer(self.folder, clock=self.clock, settings=settings, batch_interval_s=10)
        (self._group,) = await self.buffer.open([SHAPE])
        self._anchors = Anchors(clock=self.clock, boot=self.buffer.opening.boot, record=self._record, kernel=lambda: 1)
        self._anchors.from_kernel()
        return self

    def _record(self, anchor: pb.Anchor) -> None:
        self.buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())

    def _turn(self, ms: int) -> None:
        """All boxes of a fleet live in one time."""
        self.fleet.mono_ms += ms
        self.clock.mono, self.clock.wall = self.fleet.mono_ms, 1_700_000_000_000 + self.fleet.mono_ms

    def read(self) -> int:
        self._turn(1000)
        self.fleet.produced += 1
        self.buffer.append(self._group, Row(self.clock.mono, (self.fleet.produced,)))
        return self.fleet.produced

    async def sealed(self, count: int) -> list[int]:
        """So many readings, each a batch of its own."""
        numbers = []
        for _ in range(count):
            numbers.append(self.read())
            await self.buffer.seal()
        return numbers

    async def unsealed(self) -> int:
        """A reading that is in the tail only."""
        number = self.read()
        await self.buffer.flush()
        return number

    def image(self, name: str) -> Card:
        """What a copy of the storage would hold now."""
        folder = self.folder.with_name(name)
        shutil.copytree(self.folder, folder)
        return Card(self.fleet, folder, kept_h=self._kept_h)

    async def tidy(self) -> None:
        self._turn(1000)
        await self.buffer.tidy()

    async def close(self) -> None:
        await self.buffer.close()

    @asynccontextmanager
    async def linked(self, plane: FarEnd) -> AsyncIterator[Link]:
        """The uplink running."""
        buffer, clock = self.buffer, self.clock

        link = Link(
            buffer=buffer,
            clock=clock,
            settings=UplinkSection(ack_timeout_s=5, batch_interval_s=10),
            endpoint=plane,
            set_batch_interval=lambda _: None,
            anchors=self._anchors,
            version=lambda: "test",
            configuration=by_hand(self.folder / "desired", clock),
            spending=Spending(self.folder / "uplink-day.json", clock=clock),
        )
        link._backoff = Backoff(base_s=0.02, cap_s=0.1)
        running = [asyncio.create_task(link.run()), asyncio.create_task(buffer._urgent_loop())]
        try:
            yield link
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def online(self, plane: FarEnd) -> None:
        """Until all that is here is acknowledged, the anchor that follows a Welcome too."""
        async with self.linked(plane) as link:
            await until(lambda: link.health.connected, within_s=20)
            await asyncio.sleep(0.05)
            await self.emptied()

    async def emptied(self) -> None:
        await self.buffer.seal()
        async with asyncio.timeout(20):
            while await self.waiting():
                await asyncio.sleep(0.01)

    async def waiting(self) -> int:
        """Batches that nobody acknowledged, and events on their way into one."""
        held = [batch for lane in LANES for batch in await self.buffer.lease(lane, 0, 1000)]
        return len(held) + (not self.buffer._urgent.empty)
