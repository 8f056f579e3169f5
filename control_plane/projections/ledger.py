"""The control plane's side of the loss ledger: rows received and rows lost, per group and hour of a boot's clock.

Filled in the transaction that projects the batch. The gateway keeps the same by the same rules (`protos.hours`), so
once everything is acknowledged both say the same of every hour. `received` counts rows as they were decoded; `loss`
comes from gap records, each counted once.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select, tuple_

from control_plane.projections.projection import Decoded, Portion
from control_plane.store.tables import loss, received
from control_plane.store.upsert import bulk_upsert, insert
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, Cell, shares

HOURS_KEPT = 16_384
MOST_ROWS = (1 << 32) - 1
AT_ONCE = 200
HourKey: TypeAlias = tuple[str, int, int, int]
"""Gateway, epoch, boot, hour."""
Rows: TypeAlias = dict[int, int]
"""Group → rows."""
PAIR = np.dtype([("group", "<u4"), ("rows", "<u4")])


class Counts(NamedTuple):
    """Rows of some groups, each named once."""

    groups: NDArray[np.int64]
    rows: NDArray[np.int64]

    def plus(self, other: Counts) -> Counts:
        if self.groups.tobytes() == other.groups.tobytes():
            return Counts(self.groups, self.rows + other.rows)
        return _each_once(np.concatenate((self.groups, other.groups)), np.concatenate((self.rows, other.rows)))


NOTHING = Counts(np.empty(0, np.int64), np.empty(0, np.int64))


class LedgerProjection:
    """Owns `received`."""

    def __init__(self) -> None:
        self._known: OrderedDict[HourKey, Counts] = OrderedDict()
        self._write = bulk_upsert(received, ("gateway", "epoch", "boot", "hour", "body"))

    def forget(self) -> None:
        self._known.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        fresh: dict[HourKey, Counts] = {}
        for decoded in portion.decoded:
            _count(decoded, fresh)
        if not fresh:
            return
        self._load(connection, fresh.keys() - self._known.keys())
        for key, counted in fresh.items():
            held = self._known[key]
            self._known[key] = held.plus(counted) if held.groups.size else counted
            self._known.move_to_end(key)
        self._write(connection, [_row(key, self._known[key]) for key in sorted(fresh)])
        while len(self._known) > HOURS_KEPT:
            self._known.popitem(last=False)

    def _load(self, connection: Connection, keys: Collection[HourKey]) -> None:
        key_columns = (received.c.gateway, received.c.epoch, received.c.boot, received.c.hour)
        wanted = sorted(keys)
        for key in wanted:
            self._known[key] = NOTHING
        for start in range(0, len(wanted), AT_ONCE):
            query = select(received).where(tuple_(*key_columns).in_(wanted[start : start + AT_ONCE]))
            for row in connection.execute(query):
                self._known[row.gateway, row.epoch, row.boot, row.hour] = _counts(row.body)


def _count(decoded: Decoded, into: dict[HourKey, Counts]) -> None:
    bulk = decoded.bulk
    if not len(bulk.batch):
        return
    first = np.minimum.reduceat(bulk.times, bulk.row0) // HOUR_MS
    last = np.maximum.reduceat(bulk.times, bulk.row0) // HOUR_MS
    boots = bulk.boot.tolist()
    begins = np.flatnonzero(np.append([True], (bulk.batch[1:] != bulk.batch[:-1]) | (first[1:] != first[:-1])))
    ends = [*begins[1:].tolist(), len(bulk.batch)]
    # Within a stretch the groups mostly ascend, so that each is there once.
    ascends = np.append(bulk.group[1:] > bulk.group[:-1], [True])
    ascends[np.array(ends) - 1] = True
    once = np.logical_and.reduceat(ascends, begins).tolist()
    batches, hours = bulk.batch[begins].tolist(), first[begins].tolist()
    for begin, end, index, hour, alone in zip(begins.tolist(), ends, batches, hours, once, strict=True):
        groups, rows = bulk.group[begin:end], bulk.rows[begin:end]
        counted = Counts(groups.copy(), rows.copy()) if alone else _each_once(groups, rows)
        envelope = decoded.envelopes[index]
        _add(into, (envelope.gateway, envelope.epoch, boots[index], hour), counted)
    for occurrence in np.flatnonzero(first != last).tolist():
        _respread(decoded, occurrence, int(first[occurrence]), into)


def _add(into: dict[HourKey, Counts], key: HourKey, counted: Counts) -> None:
    held = into.get(key)
    into[key] = counted if held is None else held.plus(counted)


def _each_once(groups: NDArray[np.int64], rows: NDArray[np.int64]) -> Counts:
    found, where = np.unique(groups, return_inverse=True)
    return Counts(found, np.bincount(where, weights=rows, minlength=found.size).astype(np.int64))


def _respread(decoded: Decoded, occurrence: int, counted_in: int, into: dict[HourKey, Counts]) -> None:
    """Rows of more than one hour, which were all counted in the first, to where they belong."""
    bulk = decoded.bulk
    index, group = int(bulk.batch[occurrence]), bulk.group[occurrence : occurrence + 1]
    envelope, boot = decoded.envelopes[index], int(bulk.boot[index])
    start = int(bulk.row0[occurrence])
    hours, counts = np.unique(bulk.times[start : start + int(bulk.rows[occurrence])] // HOUR_MS, return_counts=True)
    for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
        if hour != counted_in:
            here, there = np.array([-count]), np.array([count])
            _add(into, (envelope.gateway, envelope.epoch, boot, counted_in), Counts(group, here))
            _add(into, (envelope.gateway, envelope.epoch, boot, hour), Counts(group, there))


def _row(key: HourKey, counts: Counts) -> dict[str, object]:
    gateway, epoch, boot, hour = key
    pairs = np.empty(counts.groups.size, PAIR)
    pairs["group"], pairs["rows"] = counts.groups, np.minimum(counts.rows, MOST_ROWS)
    return {"gateway": gateway, "epoch": epoch, "boot": boot, "hour": hour, "body": pairs.tobytes()}


def _counts(body: bytes) -> Counts:
    pairs = np.frombuffer(body, PAIR)
    return Counts(pairs["group"].astype(np.int64), pairs["rows"].astype(np.int64))


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
