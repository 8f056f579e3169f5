"""A month without a link against a limit that holds a part of it."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from gateway.buffer.thinning import STEPS_MS
from gateway.reading import GroupShape, Row, SeriesShape
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges
from tests.effort import tries
from tests.gateway.buffer.boxes import Box, gaps, plain
from tests.gateway.buffer.test_thinning import at_rest

LONG = tries(1) > 1
DAYS = 30
DAY_S = 86_400
BATCH_S = 600 if LONG else 3600
TEN_MS = STEPS_MS[-1]
PERIOD_MS, GROUPS, COLUMNS = (1000, 5, 10) if LONG else (20_000, 2, 3)
"""The 50 readings a second of a box, where there is time for them."""
LIMIT_BYTES = 12_500_000 if LONG else 760_000
STEPS = (-1, 0, 0, 1)
LOG_BYTES = 2_500_000
SHAPES = [
    GroupShape(
        sensor=f"tank-{n}", period_ms=PERIOD_MS, series=tuple(SeriesShape(name=f"t{i}", exp=1) for i in range(COLUMNS))
    )
    for n in range(GROUPS)
]


class Books:
    """What was read, per group and stretch of ten minutes."""

    def __init__(self) -> None:
        self.rows: defaultdict[int, int] = defaultdict(int)
        self.extremes: dict[tuple[int, int, int], list[int]] = {}

    def take(self, group: int, row: Row) -> None:
        self.rows[group] += 1
        for column, value in enumerate(row.values):
            assert isinstance(value, int)
            key = (group, column, row.mono_ms // TEN_MS)
            seen = self.extremes.get(key)
            if seen is None:
                self.extremes[key] = [value, value, value]
            else:
                seen[:] = [min(seen[0], value), max(seen[1], value), value]


async def test_a_month_off_line_keeps_to_the_limit_and_every_read_is_there_or_accounted_for(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer", settings=BufferSection())
    buffer = await box.open(SHAPES)
    buffer._limit_bytes = LIMIT_BYTES
    rng, books = random.Random(30), Books()
    values = {group: [200 + 10 * i for i in range(COLUMNS)] for group in box.ids}
    highest = largest = 0
    for step in range(DAYS * DAY_S * 1000 // PERIOD_MS):
        box.clock.mono += PERIOD_MS
        box.clock.wall += PERIOD_MS
        for group in box.ids:
            now = values[group]
            for column in range(COLUMNS):
                now[column] += STEPS[int(4 * rng.random())]
            row = Row(box.clock.mono, tuple(now))
            buffer.append(group, row)
            books.take(group, row)
        if step * PERIOD_MS % (BATCH_S * 1000) == 0:
            await buffer.seal()
            highest = max(highest, sum(file.stat().st_size for file in box.folder.iterdir()))
            largest = max(largest, len(at_rest(buffer)[-1].body) if step % 97 == 0 else 0)
            await buffer.tidy()
            assert buffer.usage().bytes_on_disk <= LIMIT_BYTES
    await buffer.seal()
    assert highest <= LIMIT_BYTES + largest + LOG_BYTES
    await check(box, books)
    assert buffer.usage().thinned_readings > 0
    await buffer.close()


async def check(box: Box, books: Books) -> None:
    """The balance per group, and the extremes and the last of every stretch that was not dropped whole."""
    buffer = box.buffer
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    kept: defaultdict[int, int] = defaultdict(int)
    extremes: dict[tuple[int, int, int], tuple[int, int, int, int]] = {}
    dropped = [gap for gap in await gaps(buffer) if gap.reason == pb.GAP_DROPPED]
    named = Ranges((r.first, r.last) for gap in dropped for r in gap.seqs)
    for batch in at_rest(buffer):
        named.add(batch.seq)
        named.update(Ranges(batch.replaces))
        decoded = columns.decode(schemas[batch.schema], await plain(buffer, batch), count=batch.count)
        for _, event in decoded.events:
            gap = pb.Gap.FromString(event.detail)
            assert gap.reason == pb.GAP_THINNED
            kept[gap.group] += gap.count
        for block in decoded.blocks:
            kept[block.group] += len(block.times)
            for number, members in enumerate(block.columns):
                for at, value in zip(block.times, members, strict=True):
                    take(extremes, (block.group, number, at // TEN_MS), round(10 * float(value or 0)), at)
    (view,) = [view for view in await buffer.views() if view.lane == pb.TELEMETRY]
    assert list(named) == [(1, view.next_seq - 1)]
    readings = COLUMNS * sum(kept.values()) + sum(gap.count for gap in dropped)
    assert readings == COLUMNS * sum(books.rows.values())
    for group in box.ids:
        first = min(span for other, _, span in extremes if other == group)
        for column in range(COLUMNS):
            for span in {s for g, c, s in books.extremes if (g, c) == (group, column) and s > first}:
                low, high, last, _ = extremes[group, column, span]
                assert [low, high, last] == books.extremes[group, column, span]


def take(
    extremes: dict[tuple[int, int, int], tuple[int, int, int, int]], key: tuple[int, int, int], value: int, at: int
) -> None:
    low, high, last, last_at = extremes.get(key, (value, value, value, at))
    extremes[key] = (min(low, value), max(high, value), value if at >= last_at else last, max(at, last_at))
