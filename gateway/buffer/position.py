"""Where the newest sealed row of a sensor stands, by the store's file: read-only, also beside the running daemon."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from msgspec import Struct

from gateway.buffer import last_readings, tally
from gateway.buffer.beside import looking
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

MOST_LOOKED_AT = 5000


class Position(Struct, frozen=True, kw_only=True):
    """`seq` 0: none of the newest batches here holds a row of it. Times are None where nobody knows them."""

    group: int
    quantities: list[str]
    boot: int
    mono_ms: int
    at_ms: int | None
    """Wall time of the newest sealed row, as the newest anchor of its boot has it."""
    seq: int
    sealed_ms: int | None
    acknowledged: bool
    waiting_before: int
    """Batches of the lane that wait and are older."""


def positions(folder: Path, sensor: str) -> list[Position]:
    """One per group of the sensor that is or was read. Raises Misconfigured when there is no readable buffer."""
    with looking(folder) as db:
        return list(_positions(db, sensor))


def _positions(db: sqlite3.Connection, sensor: str) -> list[Position]:
    newest = db.execute("SELECT body FROM schema ORDER BY number DESC LIMIT 1").fetchone()
    groups = pb.Declare.FromString(newest[0]).groups if newest else ()
    last = last_readings.load(db.execute)
    next_seq, packed = db.execute("SELECT next_seq, acked FROM lane WHERE lane = ?", (pb.TELEMETRY,)).fetchone()
    acked = Ranges.unpack(packed)
    wanted = [group for group in groups if group.sensor == sensor and group.id in last]
    holding = _newest_batches(db, {group.id for group in wanted})
    found = []
    for group in wanted:
        boot, mono_ms, _ = last[group.id]
        placed = db.execute("SELECT wall_ms - mono_ms FROM placed WHERE boot = ?", (boot,)).fetchone()
        seq, sealed_ms = holding.get(group.id, (0, 0))
        older = acked.missing(1, min(seq, next_seq) - 1) if seq else ()
        found.append(
            Position(
                group=group.id,
                quantities=[series.name for series in group.series],
                boot=boot,
                mono_ms=mono_ms,
                at_ms=placed[0] + mono_ms if placed else None,
                seq=seq,
                sealed_ms=sealed_ms or None,
                acknowledged=seq in acked,
                waiting_before=sum(last_ - first + 1 for first, last_ in older),
            )
        )
    return found


def _newest_batches(db: sqlite3.Connection, groups: set[int]) -> dict[int, tuple[int, int]]:
    """Group → (seq, wall time of sealing) of the newest batch with a row of it."""
    found: dict[int, tuple[int, int]] = {}
    query = "SELECT seq, sealed_ms, cells FROM batch WHERE lane = ? ORDER BY seq DESC LIMIT ?"
    for seq, sealed_ms, cells in db.execute(query, (pb.TELEMETRY, MOST_LOOKED_AT)):
        try:
            held = {cell.group for cell in tally.unpack(cells)}
        except (ValueError, TypeError):
            continue
        for group in held & groups:
            found.setdefault(group, (seq, sealed_ms))
        if found.keys() == groups:
            break
    return found
