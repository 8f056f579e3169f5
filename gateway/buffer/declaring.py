"""Numbers groups and series, and learns from the first rows what makes their batches small.

Ids are never reused within an epoch: a group whose meaning changed gets a new id; the old one stays in every later
declaration, because its batches may still be on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.buffer.sealed import Declared
from gateway.reading import GroupShape, Row, SeriesShape
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb

LEARN_FROM_ROWS = 10


def declare(
    shapes: Sequence[GroupShape], previous: Declared | None, epoch: int, *, above: int = 0
) -> tuple[Declared, list[int], bool]:
    """(declaration, group id per shape, whether it is new). Numbers up to `above` were given to others."""
    declared = Declared(pb.Declare(epoch=epoch), pb.Declare(epoch=epoch))
    if previous is not None:
        declared.body.CopyFrom(previous.body)
        declared.shape.CopyFrom(previous.shape)
    taken: set[int] = set()
    ids: list[int] = []
    fresh = previous is None or previous.body.schema < above
    for shape in shapes:
        group = _find(declared.shape, shape, taken)
        if group is None:
            group = _add(declared, shape)
            fresh = True
        taken.add(group)
        ids.append(group)
    if fresh:
        number = max(previous.body.schema if previous else 0, above) + 1
        declared.body.schema = declared.shape.schema = number
    return declared, ids, fresh


def learn(declared: Declared, rows: Mapping[int, Sequence[Row]], known: set[int]) -> Declared | None:
    """A successor with references (and decimal scales of float columns) taken from these rows; None if too few are new.

    `known` are the group ids already learnt; it grows.
    """
    ready = [g for g in declared.body.groups if g.id not in known and len(rows.get(g.id, ())) >= LEARN_FROM_ROWS]
    if not ready:
        return None
    body = pb.Declare()
    body.CopyFrom(declared.body)
    body.schema += 1
    shape = pb.Declare()
    shape.CopyFrom(declared.shape)
    shape.schema = body.schema
    ids = {g.id for g in ready}
    for group in body.groups:
        if group.id in ids:
            for index, series in enumerate(group.series):
                _learn_series(series, [row.values[index] for row in rows[group.id]])
    known |= ids
    if list(body.groups) == list(declared.body.groups):
        return None
    return Declared(body, shape)


def _learn_series(series: pb.Series, values: Sequence[object]) -> None:
    if series.type == pb.VT_STRING:
        return
    if series.raw:
        floats = [v for v in values if isinstance(v, float)]
        if not floats:
            return
        exp, raw = columns.propose(floats, series.type)
        if raw:
            return
        series.exp, series.raw = exp, False
        column = columns.ColumnSpec(id=series.id, name=series.name, type=series.type, exp=exp)
        values = columns.to_wire(column, floats)
    integers = sorted(v for v in values if isinstance(v, int))
    if integers:
        series.ref = _signed(integers[len(integers) // 2])


def _signed(value: int) -> int:
    """References travel as sint64; an unsigned one beyond is simply not used."""
    return value if -(1 << 63) <= value < 1 << 63 else 0


def _find(declared: pb.Declare, shape: GroupShape, taken: set[int]) -> int | None:
    """The newest declared group that means the same."""
    for group in reversed(declared.groups):
        if group.id not in taken and _same(group, shape):
            return int(group.id)
    return None


def _same(group: pb.Group, shape: GroupShape) -> bool:
    if (group.sensor, group.period_ms, group.late_source) != (shape.sensor, shape.period_ms, shape.late_source):
        return False
    if len(group.series) != len(shape.series):
        return False
    return all(_message(wanted, series.id) == series for series, wanted in zip(group.series, shape.series, strict=True))


def _add(declared: Declared, shape: GroupShape) -> int:
    groups = declared.shape.groups
    group_id = max((g.id for g in groups), default=0) + 1
    first = max((s.id for g in groups for s in g.series), default=0) + 1
    for message in (declared.body, declared.shape):
        group = message.groups.add(
            id=group_id, sensor=shape.sensor, period_ms=shape.period_ms, late_source=shape.late_source
        )
        group.series.extend(_message(series, first + i) for i, series in enumerate(shape.series))
    return group_id


def _message(shape: SeriesShape, number: int) -> pb.Series:
    return pb.Series(
        id=number,
        name=shape.name,
        type=shape.type,
        unit=shape.unit,
        exp=shape.exp,
        scale=shape.scale,
        offset=shape.offset,
        raw=shape.raw,
        attrs=dict(shape.attrs),
    )
