"""Latest value per series: one compact row per gateway.

Body of a row: n u32, then n records of series id u32, boot u32, mono ms i64, value f64, quality u8, by series id.
Later means (boot, mono): a reading older than what is there changes nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select, update

from control_plane.projections.projection import Decoded, Portion
from control_plane.store.tables import state
from control_plane.store.upsert import upsert

ROW = np.dtype([("series", "<u4"), ("boot", "<u4"), ("mono_ms", "<i8"), ("value", "<f8"), ("quality", "u1")])
_HEAD = struct.Struct("<I")
Rows = NDArray[np.void]


@dataclass(slots=True)
class Latest:
    epoch: int
    readings: int
    rows: Rows


def unpack(body: bytes) -> Rows:
    (n,) = _HEAD.unpack_from(body)
    return np.frombuffer(body, ROW, n, _HEAD.size).copy()


def pack(rows: Rows) -> bytes:
    return _HEAD.pack(len(rows)) + rows.tobytes()


def begin_epoch(connection: Connection, gateway: str, epoch: int) -> None:
    """From now on this epoch is the gateway's present one: nothing is known of it yet."""
    row = (state.c.gateway == gateway, state.c.epoch != epoch)
    connection.execute(update(state).where(*row).values(epoch=epoch, body=pack(np.empty(0, ROW))))


class StateProjection:
    def __init__(self) -> None:
        self._known: dict[str, Latest] = {}

    def forget(self) -> None:
        self._known.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        touched: set[str] = set()
        for decoded in portion.decoded:
            touched |= self._take(connection, decoded)
        for gateway in touched & portion.doubled.keys():
            self._known[gateway].readings -= portion.doubled[gateway]
        if not touched:
            return
        upsert(connection, state, [self._row(gateway, portion.now_ms) for gateway in sorted(touched)])

    def _row(self, gateway: str, now_ms: int) -> dict[str, object]:
        latest = self._known[gateway]
        return {
            "gateway": gateway,
            "epoch": latest.epoch,
            "updated_ms": now_ms,
            "readings": latest.readings,
            "body": pack(latest.rows),
        }

    def _take(self, connection: Connection, decoded: Decoded) -> set[str]:
        bulk = decoded.bulk
        if not len(bulk.col_occ):
            return set()
        body = bulk.batch[bulk.col_occ]
        seen = np.empty(len(bulk.col_occ), ROW)
        seen["series"] = bulk.table.ids[bulk.series]
        seen["boot"] = bulk.boot[body]
        seen["mono_ms"] = bulk.last_time
        seen["value"] = bulk.last_value
        seen["quality"] = bulk.last_quality
        touched: set[str] = set()
        start = 0
        ends = np.searchsorted(body, np.arange(len(decoded.envelopes)), side="right")
        for envelope, end in zip(decoded.envelopes, ends, strict=True):
            if end > start:
                self._merge(connection, envelope.gateway, envelope.epoch, envelope.readings, seen[start:end])
                touched.add(envelope.gateway)
            start = int(end)
        return touched

    def _merge(self, connection: Connection, gateway: str, epoch: int, count: int, seen: Rows) -> None:
        latest = self._known.get(gateway) or self._load(connection, gateway, epoch)
        if latest.epoch != epoch:
            latest = Latest(epoch, latest.readings, np.empty(0, ROW))
        everything = np.concatenate((latest.rows, seen))
        order = np.lexsort((everything["mono_ms"], everything["boot"], everything["series"]))
        everything = everything[order]
        last = np.append(everything["series"][1:] != everything["series"][:-1], [True])
        self._known[gateway] = Latest(epoch, latest.readings + count, everything[last])

    def _load(self, connection: Connection, gateway: str, epoch: int) -> Latest:
        row = connection.execute(select(state).where(state.c.gateway == gateway)).one_or_none()
        if row is None:
            return Latest(epoch, 0, np.empty(0, ROW))
        return Latest(row.epoch, row.readings, unpack(row.body))
