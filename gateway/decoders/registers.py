"""Modbus registers → wire values, compiled once per sensor.

`compile_registers` turns a profile's registers and the requests of their plan into one function of the answers. All of
a group is unpacked by a single precompiled `struct`; only columns that need more (see `raw`) are touched again. A
group of plain big-endian u16 in reading order costs one tuple.

What becomes of a raw value:

* integers stay the device's own; decimals, scale and offset are declared with the column (`series_of`);
* a float with declared decimals becomes an integer where that gives back the same float, else it travels as it is;
* what another register scales, and what is a sum of others, is computed here and travels as the number it is;
* a sentinel, a NaN, an impossible digit or date is "not available": None with BAD_SENSOR.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import msgspec

from firmware_configs.budget import Request
from firmware_configs.schema import BITS, FLOATS, MOMENTS, Derived, Register
from gateway.decoders.raw import FORMATS, Fix, as_float, as_number, fix_of
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

Answers = Sequence[Sequence[int]]
"""Per request of the plan: its registers (or bits), as read."""
Decoded = tuple[tuple[Wire, ...], tuple[int, ...] | None]
"""One wire value per column; one quality per column, or None when all are good."""
Decoder = Callable[[Answers], Decoded]
Late = tuple[int, Callable[[Sequence[Wire]], Wire]]
"""A column and what it is of all that were decoded before it."""

_ORDERS: dict[str, Callable[[list[int]], list[int]]] = {
    "big": lambda words: words,
    "little": lambda words: words[::-1],
    "swapped_pairs": lambda words: [words[at ^ 1] for at in range(len(words))] if len(words) in {2, 4} else words,
    "reversed_pairs": lambda words: words[2:] + words[:2] if len(words) == 4 else words,
}


def series_of(register: Register | Derived, *, attrs: Mapping[str, str] | None = None) -> SeriesShape:
    """The column a register becomes, with `attrs` over those of its profile."""
    type_, exp, scale, offset, raw = _kind(register) if isinstance(register, Register) else _kind_of_sum(register)
    own = dict(register.attrs)
    if isinstance(register, Register) and register.labels:
        own["labels"] = msgspec.json.encode(register.labels).decode()
    if isinstance(register, Register) and register.type in MOMENTS:
        own["moment"] = "unix_ms"
    return SeriesShape(
        name=register.quantity,
        unit=register.unit,
        type=type_,
        exp=exp,
        scale=scale,
        offset=offset,
        raw=raw,
        attrs={**own, **(attrs or {})},
    )


def _kind(register: Register) -> tuple[pb.ValueType.ValueType, int, float, float, bool]:
    if register.type == "bool":
        return pb.VT_BOOL, 0, 0.0, 0.0, False
    if register.type == "string":
        return pb.VT_STRING, 0, 0.0, 0.0, False
    if register.scale_from is not None:
        return pb.VT_FLOAT64, 0, 0.0, 0.0, True
    if register.type in FLOATS:
        type_ = pb.VT_FLOAT64 if register.type == "f64" else pb.VT_FLOAT32
        return type_, register.decimals or 0, 0.0, 0.0, register.decimals is None
    if register.scale is not None or register.offset:
        return pb.VT_FLOAT64, 0, register.scale or 1.0, register.offset, False
    if register.decimals:
        return pb.VT_FLOAT64, register.decimals, 0.0, 0.0, False
    return (pb.VT_UINT64 if register.type == "u64" else pb.VT_INT64), 0, 0.0, 0.0, False


def _kind_of_sum(derived: Derived) -> tuple[pb.ValueType.ValueType, int, float, float, bool]:
    return pb.VT_FLOAT64, derived.decimals or 0, 0.0, 0.0, derived.decimals is None


def compile_registers(
    registers: Sequence[Register], requests: Sequence[Request], derived: Sequence[Derived] = ()
) -> Decoder:
    """A decoder of the answers to `requests`: one column per register, in their order, then one per sum.

    Raises ValueError when a register is not covered by one request. The decoder itself never raises for answers of
    the length that was asked; the caller checks that length.
    """
    places = [_place(register, requests) for register in registers]
    unpack = _unpacker(registers, places, sum(request.length for request in requests))
    fixes = [(i, fix) for i, register in enumerate(registers) if (fix := fix_of(register)) is not None]
    late = [*_scaled(registers), *_sums(registers, derived)]
    return _with_fixes(unpack, fixes, late) if fixes or late else lambda answers: (unpack(answers), None)


def _place(register: Register, requests: Sequence[Request]) -> int:
    """Index of the register's first word in the concatenated answers."""
    base = 0
    for request in requests:
        at = register.address - request.address
        if request.function == register.function and at >= 0 and at + register.width <= request.length:
            return base + at
        base += request.length
    raise ValueError(f"{register.quantity}: no request reads {register.function} {register.address}")


def _unpacker(
    registers: Sequence[Register], places: Sequence[int], total: int
) -> Callable[[Answers], tuple[Wire, ...]]:
    """Words are brought into big word order by one `itemgetter`, swapped where bytes are little, unpacked at once."""
    order: list[int] = []
    swapped: set[int] = set()
    for register, place in zip(registers, places, strict=True):
        words = _ORDERS[register.word_order or "big"](list(range(place, place + register.width)))
        if register.byte_order == "little" and register.function not in BITS:
            swapped.update(range(len(order), len(order) + len(words)))
        order += words
    in_order = order == list(range(total))
    if in_order and not swapped and all(FORMATS.get(r.type) == "H" for r in registers):
        return _joined
    pick = _picker(order, in_order=in_order)
    layout = struct.Struct(">" + "".join(_format(register) for register in registers))
    pack = _packer(len(order), swapped)
    return lambda answers: layout.unpack(pack(pick(_joined(answers))))


def _joined(answers: Answers) -> tuple[int, ...]:
    return tuple(answers[0]) if len(answers) == 1 else tuple(word for answer in answers for word in answer)


def _picker(order: list[int], *, in_order: bool) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    if in_order:
        return lambda words: words
    if len(order) == 1:
        only = order[0]
        return lambda words: (words[only],)
    return itemgetter(*order)


def _packer(words: int, swapped: set[int]) -> Callable[[tuple[int, ...]], bytes]:
    big, little = struct.Struct(f">{words}H"), struct.Struct(f"<{words}H")
    if not swapped:
        return lambda values: big.pack(*values)
    if len(swapped) == words:
        return lambda values: little.pack(*values)
    return lambda values: big.pack(
        *((v & 255) << 8 | v >> 8 if i in swapped else v for i, v in enumerate(values)),
    )


def _format(register: Register) -> str:
    return FORMATS.get(register.type, f"{2 * register.width}s")


def _with_fixes(
    unpack: Callable[[Answers], tuple[Wire, ...]], fixes: list[tuple[int, Fix]], late: list[Late]
) -> Decoder:
    def decode(answers: Answers) -> Decoded:
        values = list(unpack(answers))
        for i, fix in fixes:
            values[i] = fix(values[i])
        if late:
            known = tuple(values)
            values += [None] * (late[-1][0] + 1 - len(values))
            for i, computed in late:
                values[i] = computed(known)
        if None not in values:
            return tuple(values), None
        bad = int(pb.QUALITY_BAD_SENSOR)
        return tuple(values), tuple(int(pb.QUALITY_GOOD) if value is not None else bad for value in values)

    return decode


# --- columns that need others ----------------------------------------------------------------------------


def _scaled(registers: Sequence[Register]) -> list[Late]:
    index = {register.quantity: i for i, register in enumerate(registers)}
    return [
        (i, _scaled_by(i, index[register.scale_from]))
        for i, register in enumerate(registers)
        if register.scale_from is not None
    ]


def _scaled_by(mine: int, exponent: int) -> Callable[[Sequence[Wire]], Wire]:
    def computed(values: Sequence[Wire]) -> Wire:
        number, power = values[mine], values[exponent]
        if not isinstance(number, int) or not isinstance(power, int) or abs(power) > 300:
            return None
        return as_float(number / 10**-power if power < 0 else number * 10**power)

    return computed


def _sums(registers: Sequence[Register], derived: Sequence[Derived]) -> list[Late]:
    index = {register.quantity: i for i, register in enumerate(registers)}
    first = len(registers)
    return [(first + n, _sum(one, registers, index)) for n, one in enumerate(derived)]


def _sum(derived: Derived, registers: Sequence[Register], index: Mapping[str, int]) -> Callable[[Sequence[Wire]], Wire]:
    parts = [(as_number(registers, index, term.of), term.times) for term in derived.terms]
    power = None if derived.decimals is None else 10**derived.decimals

    def computed(values: Sequence[Wire]) -> Wire:
        total: float = 0
        for number, times in parts:
            value = number(values)
            if value is None:
                return None
            total += value * times
        return as_float(total) if power is None else round(total * power)

    return computed
