"""The gateway's side of the loss ledger: rows sealed and rows lost, per group and hour of a boot's clock.

    produced = delivered + waiting + lost          read = delivered + waiting + lost after sealing

Invariants (each has a test with its name)
1. counts_each_row_once: what a sealing transaction seals or loses is counted in that transaction, by the gap records
   that it seals; what the control plane is told and what is counted here can't differ.
2. costs_no_page_of_its_own: the hour that is going on is counted in `last_readings`, which a sealing writes anyway; it
   moves to `ledger` when a row of another hour comes.

`ledger.reason` 0 counts what was read, the others are GapReason. `after`: those of the rows that had been sealed.
`hour` -1: all hours of that boot which are older than KEPT_HOURS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.buffer import last_readings
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.last_readings import Last, Run
from gateway.reading import Row
from protos import body_fields, columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, Cell, shares

READ = 0
KEPT_HOURS = 400 * 24
JOINED = -1
STEP = """
CREATE TABLE ledger(boot INTEGER NOT NULL, hour INTEGER NOT NULL, group_id INTEGER NOT NULL, reason INTEGER NOT NULL,
                    rows INTEGER NOT NULL, after INTEGER NOT NULL, unknown INTEGER NOT NULL,
                    PRIMARY KEY(boot, hour, group_id, reason)) WITHOUT ROWID;
CREATE TABLE placed(boot INTEGER PRIMARY KEY, mono_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL,
                    err_ms INTEGER NOT NULL)"""
"""What a file of an earlier format lacks, with the rows of the hour in `last_reading`. `placed`: newest anchors."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[int]]).decode


def rows_of(rows: Mapping[int, Sequence[Row]], boot: int) -> Counter[Cell]:
    """Rows per cell."""
    found: Counter[Cell] = Counter()
    for group, members in rows.items():
        if not members:
            continue
        times = [row.mono_ms for row in members]
        first, last = min(times) // HOUR_MS, max(times) // HOUR_MS
        if first == last:
            found[Cell(group, boot, first)] += len(times)
        else:
            found.update(Cell(group, boot, ms // HOUR_MS) for ms in times)
    return found


def pack(cells: Mapping[Cell, int]) -> bytes:
    """Some 3 bytes for each cell: MessagePack of [boot, hour, group, rows, group, rows, …] per hour."""
    hours: dict[tuple[int, int], list[int]] = {}
    for cell, rows in cells.items():
        hours.setdefault((cell.boot, cell.hour), [cell.boot, cell.hour]).extend((cell.group, rows))
    return _encode(list(hours.values())) if hours else b""


def unpack(packed: bytes) -> Counter[Cell]:
    """Raises ValueError for damaged bytes."""
    found: Counter[Cell] = Counter()
    try:
        for boot, hour, *pairs in _decode(packed) if packed else ():
            found.update({Cell(group, boot, hour): rows for group, rows in zip(pairs[::2], pairs[1::2], strict=True)})
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    return found


def record(
    run: Run,
    *,
    batches: Iterable[SealedBatch],
    gaps: Iterable[pb.Gap],
    counted: Iterable[pb.Gap],
    newest: Mapping[int, tuple[int, int]],
) -> None:
    """Inside a sealing transaction: count what it seals and loses, and move the groups' last readings.

    `gaps`: records that are not in a batch of the URGENT lane. `counted`: earlier records that the new ones include. A
    batch that replaces others was read before.
    """
    lost = list(gaps)
    read: Counter[Cell] = Counter()
    for batch in batches:
        if not batch.replaces:
            read.update(unpack(batch.cells))
        if batch.lane == pb.URGENT:
            for kind, detail in _events(batch):
                if kind == pb.EVENT_GAP:
                    lost.append(pb.Gap.FromString(detail))
                elif kind == pb.EVENT_ANCHOR:
                    _place(run, pb.Anchor.FromString(detail))
    for gap in counted:
        for cell, count, _ in shares(gap):
            add(run, cell, int(gap.reason), -count, after=-count)
    for gap in lost:
        if gap.reason == pb.GAP_RESTART and gap.group:
            last_readings.tell(run, gap.group, gap.to_boot, gap.to_mono_ms - 1)
        sealed = bool(gap.seqs) or gap.reason == pb.GAP_THINNED
        for cell, count, unknown in shares(gap):
            add(run, cell, int(gap.reason), count, after=count if sealed else 0, unknown=unknown)
    if read or newest:
        _move(run, read, newest)


def retire(run: Run, groups: Collection[int]) -> None:
    """They are read no more; their hour is over."""
    lasts = last_readings.load(run)
    for group in lasts.keys() & set(groups):
        _end_hour(run, group, lasts.pop(group))
        last_readings.untell(run, group)
    last_readings.keep(run, lasts)


def _end_hour(run: Run, group: int, last: Last) -> None:
    if last.in_hour:
        add(run, Cell(group, last.boot, last.mono_ms // HOUR_MS), READ, last.in_hour)


def add(run: Run, cell: Cell, reason: int, rows: int, *, after: int = 0, unknown: bool = False) -> None:
    run(
        "INSERT INTO ledger VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "rows = rows + excluded.rows, after = after + excluded.after, unknown = max(unknown, excluded.unknown)",
        (cell.boot, cell.hour, cell.group, reason, rows, after, int(unknown)),
    )


def _move(run: Run, read: Counter[Cell], newest: Mapping[int, tuple[int, int]]) -> None:
    lasts = last_readings.load(run)
    for group, (boot, mono_ms) in newest.items():
        now = Cell(group, boot, mono_ms // HOUR_MS)
        count = read.pop(now, 0)
        if group in lasts:
            before = lasts[group]
            if now == Cell(group, before.boot, before.mono_ms // HOUR_MS):
                count += before.in_hour
            else:
                _end_hour(run, group, before)
        lasts[group] = Last(boot, mono_ms, count)
    last_readings.keep(run, lasts)
    for cell, count in read.items():
        add(run, cell, READ, count)


def _place(run: Run, anchor: pb.Anchor) -> None:
    run(
        "INSERT INTO placed VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "mono_ms = excluded.mono_ms, wall_ms = excluded.wall_ms, err_ms = excluded.err_ms",
        (anchor.boot, anchor.mono_ms, anchor.wall_ms, anchor.err_ms),
    )


def _events(batch: SealedBatch) -> Iterable[tuple[int, bytes]]:
    plain = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
    for content in body_fields.split(plain).events:
        event = pb.Event.FromString(content)
        yield event.kind, event.detail


def join_old(run: Run, *, kept_hours: int = KEPT_HOURS) -> None:
    """Inside a transaction: of the oldest hours, beyond the newest `kept_hours`, keep one sum per boot."""
    query = "SELECT DISTINCT boot, hour FROM ledger WHERE hour >= 0 ORDER BY boot DESC, hour DESC LIMIT 1 OFFSET ?"
    newest: Any = run(query, (kept_hours,)).fetchone()
    if newest is None:
        return
    run(
        "INSERT INTO ledger SELECT boot, ?, group_id, reason, sum(rows), sum(after), max(unknown) FROM ledger "
        "WHERE (boot, hour) <= (?, ?) AND hour >= 0 GROUP BY boot, group_id, reason "
        "ON CONFLICT DO UPDATE SET rows = rows + excluded.rows, after = after + excluded.after, "
        "unknown = max(unknown, excluded.unknown)",
        (JOINED, *newest),
    )
    run("DELETE FROM ledger WHERE (boot, hour) <= (?, ?) AND hour >= 0", tuple(newest))
