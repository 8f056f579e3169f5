"""Values → the registers that say exactly that: the inverse of `registers`, for writing to devices.

Nothing is rounded or clamped: a value that the registers can't hold is refused in words. What was encoded decodes to
the same value again; what would then read as "not available" is refused too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from firmware_configs.budget import Request
from firmware_configs.schema import BITS, FLOATS, MOMENTS, Register
from gateway.decoders.raw import as_number
from gateway.decoders.registers import compile_registers
from gateway.errors import Rejected
from gateway.writing import Value

_FLOATS = {"f16": ("e", 1e-3), "f32": ("f", 1e-6), "f64": ("d", 1e-12)}
"""`struct` code, and what two floats of that width may differ by to be called the same."""
_ORDERS: dict[int, dict[str | None, tuple[int, ...]]] = {
    4: {"swapped_pairs": (1, 0, 3, 2), "reversed_pairs": (2, 3, 0, 1)},
    2: {"swapped_pairs": (1, 0)},
}


def encode(register: Register, value: Value) -> tuple[int, ...]:
    """The words to send, as `Register.expanded` has their orders; bits as 0 and 1.

    The other bits of a part's register are 0. Raises Rejected when it does not fit.
    """
    number = _checked(register, value)
    words = _words(register, number)
    meant = meaning(register)(words)
    if meant is None:
        raise Rejected(f"{value} would mean that {register.quantity} is not available")
    if not same(register, number, meant):
        raise Rejected(
            f"{register.quantity}: {value!r} is too large to be said exactly; the device would hold {meant!r}"
        )
    return words


def meaning(register: Register) -> Callable[[Sequence[int]], Value | None]:
    """What the register's words mean, as a value that `encode` takes; None for "not available"."""
    if register.scale_from is not None:
        raise Rejected(f"{register.quantity} is scaled by another register")
    decode = compile_registers([register], [Request(register.function, register.address, register.width)])
    number = as_number([register], {register.quantity: 0}, register.quantity)

    def read(words: Sequence[int]) -> Value | None:
        (wire,), _ = decode([words])
        if wire is None or isinstance(wire, str):
            return wire
        return bool(wire) if register.type == "bool" else number((wire,))

    return read


def same(register: Register, one: Value, other: Value) -> bool:
    """Whether two values are one as far as the register can tell; `one` need not be encodable."""
    if isinstance(one, str) and register.labels:
        one = _labelled(register, one)
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    if register.type not in FLOATS:
        return one == other or _close(register, one, other)
    if register.decimals is not None:
        return round(one, register.decimals) == round(other, register.decimals)
    return math.isclose(one, other, rel_tol=_FLOATS[register.type][1], abs_tol=1e-30)


def _close(register: Register, one: float, other: float) -> bool:
    """Only where scale and offset may cost a float its last digit."""
    if register.scale is None and not register.offset:
        return False
    return abs(one - other) < abs(register.scale or 1.0) * 0.01


# --- what a person may mean ------------------------------------------------------------------------------


def _checked(register: Register, value: Value) -> Value:
    """The value in its type, within what the profile allows."""
    if isinstance(value, str) and register.labels:
        value = _labelled(register, value)
    if register.type == "string":
        if not isinstance(value, str):
            raise Rejected(f"{register.quantity} is a text, not {value}")
        return value
    if isinstance(value, str):
        raise Rejected(f"{register.quantity} is a {'switch' if register.type == 'bool' else 'number'}, not {value!r}")
    if register.type == "bool":
        if value not in {0, 1}:
            raise Rejected(f"{register.quantity} is a switch: true or false, not {value}")
        return bool(value)
    if isinstance(value, bool):
        raise Rejected(f"{register.quantity} is a number, not {str(value).lower()}")
    if abs(value) > 1e300 or value != value:  # noqa: PLR0124 - only NaN differs from itself
        raise Rejected(f"{register.quantity}: {value} is no number")
    if register.min is not None and value < register.min:
        raise Rejected(f"{register.quantity}: {value:g} is below {register.min:g}, the least it may be set to")
    if register.max is not None and value > register.max:
        raise Rejected(f"{register.quantity}: {value:g} is above {register.max:g}, the most it may be set to")
    if register.labels and str(_whole(register, value)) not in register.labels:
        known = ", ".join(f"{number} ({word})" for number, word in register.labels.items())
        raise Rejected(f"{register.quantity}: {value:g} is none of {known}")
    return value


def _labelled(register: Register, word: str) -> int:
    for number, label in register.labels.items():
        if label == word:
            return int(number)
    raise Rejected(f"{register.quantity}: {word!r} is none of {', '.join(register.labels.values())}")


def _whole(register: Register, value: float) -> int:
    """The device's own integer for it: exactly that, or the one whose meaning is this very float."""
    try:
        exact = Fraction(Decimal(repr(value)))
    except InvalidOperation:
        raise Rejected(f"{register.quantity}: {value} is no number") from None
    if register.decimals is not None:
        number = exact * Fraction(10) ** register.decimals
    else:
        number = (exact - Fraction(repr(register.offset))) / Fraction(repr(register.scale or 1.0))
    near = round(number)
    if number == near:
        return near
    if register.scale is not None or register.offset:
        if near * (register.scale or 1.0) + register.offset == value:
            return near
        raise Rejected(f"{register.quantity}: {value!r} lies between two steps of {register.scale or 1.0:g}")
    kept = register.decimals or 0
    raise Rejected(f"{register.quantity}: {value!r} has more decimals than the {kept} the device keeps")


# --- as bytes --------------------------------------------------------------------------------------------


def _words(register: Register, value: Value) -> tuple[int, ...]:
    if register.function in BITS:
        return (int(value),)
    raw = _bytes(register, value)
    words = [raw[at : at + 2] for at in range(0, len(raw), 2)]
    if register.word_order == "little":
        words.reverse()
    elif register.word_order in (orders := _ORDERS.get(len(words), {})):
        words = [words[at] for at in orders[register.word_order]]
    order = "little" if register.byte_order == "little" else "big"
    return tuple(int.from_bytes(word, order) for word in words)  # type: ignore[arg-type]


def _bytes(register: Register, value: Value) -> bytes:
    kind, size = register.type, 2 * register.width
    if isinstance(value, str):
        return _text(register, value, size)
    if kind == "bool":
        return (int(value) << (register.bit or 0)).to_bytes(size, "big")
    if kind in FLOATS:
        return _float(register, value)
    if kind in MOMENTS:
        return _moment(register, value)
    number = _whole(register, value)
    if kind.startswith("bcd"):
        return bytes.fromhex(str(_within(register, number, 0, 10 ** (2 * size) - 1)).rjust(2 * size, "0"))
    if kind.startswith("mod10k"):
        digits = str(_within(register, number, 0, 10 ** (2 * size) - 1)).rjust(2 * size, "0")
        return b"".join(struct.pack(">H", int(digits[at : at + 4])) for at in range(0, len(digits), 4))
    return _integer(register, number).to_bytes(size, "big")


def _within(register: Register, number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise Rejected(f"{register.quantity}: the device's integer would be {number}; it holds {low} to {high}")
    return number


def _integer(register: Register, number: int) -> int:
    """As the bits of its registers."""
    bits = register.bits or int(register.type[1:])
    if register.magnitude:
        most = (1 << bits - 1) - 1
        _within(register, number, -most, most)
        return -number | 1 << bits - 1 if number < 0 else number
    signed = register.type[0] == "i"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    shift = 8 if register.byte == "high" else register.bit or 0
    return (_within(register, number, low, high) & (1 << bits) - 1) << shift


def _float(register: Register, value: float) -> bytes:
    """The nearest there is, if it says the same in as many digits as were given."""
    if register.decimals is not None:
        _whole(register, value)
    layout = struct.Struct(">" + _FLOATS[register.type][0])
    try:
        raw = layout.pack(value)
    except (OverflowError, struct.error):
        raise Rejected(f"{register.quantity}: {value!r} is more than a {register.type} holds") from None
    (held,) = layout.unpack(raw)
    digits = max(1, len(Decimal(repr(float(value))).normalize().as_tuple().digits))
    if held != value and float(f"{held:.{digits}g}") != value:
        raise Rejected(f"{register.quantity}: the device can't hold {value!r}, only {held!r}")
    return raw


def _text(register: Register, value: str, size: int) -> bytes:
    try:
        raw = value.encode("ascii")
    except UnicodeEncodeError:
        raise Rejected(f"{register.quantity}: {value!r} has letters that are not ASCII") from None
    if len(raw) > size:
        raise Rejected(f"{register.quantity}: {value!r} is longer than the {size} characters the device keeps")
    if not value.isprintable() or value != value.rstrip():
        raise Rejected(f"{register.quantity}: {value!r} ends with blanks or has what can't be printed")
    return raw.ljust(size, b"\0")


def _moment(register: Register, value: float) -> bytes:
    """Milliseconds since 1970; each type with its own step and years."""
    ms = _whole(register, value)
    step = 1 if register.type == "iec870" else 1000
    if ms % step:
        raise Rejected(f"{register.quantity}: the device keeps whole seconds, not {ms} ms")
    if register.type == "unix32":
        return struct.pack(">I", _within(register, ms // 1000, 0, (1 << 32) - 1))
    _within(register, ms, 946_684_800_000, 4_102_444_799_999)  # the years 2000 to 2099
    at = datetime.fromtimestamp(ms // 1000, UTC)
    if register.type == "ymdhms":
        return struct.pack(">6H", at.year, at.month, at.day, at.hour, at.minute, at.second)
    date, time = at.month << 8 | at.day, at.hour << 8 | at.minute
    return struct.pack(">4H", at.year - 2000, date, time, at.second * 1000 + ms % 1000)
