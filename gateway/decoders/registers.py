"""Modbus registers → wire values, compiled once per sensor.

`compile_registers` turns a profile and the requests of its plan into one function of the answers. All of a group is
unpacked by a single precompiled `struct`; only columns that need more (sentinels, decimals of floats, BCD, bits,
strings) are touched again. A group of plain big-endian u16 in reading order costs one tuple.

What becomes of a raw value:

* integers stay the device's own; decimals, scale and offset are declared with the column (`series_of`);
* a float with declared decimals becomes an integer where that gives back the same float, else it travels as it is;
* a sentinel, a NaN or an impossible BCD digit is "not available": None with BAD_SENSOR.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from firmware_configs.budget import Request
from firmware_configs.schema import BITS, FLOATS, Register
from gateway.reading import SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb

Answers = Sequence[Sequence[int]]
"""Per request of the plan: its registers (or bits), as read."""
Decoded = tuple[tuple[Wire, ...], tuple[int, ...] | None]
"""One wire value per column; one quality per column, or None when all are good."""
Decoder = Callable[[Answers], Decoded]

_FORMATS = {
    "bool": "H", "u16": "H", "i16": "h", "bcd16": "H", "u32": "I", "i32": "i", "bcd32": "I", "u64": "Q", "i64": "q",
    "f32": "f", "f64": "d",
}  # fmt: skip
_BIG_INTEGER = 1 << 63


def series_of(register: Register, *, attrs: Mapping[str, str] | None = None) -> SeriesShape:
    """The column a register becomes, with `attrs` over those of its profile."""
    type_, exp, scale, offset, raw = _kind(register)
    return SeriesShape(
        name=register.quantity,
        unit=register.unit,
        type=type_,
        exp=exp,
        scale=scale,
        offset=offset,
        raw=raw,
        attrs={**register.attrs, **(attrs or {})},
    )


def _kind(register: Register) -> tuple[pb.ValueType.ValueType, int, float, float, bool]:
    if register.type == "bool":
        return pb.VT_BOOL, 0, 0.0, 0.0, False
    if register.type == "string":
        return pb.VT_STRING, 0, 0.0, 0.0, False
    if register.type in FLOATS:
        type_ = pb.VT_FLOAT32 if register.type == "f32" else pb.VT_FLOAT64
        return type_, register.decimals or 0, 0.0, 0.0, register.decimals is None
    if register.scale is not None or register.offset:
        return pb.VT_FLOAT64, 0, register.scale or 1.0, register.offset, False
    if register.decimals:
        return pb.VT_FLOAT64, register.decimals, 0.0, 0.0, False
    return (pb.VT_UINT64 if register.type == "u64" else pb.VT_INT64), 0, 0.0, 0.0, False


def compile_registers(registers: Sequence[Register], requests: Sequence[Request]) -> Decoder:
    """A decoder of the answers to `requests`, one column per register, in their order.

    Raises ValueError when a register is not covered by one request. The decoder itself never raises for answers of
    the length that was asked; the caller checks that length.
    """
    places = [_place(register, requests) for register in registers]
    unpack = _unpacker(registers, places, sum(request.length for request in requests))
    fixes = [(i, fix) for i, register in enumerate(registers) if (fix := _fix(register)) is not None]
    return _with_fixes(unpack, fixes) if fixes else lambda answers: (unpack(answers), None)


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
        words = list(range(place, place + register.width))
        if register.word_order == "little":
            words.reverse()
        if register.byte_order == "little" and register.function not in BITS:
            swapped.update(range(len(order), len(order) + len(words)))
        order += words
    in_order = order == list(range(total))
    if in_order and not swapped and all(_FORMATS.get(r.type) == "H" for r in registers):
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
    return f"{2 * register.width}s" if register.type == "string" else _FORMATS[register.type]


Fix = Callable[[object], Wire]
"""What one column needs after unpacking; None means "not available"."""


def _with_fixes(unpack: Callable[[Answers], tuple[Wire, ...]], fixes: list[tuple[int, Fix]]) -> Decoder:
    def decode(answers: Answers) -> Decoded:
        values = list(unpack(answers))
        missing: list[int] = []
        for i, fix in fixes:
            value = values[i] = fix(values[i])
            if value is None:
                missing.append(i)
        if not missing:
            return tuple(values), None
        quality = [int(pb.QUALITY_GOOD)] * len(values)
        for i in missing:
            quality[i] = pb.QUALITY_BAD_SENSOR
        return tuple(values), tuple(quality)

    return decode


def _fix(register: Register) -> Fix | None:
    fix = _conversion(register)
    if not register.sentinels:
        return fix
    sentinels = frozenset(register.sentinels)
    if fix is None:
        return lambda raw: None if raw in sentinels else raw  # type: ignore[return-value]
    return lambda raw: None if raw in sentinels else fix(raw)


def _conversion(register: Register) -> Fix | None:
    if register.type == "string":
        return _text
    if register.type in {"bcd16", "bcd32"}:
        return _bcd
    if register.type == "bool" and register.bit is not None:
        bit = register.bit
        return lambda raw: raw >> bit & 1  # type: ignore[operator]
    if register.type in FLOATS:
        return _float_of(register)
    if register.type == "u64" and (register.decimals or register.scale is not None or register.offset):
        return _wide_of(register)
    return None


def _text(raw: object) -> Wire:
    """Up to the first NUL, without trailing blanks; bytes that aren't ASCII stay readable, escaped."""
    assert isinstance(raw, bytes)
    return raw.split(b"\0", 1)[0].decode("ascii", "backslashreplace").rstrip()


def _bcd(raw: object) -> Wire:
    """Packed decimal digits; a digit above 9 is no number."""
    assert isinstance(raw, int)
    digits = f"{raw:x}"
    return int(digits) if digits.isdecimal() else None


def _float_of(register: Register) -> Fix:
    if register.decimals is None:
        return lambda raw: None if raw != raw else raw  # type: ignore[return-value]  # noqa: PLR0124 - only NaN differs from itself
    power = 10**register.decimals
    layout = struct.Struct("<f" if register.type == "f32" else "<d")

    def scaled(raw: object) -> Wire:
        assert isinstance(raw, float)
        if math.isnan(raw):
            return None
        if math.isinf(raw) or abs(raw) * power >= 2**53:
            return raw
        number = round(raw * power)
        # compared as bits, so that -0.0 stays what it is
        return number if layout.pack(number / power) == layout.pack(raw) else raw

    return scaled


def _wide_of(register: Register) -> Fix:
    """A scaled column holds int64; what is larger travels as the value itself."""
    power = 10 ** (register.decimals or 0)

    def narrowed(raw: object) -> Wire:
        assert isinstance(raw, int)
        if raw < _BIG_INTEGER:
            return raw
        return raw / power if register.decimals else raw * (register.scale or 1.0) + register.offset

    return narrowed
