"""What one unpacked Modbus value becomes, by its register's type: the part of decoding that `struct` can't do.

Every function takes what `struct` gave (an integer, a float or bytes, most significant first) and returns the wire
value, or None for "not available".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from firmware_configs.schema import FLOATS, Register
from gateway.reading import Wire

FORMATS = {
    "bool": "H", "u8": "H", "i8": "H", "u16": "H", "i16": "h", "bcd16": "H", "f16": "e",
    "u24": "I", "i24": "I", "u32": "I", "i32": "i", "bcd32": "I", "unix32": "I", "f32": "f",
    "u64": "Q", "i64": "q", "bcd64": "Q", "f64": "d",
}  # fmt: skip
"""`struct` codes; other types are unpacked as bytes."""
_BIG_INTEGER = 1 << 63

Raw = int | float | bytes
Fix = Callable[[object], Wire]


def fix_of(register: Register) -> Fix | None:
    """None where the unpacked value is the wire value."""
    fix = _conversion(register)
    if not register.sentinels:
        return fix
    sentinels = frozenset(raw for one in register.sentinels for raw in _spellings(register, one))
    if fix is None:
        return lambda raw: None if raw in sentinels else raw  # type: ignore[return-value]
    return lambda raw: None if raw in sentinels else fix(raw)


def _spellings(register: Register, sentinel: float) -> tuple[Raw, ...]:
    """The unpacked values that one sentinel of a profile may stand for."""
    if register.type in FLOATS:
        return (float(sentinel),)
    number, bits = int(sentinel), 16 * register.width
    if register.type not in FORMATS:
        return ((number % (1 << bits)).to_bytes(bits // 8, "big"),)
    if FORMATS[register.type].islower():  # signed
        return ((number + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1),)
    return (number % (1 << bits),)


def _conversion(register: Register) -> Fix | None:
    kind = register.type
    if kind in FLOATS:
        return _float_of(register)
    if register.magnitude and kind != "i8":
        return _magnitude_of(16 * register.width)
    if register.bit is not None:
        low, mask = register.bit, (1 << (register.bits or 1)) - 1
        return lambda raw: raw >> low & mask  # type: ignore[operator]
    if kind in {"u8", "i8"}:
        return _half_of(register, 8 if register.byte == "high" else 0)
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    if kind == "u64" and (register.decimals or register.scale is not None or register.offset):
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


def _mod10k(raw: object) -> Wire:
    assert isinstance(raw, bytes)
    words = struct.unpack(f">{len(raw) // 2}H", raw)
    if max(words) > 9999:
        return None
    value = 0
    for word in words:
        value = value * 10_000 + word
    return value


def _u24(raw: object) -> Wire:
    return raw & 0xFFFFFF  # type: ignore[operator]


def _i24(raw: object) -> Wire:
    return (raw + 0x800000 & 0xFFFFFF) - 0x800000  # type: ignore[operator]


def _u48(raw: object) -> Wire:
    assert isinstance(raw, bytes)
    return int.from_bytes(raw, "big")


def _i48(raw: object) -> Wire:
    assert isinstance(raw, bytes)
    return int.from_bytes(raw, "big", signed=True)


def _half_of(register: Register, shift: int) -> Fix:
    if register.type == "u8":
        return lambda raw: raw >> shift & 255  # type: ignore[operator]
    if register.magnitude:
        return lambda raw: (raw >> shift & 127) * (-1 if raw >> shift & 128 else 1)  # type: ignore[operator]
    return lambda raw: ((raw >> shift) + 128 & 255) - 128  # type: ignore[operator]


def _magnitude_of(bits: int) -> Fix:
    """The highest bit is the sign of the others; `struct` took it for two's complement."""
    rest = (1 << bits - 1) - 1
    return lambda raw: -(raw & rest) if raw < 0 else raw  # type: ignore[operator,return-value]


def _unix32(raw: object) -> Wire:
    assert isinstance(raw, int)
    return raw * 1000


def _ymdhms(raw: object) -> Wire:
    assert isinstance(raw, bytes)
    year, month, day, hour, minute, second = struct.unpack(">6H", raw)
    return _moment(year if year >= 100 else 2000 + year, month, day, hour, minute, second, 0)


def _iec870(raw: object) -> Wire:
    """Year from 2000 (7 bits) · month, weekday, day · summer time, hour, invalid, minute · milliseconds."""
    assert isinstance(raw, bytes)
    year, date, time, ms = struct.unpack(">4H", raw)
    if time & 0x80:
        return None
    return _moment(2000 + (year & 127), date >> 8 & 15, date & 31, time >> 8 & 31, time & 63, ms // 1000, ms % 1000)


def _moment(year: int, month: int, day: int, hour: int, minute: int, second: int, ms: int) -> Wire:
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return int(at.timestamp()) * 1000 + ms


_BY_TYPE: Mapping[str, Fix] = {
    "string": _text,
    "bcd16": _bcd,
    "bcd32": _bcd,
    "bcd64": _bcd,
    "mod10k32": _mod10k,
    "mod10k48": _mod10k,
    "mod10k64": _mod10k,
    "u24": _u24,
    "i24": _i24,
    "u48": _u48,
    "i48": _i48,
    "unix32": _unix32,
    "ymdhms": _ymdhms,
    "iec870": _iec870,
}


def _float_of(register: Register) -> Fix:
    if register.decimals is None:
        return lambda raw: None if raw != raw else raw  # type: ignore[return-value]  # noqa: PLR0124 - only NaN differs from itself
    power = 10**register.decimals
    layout = struct.Struct("<d" if register.type == "f64" else "<f")

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


def as_float(number: float) -> float | None:
    """What travels as a double; None for what no double can say."""
    try:
        found = float(number)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def as_number(
    registers: Sequence[Register], index: Mapping[str, int], quantity: str
) -> Callable[[Sequence[Wire]], float | None]:
    """The value that a column's wire value means, of all columns; None where it isn't available."""
    at = index[quantity]
    register = registers[at]
    power = 10 ** (register.decimals or 0)
    exponent = index[register.scale_from] if register.scale_from is not None else None

    def value(columns: Sequence[Wire]) -> float | None:
        wire = columns[at]
        if not isinstance(wire, int | float):
            return None
        if exponent is not None:
            n = columns[exponent]
            return None if not isinstance(n, int) or abs(n) > 300 else wire / 10**-n if n < 0 else wire * 10**n
        if isinstance(wire, float):
            return wire
        if register.scale is not None or register.offset:
            return wire * (register.scale or 1.0) + register.offset
        return wire / power if register.decimals else wire

    return value
