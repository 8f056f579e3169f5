"""Arbitrary schemas and blocks for Hypothesis, and what their decoding must give."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from protos.columns import Block, DecodedBlock, Schema, Value, Wire, from_wire
from protos.comboio.v1 import batch_pb2 as pb

NO_VALUE = (pb.QUALITY_BAD_COMM, pb.QUALITY_BAD_SENSOR)
TIMES = st.integers(0, (1 << 53) - 1)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
BITS = st.integers(0, (1 << 64) - 1).map(lambda bits: float(struct.unpack("<d", bits.to_bytes(8, "little"))[0]))
SNAN = 0x7FF0000000000001
SPECIAL = st.sampled_from(
    [-0.0, float("inf"), float("-inf"), 5e-324, float("nan"), struct.unpack("<d", SNAN.to_bytes(8, "little"))[0]]
)
FLOATS = st.one_of(st.floats(), BITS, SPECIAL)
SMALL = st.integers(-300, 300)


@dataclass
class Case:
    declare: pb.Declare
    blocks: list[Block]
    events: list[tuple[int, pb.Event]]
    boot: int = 7

    @property
    def schema(self) -> Schema:
        return Schema.from_declare(self.declare)


def bits(value: Any) -> Any:
    """Equal only for the same type and the same bits."""
    return ("float", struct.pack("<d", value)) if isinstance(value, float) else (type(value).__name__, value)


def column_bits(values: Sequence[Any]) -> list[Any]:
    return [bits(value) for value in values]


def block_bits(block: DecodedBlock) -> Any:
    return (
        block.group,
        block.times,
        [column_bits(column) for column in block.columns],
        block.quality,
        block.device_ms,
    )


def expected(schema: Schema, block: Block) -> DecodedBlock:
    """What a reader must see of `block`."""
    columns: list[list[Value]] = []
    quality: list[list[int] | None] = []
    given = block.quality or [None] * len(block.columns)
    for spec, wires, codes in zip(schema.groups[block.group].columns, block.columns, given, strict=True):
        values = from_wire(spec, wires)
        if codes:
            values = [None if code in NO_VALUE else value for value, code in zip(values, codes, strict=True)]
        columns.append(values)
        quality.append(list(codes) if codes and any(codes) else None)
    device_ms = list(block.device_ms) if block.device_ms is not None else None
    return DecodedBlock(block.group, list(block.times), columns, quality if any(quality) else None, device_ms)


@st.composite
def series(draw: st.DrawFn, number: int) -> pb.Series:
    type_ = draw(st.sampled_from(pb.ValueType.values()))
    one = pb.Series(id=number, name=f"s{number}", type=type_)
    if type_ in (pb.VT_FLOAT64, pb.VT_FLOAT32):
        form = draw(st.sampled_from(["exp", "scale", "raw"]))
        if form == "exp":
            one.exp = draw(st.integers(0, 22))
        elif form == "scale":
            one.scale = draw(st.floats(allow_nan=False, allow_infinity=False).filter(bool))
            one.offset = draw(st.floats(allow_nan=False, allow_infinity=False))
        one.raw = form == "raw"
    if type_ not in (pb.VT_STRING, pb.VT_BOOL):
        one.ref = draw(st.one_of(st.just(0), SMALL, INT64))
    elif type_ == pb.VT_BOOL:
        one.ref = draw(st.integers(0, 1))
    return one


@st.composite
def declares(draw: st.DrawFn) -> pb.Declare:
    declare = pb.Declare(epoch=1, schema=1)
    number = 0
    for group_id in draw(st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True)):
        group = declare.groups.add(id=group_id, sensor=f"sensor-{group_id}", period_ms=draw(st.integers(0, 60_000)))
        group.late_source = draw(st.booleans())
        for _ in range(draw(st.integers(1, 5))):
            number += 1
            group.series.append(draw(series(number)))
    return declare


def wires(one: pb.Series) -> st.SearchStrategy[Wire]:
    """Values of one column; a strategy per column, so that some columns hold plain integers only."""
    if one.type == pb.VT_STRING:
        return st.sampled_from(["", "aberto", "fechado", "\U0001f69a"]) | st.text(max_size=4)
    if one.raw:
        return FLOATS | st.integers(-(1 << 53), 1 << 53)
    if one.type == pb.VT_BOOL:
        return st.booleans() | st.integers(0, 1)
    if one.type == pb.VT_UINT64:
        return st.integers(0, 300) | st.integers(0, (1 << 64) - 1)
    if one.type == pb.VT_INT64:
        return SMALL | INT64
    return SMALL | INT64 | st.integers(-(1 << 70), 1 << 70)


@st.composite
def columns(draw: st.DrawFn, one: pb.Series, rows: int) -> list[Wire]:
    full = wires(one)
    if not (one.raw or one.type == pb.VT_STRING) and draw(st.booleans()):
        full = full | FLOATS
    elif one.type not in (pb.VT_STRING, pb.VT_BOOL) and not one.raw and draw(st.booleans()):
        full = st.integers(0, 100)
    if draw(st.integers(0, 3)) == 0:
        return [draw(full)] * rows
    return draw(st.lists(full, min_size=rows, max_size=rows))


@st.composite
def blocks(draw: st.DrawFn, declare: pb.Declare) -> Block:
    group = draw(st.sampled_from(list(declare.groups)))
    rows = draw(st.integers(1, 12))
    if draw(st.booleans()):
        start = draw(st.integers(0, 1 << 40))
        times = [start + row * group.period_ms for row in range(rows)]
    else:
        times = draw(st.lists(TIMES, min_size=rows, max_size=rows))
    values = [draw(columns(one, rows)) for one in group.series]
    quality: list[list[int] | None] | None = None
    if draw(st.booleans()):
        codes = st.lists(st.sampled_from([0, 0, 0, *pb.Quality.values()]), min_size=rows, max_size=rows)
        quality = [draw(st.none() | codes) for _ in values]
        values = [without(column, code) for column, code in zip(values, quality, strict=True)]
    device_ms = draw(st.lists(INT64, min_size=rows, max_size=rows)) if group.late_source else None
    return Block(group.id, times, values, quality, device_ms)


def without(column: list[Wire], codes: list[int] | None) -> list[Wire]:
    return [None if code in NO_VALUE else wire for wire, code in zip(column, codes or [0] * len(column), strict=True)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    declare = draw(declares())
    many = draw(st.lists(blocks(declare), max_size=4))
    events = [
        (at, pb.Event(kind=kind, detail=detail))
        for at, kind, detail in draw(st.lists(st.tuples(TIMES, st.integers(0, 11), st.binary(max_size=5)), max_size=3))
    ]
    return Case(declare, many, events)
