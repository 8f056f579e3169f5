"""Whether a whole frame answers a question, and what it says. Plain functions over PDUs (function code and data).

Source: "MODBUS Application Protocol V1.1b3", 6 (functions) and 7 (exceptions).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Literal

from firmware_configs.budget import Request
from gateway.errors import Retryable
from gateway.sensors.modbus_writes import Write

Cause = Literal["unreachable", "closed", "timeout", "exception", "malformed", "protocol", "internal"]

EXCEPTIONS = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "server device failure",
    5: "acknowledge", 6: "server device busy", 8: "memory parity error", 10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}  # fmt: skip
FUNCTION_CODES = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
BIT_FUNCTIONS = frozenset({1, 2})
SAME_BACK = frozenset({5, 6, 8, 22})
"""Answered with the very bytes of the question."""
IDENTIFY = 43
LOOPBACK = 8


class ReadFailed(Retryable):
    """One exchange gave nothing. `cause` is what counters count; the text is for people; `code` a Modbus exception's.

    Of a write: "exception" says that the device refused and changed nothing; any other, that nobody knows.
    """

    def __init__(self, cause: Cause, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.code = code


# --- questions ------------------------------------------------------------------------------------------


def question(request: Request) -> bytes:
    return struct.pack(">BHH", FUNCTION_CODES[request.function], request.address, request.length)


def command(write: Write) -> bytes:
    """Raises ValueError or struct.error where values don't fit the function."""
    function, address, values = write.function, write.address, write.values
    if function == 5:
        (bit,) = values
        return struct.pack(">BHH", 5, address, 0xFF00 if bit else 0)
    if function in {6, 22}:
        return struct.pack(f">BH{1 if function == 6 else 2}H", function, address, *values)
    if not values:
        raise ValueError("a write of nothing")
    if function == 15:
        size = -(-len(values) // 8)
        packed = sum(bool(bit) << n for n, bit in enumerate(values)).to_bytes(size, "little")
        return struct.pack(">BHHB", 15, address, len(values), size) + packed
    words = struct.pack(f">HHB{len(values)}H", address, len(values), 2 * len(values), *values)
    if function == 16:
        return b"\x10" + words
    if write.read is None:
        raise ValueError("function 23 also reads: say what")
    return struct.pack(">BHH", 23, write.read.address, write.read.length) + words


# --- answers --------------------------------------------------------------------------------------------


def head(asked: bytes) -> bytes:
    """How the data of a good answer begin, as far as the question tells: function, and byte count of a read."""
    size = _data_bytes(asked)
    return asked[:1] if size is None else bytes((asked[0], size & 0xFF))


def count_of(asked: bytes) -> int:
    """Values that a read asks for."""
    return int.from_bytes(asked[3:5], "big")


def misfit(asked: bytes, answer: bytes) -> str | None:
    """Why `answer` can't be the answer to `asked`, of the same function; None: it is."""
    function = asked[0]
    if answer[0] != function:
        return None if len(answer) == 2 else f"an exception of {len(answer)} bytes"
    size = _data_bytes(asked)
    if size is not None:
        if len(answer) == size + 2 and answer[1] == size:
            return None
        count = int.from_bytes(asked[3:5], "big")
        got = 8 * (len(answer) - 2) if function in BIT_FUNCTIONS else (len(answer) - 2) // 2
        return f"asked {count} values, got {max(got, 0)}" + ("" if answer[1:2] == bytes((len(answer) - 2 & 0xFF,)) else
                                                             " and another byte count")  # fmt: skip
    if function == IDENTIFY:
        return _identification_misfit(asked, answer)
    expected = asked if function in SAME_BACK else asked[:5]
    return None if answer == expected else f"it confirmed {answer.hex(' ')}, asked was {expected.hex(' ')}"


def _data_bytes(asked: bytes) -> int | None:
    """What a read brings; None for what is no read."""
    if asked[0] not in {1, 2, 3, 4, 23}:
        return None
    count = int.from_bytes(asked[3:5], "big")
    return -(-count // 8) if asked[0] in BIT_FUNCTIONS else 2 * count


def values(asked: bytes, answer: bytes) -> Sequence[int]:
    """Of a read that fits: registers, or bits as 0 and 1."""
    count = int.from_bytes(asked[3:5], "big")
    if asked[0] not in BIT_FUNCTIONS:
        return struct.unpack_from(f">{count}H", answer, 2)
    bits = int.from_bytes(answer[2:], "little")
    return [bits >> n & 1 for n in range(count)]


def exception_answer(what: str, code: int) -> ReadFailed:
    text = EXCEPTIONS.get(code, "not defined by Modbus")
    return ReadFailed("exception", f"{what}: exception {code} ({text})", code=code)


# --- identification (43/14) -----------------------------------------------------------------------------


def identification(level: int, first: int) -> bytes:
    """Ask for all objects of a level (1 basic, 2 regular, 3 extended) from one on."""
    return bytes((IDENTIFY, 14, level, first))


def objects(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """Of an answer that fits."""
    at = 7
    for _ in range(answer[6]):
        size = answer[at + 1]
        yield answer[at], answer[at + 2 : at + 2 + size]
        at += 2 + size


def follows(answer: bytes) -> int | None:
    """The object to ask for next; None: that was all."""
    return answer[5] if answer[4] == 0xFF else None


def _identification_misfit(asked: bytes, answer: bytes) -> str | None:
    if len(answer) < 7 or answer[1:3] != asked[1:3]:
        return f"no identification: {answer[:8].hex(' ')}"
    at = 7
    for _ in range(answer[6]):
        if at + 2 > len(answer):
            return "an identification that ends too soon"
        at += 2 + answer[at + 1]
    return None if at == len(answer) else f"an identification of {at} bytes in {len(answer)}"
