"""Between real values and the integers that travel, and what to declare for a series of floats.

A float32 lives as the float64 with the same value; for NaN the payload and the signalling bit are widened bit by
bit, which a conversion by the processor would not do.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import add, mul, sub, truediv

from protos.comboio.v1 import batch_pb2 as pb
from protos.schema import FLOATS, ColumnSpec, Value, Wire

EXACT_INTEGERS = 1 << 53
_PROPOSED_EXPS = range(11)
_ENOUGH = 0.7
_AS_GOOD = 0.002


def widen32(bits: int) -> float:
    """The float64 of a float32 given by its bits; NaN keeps sign, payload and signalling bit."""
    if bits & 0x7F800000 == 0x7F800000 and bits & 0x007FFFFF:
        wide = (bits & 0x80000000) << 32 | 0x7FF << 52 | (bits & 0x007FFFFF) << 29
        return float(struct.unpack("<d", wide.to_bytes(8, "little"))[0])
    return float(struct.unpack("<f", bits.to_bytes(4, "little"))[0])


def narrow32(value: float) -> int:
    """The bits of the float32 that `value` was widened from. Raises ValueError if there is none."""
    wide = int.from_bytes(struct.pack("<d", value), "little")
    if value != value:  # noqa: PLR0124 - NaN
        bits = wide >> 32 & 0x80000000 | 0x7F800000 | wide >> 29 & 0x007FFFFF
    else:
        bits = int.from_bytes(array("f", [value]).tobytes(), "little")
    if struct.pack("<d", widen32(bits)) != struct.pack("<d", value):
        raise ValueError(f"{value!r} is no widened float32")
    return bits


def from_integers(column: ColumnSpec, integers: Iterable[int]) -> list[float]:
    """Scaled integers of a float column as real values, by the arithmetic that the wire contract fixes."""
    if column.scale:
        scaled = map(add, map(mul, map(float, integers), repeat(column.scale)), repeat(column.offset))
    elif column.exp:
        scaled = map(truediv, integers, repeat(column.power))
    else:
        scaled = map(float, integers)
    return array("f", scaled).tolist() if column.type == pb.VT_FLOAT32 else list(scaled)


def to_wire(column: ColumnSpec, values: Sequence[Value]) -> list[Wire]:
    """Real values as wire values: the exact scaled integer where there is one, else the float itself."""
    if column.type not in FLOATS:
        return [int(value) if isinstance(value, bool) else value for value in values]
    if not column.raw:
        integers = _scaled_integers(column, values)
        if integers is not None:
            return integers
    return [_to_wire(column, value) for value in values]


def _scaled_integers(column: ColumnSpec, values: Sequence[Value]) -> list[Wire] | None:
    """All at once, or None if one of them needs care."""
    try:
        integers = list(map(round, _scaled(column, values)))
        if not (min(integers) > -EXACT_INTEGERS and max(integers) < EXACT_INTEGERS):
            return None
        wanted: array[float] = array("d", values)  # type: ignore[arg-type]  # others raise TypeError
    except (TypeError, ValueError, OverflowError):
        return None
    again = from_integers(column, integers)
    if array("d", again).tobytes() == wanted.tobytes():
        return list(integers)
    pairs = zip(integers, again, wanted, strict=True)
    return [integer if _same(back, value) else value for integer, back, value in pairs]


def _same(one: float, other: float) -> bool:
    """Equal, and no mix-up of 0.0 with -0.0."""
    return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)


def _scaled(column: ColumnSpec, values: Iterable[Value]) -> Iterable[float]:
    numbers: Iterable[float] = values  # type: ignore[assignment]  # others raise TypeError below
    if column.scale:
        return map(truediv, map(sub, numbers, repeat(column.offset)), repeat(column.scale))
    return map(mul, numbers, repeat(column.power))


def _to_wire(column: ColumnSpec, value: Value) -> Wire:
    if value is None or isinstance(value, str):
        return value
    real = float(value)
    if column.raw or not math.isfinite(real):
        return real
    scaled = next(iter(_scaled(column, (real,))))
    if not abs(scaled) < EXACT_INTEGERS - 1:
        return real
    integer = round(scaled)
    return integer if _same(from_integers(column, (integer,))[0], real) else real


def from_wire(column: ColumnSpec, wires: Sequence[Wire]) -> list[Value]:
    """The inverse of `to_wire`, and what a reader of the batch will see."""
    if column.type == pb.VT_BOOL:
        return [bool(wire) if isinstance(wire, int) else wire for wire in wires]
    if column.type not in FLOATS:
        return list(wires)
    if column.raw:
        return [float(wire) if isinstance(wire, int) else wire for wire in wires]
    try:
        array("q", wires)  # type: ignore[type-var]  # refuses what is not an integer, at the speed of C
    except (TypeError, OverflowError):
        return [from_integers(column, (wire,))[0] if isinstance(wire, int) else wire for wire in wires]
    return list(from_integers(column, wires))  # type: ignore[arg-type]


def propose(values: Sequence[float], type_: pb.ValueType.ValueType) -> tuple[int, bool]:
    """(exp, raw) for a series that looked like this: the smallest exponent that is as good as the best one.

    Raw where even the best one leaves more than 30 % of the values unscaled.
    """
    if type_ not in FLOATS or not values:
        return 0, False
    fits = [_fit(ColumnSpec(id=0, name="", type=type_, exp=exp), values) for exp in _PROPOSED_EXPS]
    best = max(fits)
    if best < _ENOUGH:
        return 0, True
    return next(exp for exp, share in enumerate(fits) if share >= best - _AS_GOOD), False


def _fit(column: ColumnSpec, values: Sequence[float]) -> float:
    return sum(isinstance(wire, int) for wire in to_wire(column, values)) / len(values)
