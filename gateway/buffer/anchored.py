"""The anchors of boots that still have batches here: in a new epoch the server needs them again.

Bounded: of each boot the first, the last and some between; none of boots that nothing here is of.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from protos.comboio.v1 import batch_pb2 as pb

MOST_PER_BOOT = 34
MOST_TOLD = 4000
Run = Callable[..., sqlite3.Cursor]


def keep(run: Run, anchors: Sequence[pb.Anchor]) -> None:
    """Inside a transaction: remember these, forget what is no more needed."""
    for one in anchors:
        fact = (one.boot, one.mono_ms, one.SerializeToString())
        run("INSERT OR IGNORE INTO anchor VALUES(?, ?, ?)", fact)
    for boot in {one.boot for one in anchors}:
        _thin(run, boot)
    oldest = [
        boot
        for (boot,) in run(
            "SELECT complete_boot FROM batch JOIN (SELECT lane AS l, min(seq) AS s FROM batch GROUP BY lane) "
            "ON lane = l AND seq = s"
        ).fetchall()
    ]
    if oldest:
        run("DELETE FROM anchor WHERE boot < ?", (min(oldest),))


def found_in(events: Iterable[tuple[int, pb.Event]]) -> list[pb.Anchor]:
    """Those among events that are about to be sealed."""
    return [pb.Anchor.FromString(event.detail) for _, event in events if event.kind == pb.EVENT_ANCHOR]


def _thin(run: Run, boot: int) -> None:
    """Where there are too many of one boot, that goes whose neighbours are nearest to each other; the ends stay."""
    times = [mono for (mono,) in run("SELECT mono_ms FROM anchor WHERE boot = ? ORDER BY mono_ms", (boot,)).fetchall()]
    while len(times) > MOST_PER_BOOT:
        least = min(range(1, len(times) - 1), key=lambda at: times[at + 1] - times[at - 1])
        run("DELETE FROM anchor WHERE boot = ? AND mono_ms = ?", (boot, times.pop(least)))


def load(run: Run) -> list[pb.Anchor]:
    """Oldest first; when there are very many, the newest of them."""
    rows = run("SELECT fact FROM anchor ORDER BY boot DESC, mono_ms DESC LIMIT ?", (MOST_TOLD,)).fetchall()
    return [pb.Anchor.FromString(fact) for (fact,) in reversed(rows)]
