"""The loss ledger told to a person: beside the running daemon, read-only, by the store's file.

Per group and hour: read = delivered + waiting + what was lost after sealing; produced = delivered + waiting + lost.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, field

from gateway.buffer import held, last_readings
from gateway.buffer.beside import looking
from gateway.buffer.tally import JOINED, READ
from gateway.errors import Misconfigured
from protos.comboio.v1 import batch_pb2 as pb
from protos.gaps import reason_word
from protos.hours import HOUR_MS, Cell
from protos.ranges import Ranges

LEDGER_SINCE = 3
"""Format of the store that has a ledger."""
EVERYTHING = "(every sensor)"


class Line(Struct, frozen=True, kw_only=True):
    """One group in one hour of a boot's clock; `hour` -1: everything of that boot before what is kept by the hour.

    `from_ms`: wall time of its beginning, None while the boot's clock is not known. `lost`: rows by reason, of what was
    read and of what could not be. `unknown`: reasons by which rows were lost that nobody could count.
    """

    sensor: str
    group: int
    boot: int
    hour: int
    from_ms: int | None
    read: int
    delivered: int
    waiting: int
    lost: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @property
    def produced(self) -> int:
        return self.delivered + self.waiting + sum(self.lost.values())


def ledger(folder: Path, *, sensor: str | None = None, hours: int | None = None) -> list[Line]:
    """Oldest first; `sensor` may be sensor/quantity, `hours`: the newest so many of those in which anything happened.

    Raises Misconfigured when there is no readable ledger, or no such sensor.
    """
    with looking(folder) as db:  # of one instant: what waits now must fit what was counted
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version < LEDGER_SINCE:
            path = folder / "sealed.db"
            raise Misconfigured(f"{path}: of an earlier version; its ledger begins at the daemon's next start")
        return _lines(db, sensor, hours)


def _lines(db: sqlite3.Connection, sensor: str | None, hours: int | None) -> list[Line]:
    names = _names(db, sensor)
    read, lost, after, unknown = _counted(db)
    waiting = _waiting(db)
    cells = sorted(
        (cell for cell in {*read, *lost, *waiting} if cell.group in names), key=lambda c: (c.boot, c.hour, c.group)
    )
    if hours is not None:
        chosen = sorted({(cell.boot, cell.hour) for cell in cells})[-hours:]
        cells = [cell for cell in cells if (cell.boot, cell.hour) in chosen]
    placed = {boot: wall - mono for boot, mono, wall in db.execute("SELECT boot, mono_ms, wall_ms FROM placed")}
    return [
        Line(
            sensor=names[cell.group],
            group=cell.group,
            boot=cell.boot,
            hour=cell.hour,
            from_ms=placed[cell.boot] + cell.hour * HOUR_MS if cell.boot in placed and cell.hour >= 0 else None,
            read=read[cell],
            delivered=max(0, read[cell] - waiting[cell] - after[cell]),
            waiting=waiting[cell],
            lost={reason: rows for reason, rows in sorted(lost.get(cell, {}).items()) if rows},
            unknown=sorted(unknown.get(cell, ())),
        )
        for cell in cells
    ]


def _names(db: sqlite3.Connection, sensor: str | None) -> dict[int, str]:
    """Group → sensor, of those that are asked for. What concerns every sensor concerns each."""
    bodies = [pb.Declare.FromString(body) for (body,) in db.execute("SELECT body FROM schema ORDER BY number")]
    groups = {group.id: group for declare in bodies for group in declare.groups}
    wanted, _, quantity = (sensor or "").partition("/")
    found = {
        number: group.sensor
        for number, group in groups.items()
        if wanted in {"", group.sensor} and (not quantity or quantity in {series.name for series in group.series})
    }
    if sensor is not None and not found:
        known = ", ".join(sorted({group.sensor for group in groups.values()})) or "none"
        raise Misconfigured(f"{sensor}: nothing was ever read of it; there is {known}")
    return found | {0: EVERYTHING}


def _counted(
    db: sqlite3.Connection,
) -> tuple[Counter[Cell], dict[Cell, dict[str, int]], Counter[Cell], dict[Cell, set[str]]]:
    read: Counter[Cell] = Counter()
    after: Counter[Cell] = Counter()
    lost: dict[Cell, dict[str, int]] = {}
    unknown: dict[Cell, set[str]] = {}
    for boot, hour, group, reason, rows, gone, uncounted in db.execute("SELECT * FROM ledger"):
        cell = Cell(group, boot, hour)
        if reason == READ:
            read[cell] += rows
            continue
        lost.setdefault(cell, {})[reason_word(reason)] = rows
        after[cell] += gone
        if uncounted:
            unknown.setdefault(cell, set()).add(reason_word(reason))
    for group, last in last_readings.load(db.execute).items():
        if last.in_hour:
            read[Cell(group, last.boot, last.mono_ms // HOUR_MS)] += last.in_hour
    return read, lost, after, unknown


def _waiting(db: sqlite3.Connection) -> Counter[Cell]:
    """Rows of batches that no acknowledgement covers."""
    found: Counter[Cell] = Counter()
    joined = {(boot, group) for boot, group in db.execute("SELECT boot, group_id FROM ledger WHERE hour < 0")}
    kept = {(boot, hour) for boot, hour in db.execute("SELECT DISTINCT boot, hour FROM ledger")}
    query = "SELECT next_seq, acked FROM lane WHERE lane = ?"
    for next_seq, acked in db.execute(query, (pb.TELEMETRY,)).fetchall():
        for cells in held.cells(db.execute, pb.TELEMETRY, Ranges.unpack(acked).missing(1, next_seq - 1)):
            for cell, rows in cells.items():
                old = (cell.boot, cell.group) in joined and (cell.boot, cell.hour) not in kept
                found[cell._replace(hour=JOINED) if old else cell] += rows
    return +found


def text(lines: Iterable[Line]) -> str:
    """For a person: an hour's heading, then one line per sensor."""
    lines = list(lines)
    if not lines:
        return "Nothing has been read yet."
    width = max(len("sensor"), *(len(line.sensor) for line in lines))
    told = [f"{'hour':<18}{'sensor':<{width}}{'read':>10}{'delivered':>11}{'waiting':>9}{'lost':>8}  why"]
    before = None
    for line in lines:
        heading = _hour(line)
        told.append(
            f"{heading if heading != before else '':<18}{line.sensor:<{width}}{line.read:>10}{line.delivered:>11}"
            f"{line.waiting:>9}{_lost(line):>8}  {', '.join(_why(line))}".rstrip()
        )
        before = heading
    totals = (sum(getattr(line, name) for line in lines) for name in ("read", "delivered", "waiting"))
    read, delivered, waiting = totals
    lost = sum(sum(line.lost.values()) for line in lines)
    told += ["", f"in all: {read} read, {delivered} delivered, {waiting} waiting, {lost} lost"]
    if any(line.unknown for line in lines):
        told.append("+?: besides, some were lost that nobody could count (a stop without warning, a damaged file)")
    return "\n".join(told)


def _hour(line: Line) -> str:
    if line.hour < 0:
        return f"boot {line.boot}, before"
    if line.from_ms is None:
        return f"boot {line.boot}, hour {line.hour}" if line.boot else "nobody knows when"
    return datetime.fromtimestamp(line.from_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _lost(line: Line) -> str:
    rows = sum(line.lost.values())
    return f"{rows}+?" if line.unknown else str(rows)


def _why(line: Line) -> Iterator[str]:
    for reason in dict.fromkeys([*line.lost, *line.unknown]):
        rows = line.lost.get(reason, 0)
        yield f"{reason} {rows}{'+?' if reason in line.unknown else ''}" if rows else f"{reason} ?"
