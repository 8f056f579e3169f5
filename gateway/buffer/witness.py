"""What the store had committed, as the tail remembers it.

SQLite takes a damaged write-ahead log for a shorter one, and a disk that lies about its syncs leaves an older store:
both open without an error, and numbers that were sent would be given to other batches. So when a store was opened and
after each commit that gave a number the tail gets a *mark*; a store that is behind the newest mark of its epoch catches
up before anything of it is used. What it lost is then neither held nor recorded below its next numbers, and the
accounting at the next Hello finds it. A kill between a commit and its mark, and damage of just that commit: nobody
could know.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import NamedTuple

from gateway.buffer.sealed import LANES, Sealed
from gateway.buffer.tail import Position, Tail

SCHEMA = 0xFFFF_FFFF
"""Stands where a declaration's number would in a record of the tail."""
_MARK = struct.Struct("<QQIIQQQQQ16s")


class Mark(NamedTuple):
    """One committed state. `schema`: number of the newest declaration."""

    epoch: int
    opens: int
    boot: int
    schema: int
    urgent_next: int
    telemetry_next: int
    gaps_through: int
    generation: int
    offset: int
    boot_id: bytes

    def pack(self) -> bytes:
        return _MARK.pack(*self)


def catch_up(store: Sealed, tail: Tail, *, folder: Path, now_ms: int) -> tuple[int, str]:
    """Bring the store to what the tail knows of it; returns the newest declaration's number, and what to tell a person.

    Call it before the store commits anything: the log with what it lost is copied aside first.
    """
    records = list(tail.everything())
    marks = [Mark(*_MARK.unpack(record.payload)) for record in records if record.schema == SCHEMA]
    mark = max((one for one in marks if one.epoch == store.epoch), default=None, key=lambda one: one[1:])
    if mark is None:
        new = records and not store.opens()
        return 0, "what sealed.db held is lost; a new store was begun" if new else ""
    if fell := marks[-1].epoch != store.epoch:  # behind a change of epoch: only numbers are its own
        mark = marks[-1]._replace(schema=mark.schema, urgent_next=mark.urgent_next, telemetry_next=mark.telemetry_next)
    position = Position(mark.generation, mark.offset)
    nexts = (mark.urgent_next, mark.telemetry_next)
    known = (store.lanes[lane].next_seq >= seq for lane, seq in zip(LANES, nexts, strict=True))
    if all(known) and store.opens() >= mark.opens and not fell:
        return mark.schema, ""
    _keep_log(folder / "sealed.db-wal", now_ms)
    store.bodies.set_aside(f".damaged-{now_ms}")
    lost = store.catch_up(
        dict(zip(LANES, nexts, strict=True)),
        tail=position,
        opens=mark.opens,
        boot=(mark.boot, mark.boot_id),
        gaps_through=mark.gaps_through,
    )
    return mark.schema, f"sealed.db has lost the last {lost} batches it had sealed; its log was copied aside"


def _keep_log(log: Path, now_ms: int) -> None:
    if log.exists():
        shutil.copyfile(log, log.with_name(f"{log.name}.damaged-{now_ms}"))
