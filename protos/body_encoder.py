"""Encodes blocks into a Body: whole-list operations for columns of good integers, a careful path for the rest.

The fast path has three guards instead of a test per value: the type of a column's sum (a float, None or text in it
shows), the range of all deltas at the end, and `careful` again for everything if that range is unusual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from operator import sub

from protos.comboio.v1 import batch_pb2 as pb
from protos.scaling import from_integers
from protos.schema import (
    FLOATS,
    MAX_BODY_BYTES,
    MAX_COUNT,
    MAX_EVENTS,
    MAX_STRINGS,
    MAX_TIME_MS,
    NO_VALUE,
    Block,
    BodyError,
    ColumnSpec,
    GroupColumns,
    Schema,
    Wire,
)

_INT64 = 1 << 63
_MODULUS = 1 << 64
_USUAL = 1 << 40  # deltas below it can't leave 64 bits within MAX_COUNT readings, from a first value below _NEAR
_NEAR = 1 << 62
_RANGES = {pb.VT_BOOL: (0, 1), pb.VT_UINT64: (0, _MODULUS - 1)}


class _UnusualRangeError(Exception):
    """The fast path met integers that need the careful one."""


def encode(
    schema: Schema,
    *,
    boot: int,
    blocks: Sequence[Block],
    events: Sequence[tuple[int, pb.Event]] = (),
    base_mono_ms: int | None = None,
) -> tuple[bytes, int]:
    """The serialized Body and its count of readings. Events are (mono_ms, event); their `t` is set here.

    `base_mono_ms` defaults to the earliest time. Raises BodyError for what the schema or the limits don't allow.
    """
    if base_mono_ms is None:
        base_mono_ms = min(
            chain((min(block.times, default=0) for block in blocks), (at for at, _ in events)), default=0
        )
    if not (0 <= boot < 1 << 32 and 0 <= base_mono_ms < MAX_TIME_MS):
        raise BodyError(f"boot {boot} or base {base_mono_ms} ms is out of range")
    try:
        writer = _Writer(base_mono_ms, careful=False)
        writer.add_all(schema, blocks)
    except _UnusualRangeError:
        writer = _Writer(base_mono_ms, careful=True)
        writer.add_all(schema, blocks)
    data = writer.body(boot, _relative(events, base_mono_ms)).SerializeToString()
    if len(data) > MAX_BODY_BYTES:
        raise BodyError(f"a body of {len(data)} bytes is over the limit of {MAX_BODY_BYTES}")
    return data, writer.count


def _relative(events: Sequence[tuple[int, pb.Event]], base_mono_ms: int) -> list[pb.Event]:
    if len(events) > MAX_EVENTS:
        raise BodyError(f"more than {MAX_EVENTS} events")
    relative = []
    for at_ms, event in events:
        _check_times((at_ms,))
        copy = pb.Event()
        copy.CopyFrom(event)
        copy.t = at_ms - base_mono_ms
        relative.append(copy)
    return relative


class _Writer:
    """Collects the arrays of one Body."""

    def __init__(self, base_mono_ms: int, *, careful: bool) -> None:
        self.base_mono_ms = base_mono_ms
        self.careful = careful
        self.count = 0
        self.group: list[int] = []
        self.rows: list[int] = []
        self.t: list[int] = []
        self.v: list[int] = []
        self.constant: list[bool] = []
        self.d: list[float] = []
        self.xpos: list[int] = []
        self.xval: list[float] = []
        self.strings: dict[str, int] = {}
        self.runs: list[tuple[int, int, int]] = []
        self.run_end = 0
        self.device_ms: list[int] = []

    def body(self, boot: int, events: Iterable[pb.Event]) -> pb.Body:
        return pb.Body(
            boot=boot,
            base_mono_ms=self.base_mono_ms,
            group=self.group,
            rows=self.rows,
            t=self.t,
            v=map(_wrapped, self.v) if self.careful else self.v,
            constant=_bitmap(self.constant),
            d=self.d,
            xpos=self.xpos,
            xval=self.xval,
            strings=self.strings,
            q_pos=[run[0] for run in self.runs],
            q_len=[run[1] for run in self.runs],
            q_code=[run[2] for run in self.runs],
            events=events,
            device_ms=self.device_ms,
        )

    def add_all(self, schema: Schema, blocks: Sequence[Block]) -> None:
        for block in blocks:
            group = schema.groups.get(block.group)
            if group is None:
                raise BodyError(f"group {block.group} is not declared")
            self._add_times(group, block)
            self._add_columns(group, block)
        if not self.careful and self.v and not (max(self.v) < _USUAL and min(self.v) > -_USUAL):
            raise _UnusualRangeError

    def _add_times(self, group: GroupColumns, block: Block) -> None:
        times, rows, period = block.times, len(block.times), group.period_ms
        if not rows or not group.columns or len(block.columns) != len(group.columns):
            raise BodyError(f"group {group.id} has {len(group.columns)} columns; got {len(block.columns)}, {rows} rows")
        if self.count + rows * len(group.columns) > MAX_COUNT:
            raise BodyError(f"more than {MAX_COUNT} readings")
        _check_times(times)
        self.group.append(group.id)
        self.rows.append(rows)
        self.t.append(times[0] - self.base_mono_ms)
        self.t.extend([after - before - period for before, after in pairwise(times)])
        device_ms = block.device_ms or ()
        if len(device_ms) != (rows if group.late_source else 0):
            raise BodyError(f"group {group.id}: device_ms is for every row of a late source, and for no other")
        if group.late_source:
            self.device_ms.append(_wrapped(device_ms[0]))
            self.device_ms.extend(map(_wrapped, map(sub, device_ms[1:], device_ms)))

    def _add_columns(self, group: GroupColumns, block: Block) -> None:
        rows, v, constant = len(block.times), self.v, self.constant
        qualities = block.quality or (None,) * len(group.columns)
        for column, values, quality in zip(group.columns, block.columns, qualities, strict=True):
            if len(values) != rows:
                raise BodyError(f"{column.name}: {len(values)} values in {rows} rows")
            absent: frozenset[int] = self._add_quality(column, quality, rows) if quality else frozenset()
            if column.raw:
                self._add_raw(column, values, absent)
            else:
                integers = None if self.careful or absent else self._quickly(column, values)
                if integers is None:
                    integers = self._integers(column, values, absent)
                v.append(integers[0] - column.ref)
                same = integers.count(integers[0]) == rows
                constant.append(same)
                if not same:
                    v.extend(map(sub, integers[1:], integers))
            self.count += rows

    def _add_quality(self, column: ColumnSpec, quality: Sequence[int], rows: int) -> frozenset[int]:
        """Appends the runs; returns the rows that have no value."""
        if len(quality) != rows:
            raise BodyError(f"{column.name}: {len(quality)} qualities in {rows} rows")
        if not any(quality):
            return frozenset()
        at = 0
        for row in range(1, rows + 1):
            if row == rows or quality[row] != quality[at]:
                self._add_run(at + self.count, row - at, quality[at])
                at = row
        return frozenset(row for row, code in enumerate(quality) if code in NO_VALUE)

    def _add_run(self, start: int, length: int, code: int) -> None:
        if not 0 <= code <= pb.QUALITY_SUBSTITUTED:
            raise BodyError(f"unknown quality {code}")
        if code:
            self.runs.append((start - self.run_end, length, code))
            self.run_end = start + length

    def _add_raw(self, column: ColumnSpec, values: Sequence[Wire], absent: frozenset[int]) -> None:
        if not absent and set(map(type, values)) == {float}:
            self.d.extend(values)  # type: ignore[arg-type]
            return
        previous = 0.0
        for row, value in enumerate(values):
            if row not in absent:
                previous = _float(column, value)
            self.d.append(previous)

    def _quickly(self, column: ColumnSpec, values: Sequence[Wire]) -> Sequence[int] | None:
        """The integers of a column of integers, or of floats and integers; None where they need more care."""
        if column.type == pb.VT_STRING:
            return None
        try:
            total = sum(values)  # type: ignore[arg-type]
        except TypeError:
            return None
        if type(total) is int:
            return values if _plain(column, values) else None  # type: ignore[arg-type,return-value]
        floats = [row for row, value in enumerate(values) if isinstance(value, float)]
        integers: list[int] = list(values)  # type: ignore[arg-type]
        for row in floats:
            integers[row] = integers[row - 1] if row else column.ref
        if type(sum(integers)) is not int or not _plain(column, integers):
            return None
        self.xpos.extend([self.count + row for row in floats])
        self.xval.extend([values[row] for row in floats])  # type: ignore[misc]
        return integers

    def _integers(self, column: ColumnSpec, values: Sequence[Wire], absent: frozenset[int]) -> list[int]:
        """One integer per value; where there is none, or a float, the one before it."""
        previous, integers = column.ref, []
        if column.type == pb.VT_STRING and not self.strings:
            self.strings[next((value for value in values if isinstance(value, str)), "")] = 0
        for row, value in enumerate(values):
            if row not in absent:
                if isinstance(value, float) and column.type != pb.VT_STRING:
                    self.xpos.append(self.count + row)
                    self.xval.append(value)
                else:
                    previous = self._integer(column, value, row, previous)
            integers.append(previous)
        return integers

    def _integer(self, column: ColumnSpec, value: Wire, row: int, previous: int) -> int:
        if column.type == pb.VT_STRING and isinstance(value, str):
            if len(self.strings) == MAX_STRINGS and value not in self.strings:
                raise BodyError(f"more than {MAX_STRINGS} different strings")
            return self.strings.setdefault(value, len(self.strings))
        if column.type == pb.VT_STRING or not isinstance(value, int):
            raise BodyError(f"{column.name}: {value!r} is no value of its type, and its quality promises one")
        low, high = _RANGES.get(column.type, (-_INT64, _INT64 - 1))
        if low <= value <= high:
            return int(value)
        if column.type not in FLOATS:
            raise BodyError(f"{column.name}: {value} is out of range")
        # More than 64 bits: what the reader would have computed, had it been given the integer.
        self.xpos.append(self.count + row)
        self.xval.append(from_integers(column, (int(_float(column, value, exact=False)),))[0])
        return previous


def _plain(column: ColumnSpec, integers: Sequence[int]) -> bool:
    """True for integers that only the range of their deltas could still betray."""
    if not -_NEAR < integers[0] < _NEAR:
        return False
    if column.type == pb.VT_BOOL:
        return set(integers) <= {0, 1}
    return column.type != pb.VT_UINT64 or min(integers) >= 0


def _float(column: ColumnSpec, value: Wire, *, exact: bool = True) -> float:
    try:
        if isinstance(value, float) or (isinstance(value, int) and (float(value) == value or not exact)):
            return float(value)
    except OverflowError:
        pass
    raise BodyError(f"{column.name}: {value!r} is no float, and its quality promises one")


def _bitmap(bits: Sequence[bool]) -> bytes:
    text = "".join(["1" if bit else "0" for bit in reversed(bits)])
    return int(text or "0", 2).to_bytes((len(bits) + 7) // 8, "little")


def _check_times(times: Sequence[int]) -> None:
    if not (min(times) >= 0 and max(times) < MAX_TIME_MS):
        raise BodyError("a time is out of range")


def _wrapped(value: int) -> int:
    """Two's complement modulo 2^64, signed."""
    return (value + _INT64) % _MODULUS - _INT64
