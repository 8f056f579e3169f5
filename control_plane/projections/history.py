"""Which batch holds which minutes of which groups. The readings stay in the journal's batch, as they came."""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import Connection

from control_plane.projections.projection import Decoded, Portion
from control_plane.store.bulk import BulkWrite
from control_plane.store.tables import history, series
from control_plane.store.upsert import Insert, bulk_insert, insert
from protos.columns import BodyError
from protos.comboio.v1 import batch_pb2 as pb

IDENTITY = ("key", "gateway", "sensor", "name")
REGISTERED = (*IDENTITY, "unit", "type", "period_ms", "attrs", "epoch", "schema", "group_id", "series_id")
INDEXED = ("batch_id", "gateway", "epoch", "boot", "schema", "first_mono_ms", "last_mono_ms", "groups")


class HistoryProjection:
    def __init__(self) -> None:
        self._declared: set[tuple[str, int, int]] = set()
        self._write = bulk_insert(history, INDEXED)
        self._register = BulkWrite(_newest, REGISTERED)

    def forget(self) -> None:
        self._declared.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        self._write(connection, [row for decoded in portion.decoded for row in _index(decoded)])
        for decoded in portion.decoded:
            for envelope, said in zip(decoded.envelopes, decoded.declares, strict=True):
                key = (envelope.gateway, envelope.epoch, envelope.schema)
                if key not in self._declared:
                    self._register(connection, _series(envelope.gateway, envelope.epoch, said))
                    self._declared.add(key)


def _index(decoded: Decoded) -> list[dict[str, object]]:
    bulk = decoded.bulk
    if not len(bulk.batch):
        return []
    lowest = np.minimum.reduceat(bulk.times, bulk.row0)
    highest = np.maximum.reduceat(bulk.times, bulk.row0)
    begins = np.flatnonzero(np.append([True], bulk.batch[1:] != bulk.batch[:-1]))
    ends = [*begins[1:].tolist(), len(bulk.batch)]
    first, last = np.minimum.reduceat(lowest, begins).tolist(), np.maximum.reduceat(highest, begins).tolist()
    groups, boots, batches = bulk.group.astype("<u4"), bulk.boot.tolist(), bulk.batch[begins].tolist()
    rows: list[dict[str, object]] = []
    for number, (begin, end, index) in enumerate(zip(begins.tolist(), ends, batches, strict=True)):
        envelope, named = decoded.envelopes[index], groups[begin:end]
        if not (named[1:] > named[:-1]).all():
            named = np.unique(named)
        rows.append(
            {
                "batch_id": envelope.id,
                "gateway": envelope.gateway,
                "epoch": envelope.epoch,
                "boot": boots[index],
                "schema": envelope.schema,
                "first_mono_ms": first[number],
                "last_mono_ms": last[number],
                "groups": named.tobytes(),
            }
        )
    return rows


def check_names(declare: pb.Declare) -> None:
    """Raises BodyError for a declaration whose words don't fit their columns: its batches are set aside, not tried."""
    for group in declare.groups:
        _fits("sensor", group.sensor, 64)
        for one in group.series:
            _fits("name of a series", one.name, 120)
            _fits("unit", one.unit, 40)


def _fits(what: str, text: str, limit: int) -> None:
    if len(text) > limit or "\0" in text:
        raise BodyError(f"a {what} of {len(text)} characters, or with a NUL inside, where {limit} fit")


def _series(gateway: str, epoch: int, declare: pb.Declare) -> list[dict[str, object]]:
    """Rows of `series`; a group declared later wins."""
    newest = {
        f"{gateway}/{group.sensor}/{one.name}": (group, one)
        for group in sorted(declare.groups, key=lambda g: g.id)
        for one in group.series
    }
    return [
        {
            "key": key,
            "gateway": gateway,
            "sensor": group.sensor,
            "name": one.name,
            "unit": one.unit,
            "type": one.type,
            "period_ms": group.period_ms,
            "attrs": json.dumps(dict(one.attrs), sort_keys=True) if one.attrs else "{}",
            "epoch": epoch,
            "schema": declare.schema,
            "group_id": group.id,
            "series_id": one.id,
        }
        for key, (group, one) in newest.items()
    ]


def _newest(connection: Connection) -> Insert:
    """A schema declared later wins, however late a batch of the older one comes."""
    fresh = insert(connection, series)
    return fresh.on_conflict_do_update(
        index_elements=["key"],
        set_={name: fresh.excluded[name] for name in REGISTERED if name not in IDENTITY},
        where=(series.c.epoch != fresh.excluded.epoch) | (series.c.schema < fresh.excluded.schema),
    )
