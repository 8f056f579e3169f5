"""How many rows of which group and hour the batches of the store hold, as each says since it was sealed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from gateway.buffer import tally
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, Cell, counted, listed

Query = Callable[[str, Sequence[int | bytes]], sqlite3.Cursor]


def cells(query: Query, lane: int, ranges: Iterable[tuple[int, int]]) -> Iterator[Counter[Cell]]:
    """Of each batch there. One that does not say: 0 rows of group 0, in the hour up to which it was complete."""
    asked = (
        "SELECT cells, complete_boot, complete_mono_ms FROM batch WHERE lane = ? AND seq BETWEEN ? AND ? ORDER BY seq"
    )
    for first, last in ranges:
        for packed, boot, mono_ms in query(asked, (lane, first, last)):
            unknown = Counter({Cell(0, boot, mono_ms // HOUR_MS): 0})
            try:
                yield tally.unpack(packed) or unknown
            except (ValueError, TypeError):
                yield unknown


def with_rows(event: pb.Event, query: Query, thinned: Iterable[pb.Gap] = ()) -> pb.Event:
    """A gap event that names batches which are still here, with the rows that go with them, and went before."""
    gap = pb.Gap.FromString(event.detail)
    if not gap.seqs or gap.rows:
        return event
    total: Counter[Cell] = Counter()
    for found in cells(query, gap.lane, [(one.first, one.last) for one in gap.seqs]):
        total.update(found)
    for before in thinned:
        total.update(counted(before))
    gap.rows.extend(listed(total))
    told = pb.Event()
    told.CopyFrom(event)
    told.detail = gap.SerializeToString()
    return told
