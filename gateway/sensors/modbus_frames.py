"""What pymodbus leaves open about an answer: whether it is one to this question, and if none came, what came instead.

Plain functions over bytes of the MBAP stream, and the response classes that unpack 100 registers at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

from pymodbus.pdu.bit_message import ReadCoilsResponse, ReadDiscreteInputsResponse
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse, ReadInputRegistersResponse

from firmware_configs.budget import Request
from gateway.errors import Retryable

Cause = Literal["unreachable", "closed", "timeout", "exception", "malformed", "protocol", "internal"]

EXCEPTIONS = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "server device failure",
    5: "acknowledge", 6: "server device busy", 8: "memory parity error", 10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}  # fmt: skip
FUNCTION_CODES = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


class ReadFailed(Retryable):
    """One read gave nothing. `cause` is what counters count; the text is for people; `code` is a Modbus exception's."""

    def __init__(self, cause: Cause, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.code = code


class HoldingWords(ReadHoldingRegistersResponse):
    """Unpacked by one call instead of one per register, and not printed for a debug line nobody reads."""

    def decode(self, data: bytes) -> None:
        self.registers = _words(data)

    def __str__(self) -> str:
        return "holding registers"


class InputWords(ReadInputRegistersResponse):
    def decode(self, data: bytes) -> None:
        self.registers = _words(data)

    def __str__(self) -> str:
        return "input registers"


def _words(data: bytes) -> tuple[int, ...]:
    """None at all where the byte count doesn't fit: the caller compares with what it asked."""
    size = data[0] if data else 0
    if size % 2 or len(data) != size + 1:
        return ()
    return struct.unpack_from(f">{size // 2}H", data, 1)


RESPONSES = {
    "coil": ReadCoilsResponse,
    "discrete": ReadDiscreteInputsResponse,
    "holding": HoldingWords,
    "input": InputWords,
}


def objection(heard: bytes, unit: int, request: Request, transaction: int) -> ReadFailed | None:
    """Why the stream that begins with `heard` can't be an answer from here on; None while it still can.

    Called for each piece received, before pymodbus sees it.
    """
    if len(heard) >= 4 and heard[2:4] != b"\0\0":
        return ReadFailed("protocol", f"this is not a Modbus TCP device: it answered {shown(heard)}")
    if len(heard) < 8:
        return None
    length = int.from_bytes(heard[4:6], "big")
    if not 3 <= length <= 254:
        return ReadFailed("protocol", f"this is not a Modbus TCP device: a frame of {length} bytes, {shown(heard)}")
    if int.from_bytes(heard[:2], "big") != transaction or heard[6] != unit:
        return None
    if heard[7] & 0x7F != FUNCTION_CODES[request.function]:
        return ReadFailed(
            "malformed", f"unit {unit}: asked function {FUNCTION_CODES[request.function]}, got {heard[7]}"
        )
    return None


def silence(heard: bytes, unit: int, request: Request, transaction: int, timeout_s: float) -> ReadFailed:
    """What to call it that nothing fitting came in time, from what did come."""
    where = f"unit {unit}, {request.function} {request.address}"
    if not heard:
        return ReadFailed("timeout", f"{where}: no answer within {timeout_s:g} s")
    if len(heard) < 8 or len(heard) < int.from_bytes(heard[4:6], "big") + 6:
        return ReadFailed("malformed", f"{where}: only {len(heard)} bytes of a frame came within {timeout_s:g} s")
    answered = int.from_bytes(heard[:2], "big")
    if answered != transaction:
        return ReadFailed("timeout", f"{where}: only a late answer (transaction {answered}) within {timeout_s:g} s")
    if heard[6] != unit:
        return ReadFailed("malformed", f"{where}: unit {heard[6]} answered instead")
    return ReadFailed("malformed", f"{where}: an answer that can't be read, {shown(heard)}")


def exception_answer(unit: int, request: Request, code: int) -> ReadFailed:
    text = EXCEPTIONS.get(code, "not defined by Modbus")
    asked = f"unit {unit}, {request.function} {request.address}+{request.length}"
    return ReadFailed("exception", f"{asked}: exception {code} ({text})", code=code)


def checked(unit: int, request: Request, values: Sequence[int]) -> Sequence[int]:
    """Exactly what was asked, or ReadFailed: a frame can be well formed and still be another's answer."""
    if request.function in {"coil", "discrete"}:
        if len(values) == -(-request.length // 8) * 8:
            return [int(bit) for bit in values[: request.length]]
    elif len(values) == request.length:
        return values
    where = f"unit {unit}, {request.function} {request.address}"
    raise ReadFailed("malformed", f"{where}: asked {request.length} values, got {len(values)}")


def shown(heard: bytes) -> str:
    return repr(heard[:16])[1:]
