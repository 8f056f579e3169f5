"""The unit of the loss ledger: rows of one group within one hour of a boot's monotonic clock.

That hour, and not one of wall time, because it is the same on the box and at the control plane from the first moment
on; a better anchor moves the wall time of an hour, never what was counted in it. Both sides take what was lost from
the same gap records by `shares`, so that they can only say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from protos.columns import MAX_TIME_MS
from protos.comboio.v1 import batch_pb2 as pb

HOUR_MS = 3_600_000
MOST_HOURS = 1000
"""A gap with a count over more hours than that is counted where it begins, as unknown."""
MOST_LISTED = 100_000


class Cell(NamedTuple):
    """`group` 0: all of them, or nobody knows which. `boot` 0: nobody knows when."""

    group: int
    boot: int
    hour: int


class Share(NamedTuple):
    """What one gap record says of one cell. `unknown`: rows were lost there, and nobody knows how many."""

    cell: Cell
    rows: int
    unknown: bool


def shares(gap: pb.Gap) -> list[Share]:
    """Where what the record names was lost. The counts add up to the record's, if it is exact and names no batches.

    Of batches: the rows that they held, as the record lists them; one that lists none is unknown. Of a stretch of one
    boot with an exact count: evenly spread over it. Of any other stretch: unknown in its first and its last hour;
    between them nothing was read, so nothing else is said of those hours.
    """
    if gap.rows:
        return [Share(Cell(one.group, one.boot, one.hour), one.rows, not one.rows) for one in gap.rows]
    first = Cell(gap.group, gap.from_boot, gap.from_mono_ms // HOUR_MS)
    within = gap.from_mono_ms if gap.from_boot == gap.to_boot else 0
    last = Cell(gap.group, gap.to_boot, max(within, gap.to_mono_ms - 1) // HOUR_MS)
    if gap.seqs:
        return [Share(first, 0, unknown=True)]
    hours = last.hour - first.hour + 1
    if gap.count_exact and first.boot == last.boot and 1 <= hours <= MOST_HOURS:
        return _spread(gap, first, hours)
    return [Share(cell, gap.count if cell == first else 0, unknown=True) for cell in dict.fromkeys((first, last))]


def _spread(gap: pb.Gap, first: Cell, hours: int) -> list[Share]:
    """Rounded so that no row is lost: what falls before each border, less what was given before."""
    begin, length = gap.from_mono_ms, max(1, gap.to_mono_ms - gap.from_mono_ms)
    found, given = [], 0
    for index in range(hours):
        border = min((first.hour + index + 1) * HOUR_MS - begin, length)
        before = gap.count if index == hours - 1 else gap.count * border // length
        if before > given:
            found.append(Share(first._replace(hour=first.hour + index), before - given, unknown=False))
            given = before
    return found


def listed(rows: Mapping[Cell, int]) -> list[pb.RowCount]:
    """As a gap record carries them."""
    return [pb.RowCount(group=cell.group, boot=cell.boot, hour=cell.hour, rows=n) for cell, n in sorted(rows.items())]


def counted(gap: pb.Gap) -> Counter[Cell]:
    """The inverse, of what a record lists."""
    return Counter({Cell(one.group, one.boot, one.hour): one.rows for one in gap.rows})


def placeable(gap: pb.Gap) -> bool:
    """Whether a ledger can hold what the record lists."""
    if len(gap.rows) > MOST_LISTED:
        return False
    return all(one.hour <= MAX_TIME_MS // HOUR_MS and one.rows < MAX_TIME_MS for one in gap.rows)
