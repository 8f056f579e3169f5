"""Decodes one Body into real values, in pure Python. `control_plane/projections/decode.py` does the same for many."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from operator import lt

from google.protobuf.message import DecodeError

from protos import body_fields
from protos.comboio.v1 import batch_pb2 as pb
from protos.scaling import from_integers
from protos.schema import (
    MAX_COUNT,
    MAX_TIME_MS,
    NO_VALUE,
    BodyError,
    ColumnSpec,
    Decoded,
    DecodedBlock,
    GroupColumns,
    Schema,
    Value,
)

_INT64 = 1 << 63
_MODULUS = 1 << 64
_USUAL = 1 << 40
_NEAR = 1 << 62
_NO_VALUE = bytes(NO_VALUE)


def decode(schema: Schema, data: bytes, *, count: int) -> Decoded:
    """Everything in `data`, or BodyError if one thing in it is not as `schema` and `count` say.

    Bounded by len(data) and `count` (at most MAX_COUNT) in time and memory: sizes are checked before anything grows.
    """
    body_fields.split(data)
    try:
        body = pb.Body.FromString(data)
    except DecodeError as error:
        raise BodyError(f"not a Body: {error}") from None
    groups = _layout(schema, body, count)
    reader = _Reader(body, _quality(body, count))
    blocks = [reader.block(group, rows) for group, rows in zip(groups, body.rows, strict=True)]
    events = [_absolute(event, body.base_mono_ms) for event in body.events]
    return Decoded(boot=body.boot, base_mono_ms=body.base_mono_ms, blocks=blocks, events=events)


def _layout(schema: Schema, body: pb.Body, count: int) -> list[GroupColumns]:
    """Checks that every length is what the others imply."""
    rows = list(body.rows)
    if len(body.group) != len(rows) or len(rows) > count or not all(rows):
        raise BodyError("groups and rows don't match")
    if not body.base_mono_ms < MAX_TIME_MS:
        raise BodyError("the base time is out of range")
    try:
        groups = [schema.groups[number] for number in body.group]
    except KeyError as error:
        raise BodyError(f"group {error} is not declared") from None
    if not all(group.columns for group in groups):
        raise BodyError("rows of a group without columns")
    readings = sum(len(group.columns) * n for group, n in zip(groups, rows, strict=True))
    if readings != count or count > MAX_COUNT:
        raise BodyError(f"{readings} readings instead of {count}, at most {MAX_COUNT}")
    late = sum(n for group, n in zip(groups, rows, strict=True) if group.late_source)
    if len(body.t) != sum(rows) or len(body.device_ms) != late:
        raise BodyError("times and rows don't match")
    columns = [(column.raw, n) for group, n in zip(groups, rows, strict=True) for column in group.columns]
    scaled = [n for raw, n in columns if not raw]
    constant, spare = body.constant, -len(scaled) % 8
    if len(constant) != (len(scaled) + 7) // 8 or (spare and constant[-1] >> (8 - spare)):
        raise BodyError("the bitmap of constant columns has the wrong size")
    if len(body.v) != sum(1 if constant[at >> 3] >> (at & 7) & 1 else n for at, n in enumerate(scaled)):
        raise BodyError("integers and rows don't match")
    if len(body.d) != sum(n for raw, n in columns if raw):
        raise BodyError("doubles and rows don't match")
    if len(body.xpos) != len(body.xval) or not all(map(lt, body.xpos, body.xpos[1:])):
        raise BodyError("exceptions are not ascending")
    if body.xpos and body.xpos[-1] >= count:
        raise BodyError("an exception is out of range")
    return groups


def _quality(body: pb.Body, count: int) -> bytes | None:
    """One code per reading, or None if all are good."""
    if not len(body.q_pos) == len(body.q_len) == len(body.q_code):
        raise BodyError("quality runs don't match")
    if not body.q_pos:
        return None
    flat, at = bytearray(count), 0
    for skipped, length, code in zip(body.q_pos, body.q_len, body.q_code, strict=True):
        start, at = at + skipped, at + skipped + length
        if at > count or not length or not 0 < code <= pb.QUALITY_SUBSTITUTED:
            raise BodyError("a quality run is out of range")
        flat[start:at] = bytes((code,)) * length
    return bytes(flat)


def _absolute(event: pb.Event, base_mono_ms: int) -> tuple[int, pb.Event]:
    at_ms = base_mono_ms + event.t
    if not 0 <= at_ms < MAX_TIME_MS:
        raise BodyError("the time of an event is out of range")
    copy = pb.Event()
    copy.CopyFrom(event)
    copy.ClearField("t")
    return at_ms, copy


@dataclass(slots=True)
class _At:
    """How far each array has been read."""

    reading: int = 0
    t: int = 0
    v: int = 0
    d: int = 0
    column: int = 0
    exception: int = 0
    device: int = 0


class _Reader:
    def __init__(self, body: pb.Body, quality: bytes | None) -> None:
        self.base_mono_ms = body.base_mono_ms
        self.t = list(body.t)
        self.v = list(body.v)
        self.d = list(body.d)
        self.constant = body.constant
        self.exceptions = list(zip(body.xpos, body.xval, strict=True))
        self.strings = list(body.strings)
        self.device_ms = list(body.device_ms)
        self.quality = quality
        self.at = _At()
        self.usual = not self.v or (max(self.v) < _USUAL and min(self.v) > -_USUAL)

    def block(self, group: GroupColumns, rows: int) -> DecodedBlock:
        at = self.at
        times = self._times(group, rows)
        device_ms = None
        if group.late_source:
            device_ms = [_signed(ms) for ms in accumulate(self.device_ms[at.device : at.device + rows])]
            at.device += rows
        columns: list[list[Value]] = []
        quality: list[list[int] | None] = []
        for column in group.columns:
            codes = self.quality[at.reading : at.reading + rows] if self.quality is not None else b""
            values = self._raw(rows) if column.raw else self._scaled(column, rows)
            self._patch(column, values)
            if any(code in codes for code in _NO_VALUE):
                values = [None if code in NO_VALUE else value for value, code in zip(values, codes, strict=True)]
            columns.append(values)
            quality.append(list(codes) if any(codes) else None)
            at.reading += rows
        return DecodedBlock(group.id, times, columns, quality if any(quality) else None, device_ms)

    def _times(self, group: GroupColumns, rows: int) -> list[int]:
        at = self.at.t
        self.at.t += rows
        steps = [step + group.period_ms for step in self.t[at : at + rows]]
        steps[0] += self.base_mono_ms - group.period_ms
        times = list(accumulate(steps))
        if not (min(times) >= 0 and max(times) < MAX_TIME_MS):
            raise BodyError("a time is out of range")
        return times

    def _raw(self, rows: int) -> list[Value]:
        at = self.at.d
        self.at.d += rows
        return list(self.d[at : at + rows])

    def _scaled(self, column: ColumnSpec, rows: int) -> list[Value]:
        at = self.at
        constant = self.constant[at.column >> 3] >> (at.column & 7) & 1
        at.column += 1
        steps = self.v[at.v : at.v + (1 if constant else rows)]
        at.v += len(steps)
        steps[0] += column.ref
        integers = steps if constant else list(accumulate(steps))
        if not self.usual or abs(column.ref) >= _NEAR:
            integers = [_signed(integer) for integer in integers]
        values = self._values(column, integers)
        return values * rows if constant else values

    def _values(self, column: ColumnSpec, integers: list[int]) -> list[Value]:
        if column.type == pb.VT_INT64:
            return list(integers)
        if column.type == pb.VT_UINT64:
            return [integer % _MODULUS for integer in integers]
        if column.type == pb.VT_BOOL:
            if not set(integers) <= {0, 1}:
                raise BodyError(f"{column.name}: neither true nor false")
            return [integer == 1 for integer in integers]
        if column.type == pb.VT_STRING:
            if min(integers) < 0 or max(integers) >= len(self.strings):
                raise BodyError(f"{column.name}: no such string")
            return [self.strings[integer] for integer in integers]
        return list(from_integers(column, integers))

    def _patch(self, column: ColumnSpec, values: list[Value]) -> None:
        at, start = self.at, self.at.reading
        while at.exception < len(self.exceptions):
            position, value = self.exceptions[at.exception]
            if position >= start + len(values):
                return
            if column.raw or column.type == pb.VT_STRING:
                raise BodyError(f"{column.name}: an exception to no scale")
            values[position - start] = value
            at.exception += 1


def _signed(value: int) -> int:
    """Two's complement modulo 2^64, signed."""
    return (value + _INT64) % _MODULUS - _INT64
