"""A long stretch of history in pages: so many hours at a time that each holds about the same, none where nothing is.

The clocks are those of the first page: an anchor that comes meanwhile moves readings for the next reader, and makes
none of this one's come twice or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, true

from control_plane.projections.reading import SAME_MS, HistoryReader, Key, Readings, Walls
from control_plane.projections.rollup import HOUR_MS
from control_plane.projections.walltime import load_all
from control_plane.store.engine import Store
from control_plane.store.tables import chunk, history

PAGE_READINGS = 100_000
LONGEST_PAGE_MS = 7 * 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Source:
    """Some series of one gateway; `periods_ms` of each."""

    gateway: str
    keys: Sequence[Key]
    periods_ms: Sequence[int]


def pages(
    reader: HistoryReader, telemetry: Store, source: Source, *, from_ms: int, to_ms: int
) -> Iterator[Mapping[Key, Readings]]:
    """Oldest first; every page complete and sorted in itself, at most PAGE_READINGS or so of readings or one hour."""
    with telemetry.read(snapshot=True) as connection:
        walls = load_all(connection, source.gateway)
        filled = _filled(connection, source.gateway, walls)
    for low, high in filled:
        yield from _read(reader, source, walls, max(low, from_ms), min(high, to_ms))


def _read(
    reader: HistoryReader, source: Source, walls: Walls, from_ms: int, to_ms: int
) -> Iterator[Mapping[Key, Readings]]:
    per_hour = sum(HOUR_MS / max(1, period_ms) for period_ms in source.periods_ms)
    page_ms = min(LONGEST_PAGE_MS, max(1, int(PAGE_READINGS / max(1.0, per_hour))) * HOUR_MS)
    while from_ms < to_ms:
        end_ms = min(to_ms, (from_ms // page_ms + 1) * page_ms)
        # What another store of the same boot has too may lie a little further off: beyond the page's edge.
        found = reader.read(source.gateway, source.keys, from_ms=from_ms - SAME_MS, to_ms=end_ms + SAME_MS, walls=walls)
        yield {key: _cut(readings, from_ms, end_ms) for key, readings in found.items()}
        from_ms = end_ms


def _cut(readings: Readings, from_ms: int, to_ms: int) -> Readings:
    stay = [index for index, at_ms in enumerate(readings.times_ms) if from_ms <= at_ms < to_ms]
    first, last = (stay[0], stay[-1] + 1) if stay else (0, 0)  # sorted by time: they lie together
    return Readings(
        readings.times_ms[first:last],
        readings.values[first:last],
        readings.quality[first:last],
        readings.origin[first:last],
        readings.err_ms,
    )


def _filled(connection: Connection, gateway: str, walls: Walls) -> list[tuple[int, int]]:
    """Stretches of wall time, apart from each other, outside of which there is nothing."""
    spans: list[tuple[int, int]] = []
    for table, which in ((chunk, true()), (history, history.c.chunk.is_(None))):
        c = table.c
        query = select(c.epoch, c.boot, c.first_mono_ms, c.last_mono_ms).where(c.gateway == gateway, which)
        for epoch, boot, first_ms, last_ms in connection.execute(query):
            if (wall := walls.get((epoch, boot))) is not None:
                low, high = wall.wall_span(first_ms, last_ms)
                spans.append((low, high + 1))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
