"""Which batch holds which minutes of which groups. The readings stay in the journal's batch, as they came."""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import Connection, or_
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from control_plane.projections.projection import Decoded, Portion
from control_plane.store.tables import history, series
from protos.comboio.v1 import batch_pb2 as pb


class HistoryProjection:
    def __init__(self) -> None:
        self._declared: set[tuple[str, int, int]] = set()

    def forget(self) -> None:
        self._declared.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        rows = [row for decoded in portion.decoded for row in _index(decoded)]
        if rows:
            connection.execute(history.insert(), rows)
        for decoded in portion.decoded:
            for envelope in decoded.envelopes:
                key = (envelope.gateway, envelope.epoch, envelope.schema)
                if key not in self._declared:
                    _register(connection, envelope.gateway, envelope.epoch, decoded.declare)
                    self._declared.add(key)


def _index(decoded: Decoded) -> list[dict[str, object]]:
    bulk = decoded.bulk
    if not len(bulk.batch):
        return []
    lowest = np.minimum.reduceat(bulk.times, bulk.row0)
    highest = np.maximum.reduceat(bulk.times, bulk.row0)
    rows: list[dict[str, object]] = []
    ends = np.searchsorted(bulk.batch, np.arange(len(decoded.envelopes)), side="right")
    start = 0
    for index, (envelope, end) in enumerate(zip(decoded.envelopes, ends, strict=True)):
        if end > start:
            rows.append(
                {
                    "batch_id": envelope.id,
                    "gateway": envelope.gateway,
                    "epoch": envelope.epoch,
                    "boot": int(bulk.boot[index]),
                    "schema": envelope.schema,
                    "first_mono_ms": int(lowest[start:end].min()),
                    "last_mono_ms": int(highest[start:end].max()),
                    "groups": np.unique(bulk.group[start:end]).astype("<u4").tobytes(),
                }
            )
        start = int(end)
    return rows


def _register(connection: Connection, gateway: str, epoch: int, declare: pb.Declare) -> None:
    """Remember the newest declaration of each series; a group declared later wins, whichever batch came first."""
    newest = {
        f"{gateway}/{group.sensor}/{one.name}": (group, one)
        for group in sorted(declare.groups, key=lambda g: g.id)
        for one in group.series
    }
    rows = [
        {
            "key": key,
            "gateway": gateway,
            "sensor": group.sensor,
            "name": one.name,
            "unit": one.unit,
            "type": one.type,
            "period_ms": group.period_ms,
            "attrs": json.dumps(dict(one.attrs), sort_keys=True),
            "epoch": epoch,
            "group_id": group.id,
            "series_id": one.id,
        }
        for key, (group, one) in newest.items()
    ]
    if not rows:
        return
    insert = sqlite_insert if connection.dialect.name == "sqlite" else pg_insert
    fresh = insert(series)
    names = ("unit", "type", "period_ms", "attrs", "epoch", "group_id", "series_id")
    newer = or_(fresh.excluded.epoch != series.c.epoch, fresh.excluded.group_id >= series.c.group_id)
    upsert = fresh.on_conflict_do_update(
        index_elements=["key"], set_={n: fresh.excluded[n] for n in names}, where=newer
    )
    connection.execute(upsert, rows)
