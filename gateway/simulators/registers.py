"""Values → the registers a device would send: the inverse of `gateway.decoders.registers`, for simulated devices."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from firmware_configs.schema import FLOATS, MOMENTS, Register

_FLOATS = {"f16": "e", "f32": "f", "f64": "d"}
_ORDERS = {"big": "0123", "little": "3210", "swapped_pairs": "1032", "reversed_pairs": "2301"}


def encode(register: Register, value: float) -> list[int]:
    """The register's words as sent, `value` clamped to what they can hold. Bits give [0] or [1].

    The other bits of a field's or a half's register are 0.
    """
    if register.type == "bool":
        return [int(value != 0) << (register.bit or 0)]
    raw = _bytes(register, value)
    words = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    if register.word_order == "little":
        words.reverse()
    elif register.word_order in {"swapped_pairs", "reversed_pairs"} and len(words) in {2, 4}:
        order = _ORDERS[register.word_order] if len(words) == 4 else _PAIR[register.word_order]
        words = [words[int(at)] for at in order]
    return [int.from_bytes(word, "little" if register.byte_order == "little" else "big") for word in words]


_PAIR = {"swapped_pairs": "10", "reversed_pairs": "01"}


def _bytes(register: Register, value: float) -> bytes:
    kind, size = register.type, 2 * register.width
    if kind == "string":
        return f"{value:g}".encode().ljust(size, b"\0")[:size]
    if kind in FLOATS:
        return struct.pack(">" + _FLOATS[kind], value)
    if kind in MOMENTS:
        return _moment(kind, value)
    number = round((value - register.offset) / (register.scale or 10.0 ** -(register.decimals or 0)))
    if kind.startswith("bcd"):
        return bytes.fromhex(str(_clamped(number, 0, 10 ** (2 * size) - 1)).rjust(2 * size, "0"))
    if kind.startswith("mod10k"):
        digits = str(_clamped(number, 0, 10 ** (2 * size) - 1)).rjust(2 * size, "0")
        return b"".join(struct.pack(">H", int(digits[at : at + 4])) for at in range(0, len(digits), 4))
    return _integer(register, number).to_bytes(size, "big")


def _integer(register: Register, number: int) -> int:
    """As the bits of its registers."""
    bits = register.bits or int(register.type[1:])
    shift = 8 if register.byte == "high" else register.bit or 0
    if register.magnitude:
        most = (1 << bits - 1) - 1
        number = _clamped(number, -most, most)
        return (-number | 1 << bits - 1 if number < 0 else number) << shift
    signed = register.type[0] == "i"
    number = _clamped(number, -(1 << bits - 1), (1 << bits - 1) - 1) if signed else _clamped(number, 0, (1 << bits) - 1)
    return (number & (1 << bits) - 1) << shift


def _clamped(number: int, low: int, high: int) -> int:
    return min(max(number, low), high)


def _moment(kind: str, unix_ms: float) -> bytes:
    ms = _clamped(round(unix_ms), 946_684_800_000, 4_102_444_799_999)  # the years 2000 to 2099
    at = datetime.fromtimestamp(ms // 1000, UTC)
    if kind == "unix32":
        return struct.pack(">I", ms // 1000)
    if kind == "ymdhms":
        return struct.pack(">6H", at.year, at.month, at.day, at.hour, at.minute, at.second)
    date, time = at.month << 8 | at.day, at.hour << 8 | at.minute
    return struct.pack(">4H", at.year - 2000, date, time, at.second * 1000 + ms % 1000)
