"""Schemas as arrays, and what bulk decoding gives: flat arrays at the levels of body, group, column and reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.projections.varints import Int64
from protos.columns import BodyError, ColumnSpec, Schema, Value
from protos.comboio.v1 import batch_pb2 as pb

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Tables:
    """Declared series as arrays, flat, in the order of groups; a group is a stretch of them.

    `Table` holds one schema, `joined` puts many side by side: each is then a *part*, and a body says which is its own.
    """

    series: Sequence[ColumnSpec]
    # per group
    group_ids: Int64
    columns: Int64
    first_series: Int64
    period_ms: Int64
    late: Bools
    keys: Int64
    """part << 32 | group id, ascending, and"""
    order: Int64
    """the position of the group with that key."""
    # per series
    ids: Int64
    ref: Int64
    power: Float64
    scale: Float64
    offset: Float64
    raw: Bools
    type: Int64
    types: frozenset[int]

    def find(self, ids: Int64, parts: Int64) -> Int64:
        """Positions of the groups with these ids in these parts; BodyError for one that is not declared."""
        wanted = parts << 32 | ids
        if not self.keys.size:
            if ids.size:
                raise BodyError("no group is declared")
            return ids
        at = np.searchsorted(self.keys, wanted).clip(max=self.keys.size - 1)
        if not (self.keys[at] == wanted).all():
            raise BodyError("a group is not declared")
        found: Int64 = self.order[at]
        return found


class Table(Tables):
    """One schema."""

    def __init__(self, schema: Schema) -> None:
        groups = list(schema.groups.values())
        self.schema = schema
        self.series = tuple(column for group in groups for column in group.columns)
        self.group_ids = np.array([group.id for group in groups], np.int64)
        self.columns = np.array([len(group.columns) for group in groups], np.int64)
        self.first_series = np.cumsum(self.columns) - self.columns
        self.period_ms = np.array([group.period_ms for group in groups], np.int64)
        self.late = np.array([group.late_source for group in groups], bool)
        self.order = np.argsort(self.group_ids).astype(np.int64)
        self.keys = self.group_ids[self.order]
        self.ids = np.array([column.id for column in self.series], np.int64)
        self.ref = np.array([column.ref for column in self.series], np.int64)
        self.power = np.array([column.power for column in self.series], np.float64)
        self.scale = np.array([column.scale for column in self.series], np.float64)
        self.offset = np.array([column.offset for column in self.series], np.float64)
        self.raw = np.array([column.raw for column in self.series], bool)
        self.type = np.array([column.type for column in self.series], np.int64)
        self.types = frozenset(int(column.type) for column in self.series)

    @classmethod
    def from_declare(cls, declare: pb.Declare) -> Table:
        """Raises BodyError as `Schema.from_declare` does."""
        return cls(Schema.from_declare(declare))


_SIDE_BY_SIDE = (
    "group_ids", "columns", "period_ms", "late", "ids", "ref", "power", "scale", "offset", "raw", "type",
)  # fmt: skip


def joined(tables: Sequence[Table]) -> Tables:
    """Many schemas as one, part by part."""
    if len(tables) == 1:
        return tables[0]
    whole = Tables()
    for name in _SIDE_BY_SIDE:
        setattr(whole, name, np.concatenate([getattr(table, name) for table in tables]))
    whole.series = [spec for table in tables for spec in table.series]
    whole.types = frozenset().union(*(table.types for table in tables))
    whole.first_series = np.cumsum(whole.columns) - whole.columns
    sizes = np.array([table.group_ids.size for table in tables], np.int64)
    whole.order = np.concatenate([table.order for table in tables]) + np.repeat(np.cumsum(sizes) - sizes, sizes)
    whole.keys = np.concatenate([table.keys for table in tables]) + np.repeat(np.arange(len(tables)) << 32, sizes)
    return whole


@dataclass(slots=True)
class Bulk:
    """Readings of many bodies. Group occurrences, column occurrences and readings are three levels of flat arrays."""

    table: Tables
    # per body
    boot: Int64
    base: Int64
    strings: list[list[str]]
    # per group occurrence
    batch: Int64
    """Index of the body."""
    group: Int64
    """Declared group id."""
    rows: Int64
    row0: Int64
    """Where its rows begin in `times`."""
    # per row of a group occurrence
    times: Int64
    """Monotonic ms of the body's boot."""
    device_ms: Int64 | None
    """As `times`; 0 where the group is no late source; None if none is."""
    # per column occurrence
    col_occ: Int64
    """Index of its group occurrence."""
    series: Int64
    """Index in table.series."""
    val0: Int64
    """Where its readings begin in `values`; there are rows[col_occ] of them."""
    last_time: Int64
    last_value: Float64
    last_quality: NDArray[np.uint8]
    """Of the reading with the highest time, the later row of equals; value NaN where it has none."""
    # per reading
    values: Float64
    """Real values; bools as 0 and 1, 64-bit integers rounded, NaN for strings and where there is no value."""
    ints: Int64
    """Integers as carried, two's complement; 0 in raw columns; the stand-in where there is none."""
    quality: NDArray[np.uint8] | None
    """None: all good."""
    xpos: Int64
    """Readings whose value is an exception to the scale, ascending."""
    events: list[tuple[int, int, pb.Event]]
    """(index of the body, mono ms, event without its relative t)."""


def exact(bulk: Bulk, column_occurrence: int) -> list[Value]:
    """The values of one column as `protos.columns.decode` gives them: exact integers, bools, strings, None."""
    occurrence = int(bulk.col_occ[column_occurrence])
    start = int(bulk.val0[column_occurrence])
    end = start + int(bulk.rows[occurrence])
    column = bulk.table.series[int(bulk.series[column_occurrence])]
    values = _typed(bulk, column, start, end, int(bulk.batch[occurrence]))
    first, after = np.searchsorted(bulk.xpos, (start, end))
    for position in bulk.xpos[first:after].tolist():
        values[position - start] = float(bulk.values[position])
    if bulk.quality is not None:
        for row in np.flatnonzero(absent(bulk.quality[start:end])).tolist():
            values[row] = None
    return values


def _typed(bulk: Bulk, column: ColumnSpec, start: int, end: int, batch: int) -> list[Value]:
    ints = bulk.ints[start:end]
    if column.type == pb.VT_INT64:
        return list(ints.tolist())
    if column.type == pb.VT_UINT64:
        return list(ints.view(np.uint64).tolist())
    if column.type == pb.VT_BOOL:
        return list((ints != 0).tolist())
    if column.type == pb.VT_STRING:
        return [bulk.strings[batch][index] for index in ints.tolist()]
    return list(bulk.values[start:end].tolist())


def absent(quality: NDArray[np.uint8]) -> Bools:
    result: Bools = (quality == pb.QUALITY_BAD_COMM) | (quality == pb.QUALITY_BAD_SENSOR)
    return result
