"""Values → the registers a device would send: the inverse of `gateway.decoders.registers`, for simulated devices."""

from __future__ import annotations

import struct

from firmware_configs.schema import FLOATS, Register

_FORMATS = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}


def encode(register: Register, value: float) -> list[int]:
    """The register's words as sent, `value` clamped to what they can hold. Bits give [0] or [1]."""
    if register.type == "bool":
        return [int(value != 0) << (register.bit or 0)]
    raw = _bytes(register, value)
    words = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    if register.word_order == "little":
        words.reverse()
    return [int.from_bytes(word, "little" if register.byte_order == "little" else "big") for word in words]


def _bytes(register: Register, value: float) -> bytes:
    if register.type == "string":
        return f"{value:g}".encode().ljust(2 * register.width, b"\0")[: 2 * register.width]
    if register.type in FLOATS:
        return struct.pack(">" + _FORMATS[register.type], value)
    number = round((value - register.offset) / (register.scale or 10.0 ** -(register.decimals or 0)))
    size = 2 * register.width
    if register.type in {"bcd16", "bcd32"}:
        digits = str(min(max(number, 0), 10 ** (2 * size) - 1))
        return bytes.fromhex(digits.rjust(2 * size, "0"))
    low, high = (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if register.type[0] == "i" else (0, (1 << 8 * size) - 1)
    return min(max(number, low), high).to_bytes(size, "big", signed=low < 0)
