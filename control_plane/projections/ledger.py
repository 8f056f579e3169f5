"""The control plane's side of the loss ledger: rows received and rows lost, per group and hour of a boot's clock.

Filled in the transaction that projects the batch. The gateway keeps the same by the same rules (`protos.hours`), so
once everything is acknowledged both say the same of every hour. `received` counts rows as they were decoded; `loss`
comes from gap records, each counted once.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Collection
from typing import TypeAlias

import numpy as np
from sqlalchemy import Connection, select, tuple_

from control_plane.projections.projection import Decoded, Portion
from control_plane.store.tables import loss, received
from control_plane.store.upsert import insert, upsert
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, Cell, shares

HOURS_KEPT = 16_384
MOST_ROWS = (1 << 32) - 1
AT_ONCE = 200
HourKey: TypeAlias = tuple[str, int, int, int]
"""Gateway, epoch, boot, hour."""
Rows: TypeAlias = dict[int, int]
"""Group → rows."""


class LedgerProjection:
    """Owns `received`."""

    def __init__(self) -> None:
        self._known: OrderedDict[HourKey, Rows] = OrderedDict()

    def forget(self) -> None:
        self._known.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        fresh: dict[HourKey, Rows] = {}
        for decoded in portion.decoded:
            _count(decoded, fresh)
        if not fresh:
            return
        self._load(connection, fresh.keys() - self._known.keys())
        for key, counted in fresh.items():
            rows = self._known[key]
            for group, count in counted.items():
                rows[group] = min(MOST_ROWS, rows.get(group, 0) + count)
            self._known.move_to_end(key)
        upsert(connection, received, [_row(key, self._known[key]) for key in sorted(fresh)])
        while len(self._known) > HOURS_KEPT:
            self._known.popitem(last=False)

    def _load(self, connection: Connection, keys: Collection[HourKey]) -> None:
        key_columns = (received.c.gateway, received.c.epoch, received.c.boot, received.c.hour)
        wanted = sorted(keys)
        for key in wanted:
            self._known[key] = {}
        for start in range(0, len(wanted), AT_ONCE):
            query = select(received).where(tuple_(*key_columns).in_(wanted[start : start + AT_ONCE]))
            for row in connection.execute(query):
                self._known[row.gateway, row.epoch, row.boot, row.hour] = unpack(row.body)


def _count(decoded: Decoded, into: dict[HourKey, Rows]) -> None:
    bulk = decoded.bulk
    if not len(bulk.batch):
        return
    first = np.minimum.reduceat(bulk.times, bulk.row0) // HOUR_MS
    last = np.maximum.reduceat(bulk.times, bulk.row0) // HOUR_MS
    boots = bulk.boot.tolist()
    envelopes = decoded.envelopes
    at: tuple[int, int] = (-1, -1)
    rows: Rows = {}
    occurrences = zip(bulk.batch.tolist(), bulk.group.tolist(), bulk.rows.tolist(), first.tolist(), strict=True)
    for index, group, count, hour in occurrences:
        if (index, hour) != at:
            at, envelope = (index, hour), envelopes[index]
            rows = into.setdefault((envelope.gateway, envelope.epoch, boots[index], hour), {})
        rows[group] = rows.get(group, 0) + count
    for occurrence in np.flatnonzero(first != last).tolist():
        _respread(decoded, occurrence, int(first[occurrence]), into)


def _respread(decoded: Decoded, occurrence: int, counted_in: int, into: dict[HourKey, Rows]) -> None:
    """Rows of more than one hour, which were all counted in the first, to where they belong."""
    bulk = decoded.bulk
    index, group = int(bulk.batch[occurrence]), int(bulk.group[occurrence])
    envelope, boot = decoded.envelopes[index], int(bulk.boot[index])
    start = int(bulk.row0[occurrence])
    hours, counts = np.unique(bulk.times[start : start + int(bulk.rows[occurrence])] // HOUR_MS, return_counts=True)
    for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
        if hour != counted_in:
            into[envelope.gateway, envelope.epoch, boot, counted_in][group] -= count
            rows = into.setdefault((envelope.gateway, envelope.epoch, boot, hour), {})
            rows[group] = rows.get(group, 0) + count


def _row(key: HourKey, rows: Rows) -> dict[str, object]:
    gateway, epoch, boot, hour = key
    return {"gateway": gateway, "epoch": epoch, "boot": boot, "hour": hour, "body": pack(rows)}


def pack(rows: Rows) -> bytes:
    return struct.pack(f"<{2 * len(rows)}I", *(number for pair in rows.items() for number in pair))


def unpack(body: bytes) -> Rows:
    return dict(struct.iter_unpack("<II", body))


def lose(connection: Connection, *, gateway: str, epoch: int, record: pb.Gap) -> None:
    """Count what a gap record says; call it once per record."""
    rows = [_loss(gateway, epoch, int(record.reason), *share) for share in shares(record)]
    if not rows:
        return
    fresh = insert(connection, loss)
    added = {"rows": loss.c.rows + fresh.excluded.rows, "unknown": loss.c.unknown.bitwise_or(fresh.excluded.unknown)}
    connection.execute(fresh.on_conflict_do_update(index_elements=list(loss.primary_key), set_=added), rows)


def _loss(gateway: str, epoch: int, reason: int, cell: Cell, rows: int, unknown: bool) -> dict[str, object]:
    where = {"gateway": gateway, "epoch": epoch, "boot": cell.boot, "hour": cell.hour, "group_id": cell.group}
    return where | {"reason": reason, "rows": rows, "unknown": int(unknown)}
