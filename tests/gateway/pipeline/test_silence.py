from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.pipeline.flow import Flow, flow
from gateway.pipeline.silence import Silence
from gateway.reading import Row
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Report, SensorBase
from tests.gateway.buffer.boxes import COOLING, Box, batches

SILENT, RECOVERED = pb.EVENT_SENSOR_SILENT, pb.EVENT_SENSOR_RECOVERED


@dataclass
class Watched:
    box: Box
    way: Flow
    silence: Silence

    def row(self, after_ms: int) -> None:
        self.box.clock.mono += after_ms
        self.way.row(0, Row(self.box.clock.mono, (40, 1)))

    def later(self, ms: int) -> None:
        self.box.clock.mono += ms
        self.silence.look()

    async def said(self) -> list[tuple[int, int]]:
        """(kind, since as ms of this test) of every condition, oldest first."""
        await self.box.buffer._seal_urgent()
        schemas = {d.schema: columns.Schema.from_declare(d) for d in await self.box.buffer.schemas()}
        found = []
        for batch in await batches(self.box.buffer, pb.URGENT):
            body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
            for _, event in columns.decode(schemas[batch.schema], body, count=batch.count).events:
                if event.kind in {SILENT, RECOVERED}:
                    assert event.group == self.box.ids[0]
                    since_ms = pb.Condition.FromString(event.detail).since_mono_ms
                    found.append((event.kind, since_ms - 1_000_000))
        return found


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()
    way = flow(SensorBase(id="cooling", report={"*": Report(deadband=99)}), [COOLING], buffer)
    way.bind(box.ids)
    yield Watched(box, way, Silence([way], clock=box.clock))
    await buffer.close()


async def test_a_sensor_that_is_not_heard_for_a_minute_is_silent_since_its_last_row(watched: Watched) -> None:
    watched.row(1000)
    watched.later(100)
    watched.later(59_900)
    assert watched.silence.silent == 0
    watched.later(1)
    assert watched.silence.silent == 1
    watched.later(600_000)
    watched.row(500)
    watched.later(100)
    assert watched.silence.silent == 0
    assert await watched.said() == [(RECOVERED, 1000), (SILENT, 1000), (RECOVERED, 661_501)]


async def test_one_never_heard_is_silent_since_the_start(watched: Watched) -> None:
    watched.later(60_001)
    assert await watched.said() == [(SILENT, 0)]


async def test_rows_that_the_report_policy_holds_back_are_heard(watched: Watched) -> None:
    for _ in range(30):
        watched.row(30_000)
        watched.later(0)
    assert watched.way.counters.held_back == 29
    assert await watched.said() == [(RECOVERED, 30_000)]


async def test_what_was_held_back_needs_no_waiting_for(watched: Watched) -> None:
    watched.row(1000)
    await watched.way.row(0, Row(watched.box.clock.mono + 1, (40, 1))).durable()
