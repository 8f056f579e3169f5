"""A Declare, checked and compiled for the body codec, and the shapes that go in and come out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from protos.comboio.v1 import batch_pb2 as pb

MAX_COUNT = 2_000_000
MAX_BODY_BYTES = 16 << 20
MAX_STRINGS = 65_536
MAX_EVENTS = 65_536
MAX_TIME_MS = 1 << 53
MAX_EXP = 22  # the largest power of ten that a float64 holds exactly

Wire = int | float | str | None
Value = int | float | bool | str | None

FLOATS = frozenset({pb.VT_FLOAT64, pb.VT_FLOAT32})
TYPES = frozenset(pb.ValueType.values())
HIGHEST_REF: Mapping[int, int] = MappingProxyType({pb.VT_BOOL: 1, pb.VT_STRING: 0})
NO_VALUE = frozenset({pb.QUALITY_BAD_COMM, pb.QUALITY_BAD_SENSOR})


class BodyError(ValueError):
    """Bytes that are not a body of this schema, or readings that can't be one. Nothing else is raised for them.

    `index` is the position of the culprit where several bodies were given at once.
    """

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """One declared series, as the codec needs it."""

    id: int
    name: str
    type: pb.ValueType.ValueType = pb.VT_FLOAT64
    unit: str = ""
    exp: int = 0
    scale: float = 0.0
    offset: float = 0.0
    ref: int = 0
    raw: bool = False
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def power(self) -> float:
        """What an integer is divided by when there is no scale."""
        return float(10**self.exp)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupColumns:
    """One declared group: columns in the order of Body.v and Body.d."""

    id: int
    sensor: str
    period_ms: int
    late_source: bool
    columns: tuple[ColumnSpec, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """All groups by id. Immutable, so it may be shared and cached."""

    groups: Mapping[int, GroupColumns]

    @classmethod
    def from_declare(cls, declare: pb.Declare) -> Schema:
        """Compile; BodyError where the Declare contradicts itself or names something that has no meaning."""
        groups: dict[int, GroupColumns] = {}
        series: set[int] = set()
        for group in declare.groups:
            if group.id == 0 or group.id in groups:
                raise BodyError(f"group {group.id}: ids start at 1 and are unique")
            columns = tuple(_column(one) for one in group.series)
            for column in columns:
                if column.id in series:
                    raise BodyError(f"series {column.id} ({column.name}): declared twice")
                series.add(column.id)
            groups[group.id] = GroupColumns(
                id=group.id,
                sensor=group.sensor,
                period_ms=group.period_ms,
                late_source=group.late_source,
                columns=columns,
            )
        return cls(MappingProxyType(groups))


def _column(series: pb.Series) -> ColumnSpec:
    column = ColumnSpec(
        id=series.id,
        name=series.name,
        type=series.type,
        unit=series.unit,
        exp=series.exp,
        scale=series.scale,
        offset=series.offset,
        ref=series.ref,
        raw=series.raw,
        attrs=dict(series.attrs),
    )
    problem = _contradiction(column)
    if problem:
        raise BodyError(f"series {column.id} ({column.name}): {problem}")
    return column


def _contradiction(column: ColumnSpec) -> str:
    scaled = bool(column.exp or column.scale or column.offset)
    if column.type not in TYPES:
        return f"unknown type {column.type}"
    if not (math.isfinite(column.scale) and math.isfinite(column.offset)):
        return "scale and offset must be finite"
    if column.type not in FLOATS and (scaled or column.raw):
        return "only floats have exp, scale, offset or raw"
    if column.raw and scaled:
        return "raw excludes exp, scale and offset"
    if column.exp > MAX_EXP:
        return f"exp is at most {MAX_EXP}"
    if column.scale and column.exp:
        return "either exp or scale"
    if column.offset and not column.scale:
        return "offset needs a scale"
    limit = HIGHEST_REF.get(column.type)
    if limit is not None and not 0 <= column.ref <= limit:
        return f"ref {column.ref} is no value of this type"
    return ""


@dataclass(slots=True)
class Block:
    """Rows of one group, column-major, with wire values as defined in `gateway/reading.py`.

    An int in a float column is the device's integer and is scaled by the reader; a float there is an exception and
    travels exactly. Where a quality says that there is no value (BAD_COMM, BAD_SENSOR) the value is not carried;
    None needs such a quality.
    """

    group: int
    times: Sequence[int]
    """Monotonic ms, any order."""
    columns: Sequence[Sequence[Wire]]
    quality: Sequence[Sequence[int] | None] | None = None
    """Per column; None = all good."""
    device_ms: Sequence[int] | None = None
    """Wall ms by the device's own clock: required for, and only for, late sources."""


@dataclass(slots=True)
class DecodedBlock:
    """The same with real values: scaled floats, ints, bools, strings; None where there is no value."""

    group: int
    times: list[int]
    columns: list[list[Value]]
    quality: list[list[int] | None] | None = None
    device_ms: list[int] | None = None


@dataclass(slots=True)
class Decoded:
    boot: int
    base_mono_ms: int
    blocks: list[DecodedBlock]
    events: list[tuple[int, pb.Event]]
    """(mono_ms, event without its relative t)."""
