"""Modbus frames from the device's side: requests out of bytes, answers into bytes; TCP, RTU and ASCII."""

from __future__ import annotations

import struct
from binascii import hexlify, unhexlify
from typing import NamedTuple, Protocol

_MBAP = struct.Struct(">HHHB")
_SIZES = {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 7: 4, 8: 8, 11: 4, 12: 4, 17: 4, 22: 10, 43: 7}
_COUNTED_AT = {15: 6, 16: 6, 23: 10}
"""Where a request says how many bytes follow."""


class Request(NamedTuple):
    unit: int
    pdu: bytes
    transaction: int = 0


class NotModbusError(ValueError):
    """What came can't be a request; nothing after it can be trusted."""


class Framing(Protocol):
    """One dialect."""

    in_turn: bool
    """A device on a line answers one question after the other; by TCP it may answer a later one first."""

    def cut(self, heard: bytes) -> tuple[Request | None, int]:
        """The first request, None while it isn't whole, and the bytes to throw away. Raises NotModbusError."""

    def frame(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        """An answer as it goes over the wire."""

    def spoilt(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        """The same with a wrong check sum, on TCP with another's transaction id."""


class Tcp:
    in_turn = False

    def cut(self, heard: bytes) -> tuple[Request | None, int]:
        if len(heard) < 6:
            return None, 0
        size = int.from_bytes(heard[4:6], "big") + 6
        if heard[2:4] != b"\0\0" or not 8 <= size <= 260:
            raise NotModbusError
        if len(heard) < size:
            return None, 0
        return Request(heard[6], heard[7:size], int.from_bytes(heard[:2], "big")), size

    def frame(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        return _MBAP.pack(transaction, 0, len(pdu) + 1, unit) + pdu

    def spoilt(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        return self.frame(unit, pdu, (transaction + 0x4000) & 0xFFFF)


class Rtu:
    in_turn = True

    def cut(self, heard: bytes) -> tuple[Request | None, int]:
        if len(heard) < 2:
            return None, 0
        at = _COUNTED_AT.get(heard[1])
        if at is not None and len(heard) <= at:
            return None, 0
        size = _SIZES.get(heard[1]) if at is None else at + heard[at] + 3
        if size is None:
            raise NotModbusError
        if len(heard) < size:
            return None, 0
        if crc16(heard[:size]):
            raise NotModbusError
        return Request(heard[0], heard[1 : size - 2]), size

    def frame(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        del transaction
        message = bytes((unit,)) + pdu
        return message + crc16(message).to_bytes(2, "little")

    def spoilt(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        whole = self.frame(unit, pdu, transaction)
        return whole[:-1] + bytes((whole[-1] ^ 0x55,))


class Ascii:
    in_turn = True

    def cut(self, heard: bytes) -> tuple[Request | None, int]:
        end = heard.find(b"\r\n")
        if end < 0:
            return None, 0
        try:
            message = unhexlify(heard[heard.rfind(b":", 0, end) + 1 : end])
        except ValueError:
            return None, end + 2
        if len(message) < 3 or sum(message) & 0xFF:
            return None, end + 2
        return Request(message[0], message[1:-1]), end + 2

    def frame(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        del transaction
        message = bytes((unit,)) + pdu
        return b":" + hexlify(message + bytes((-sum(message) & 0xFF,))).upper() + b"\r\n"

    def spoilt(self, unit: int, pdu: bytes, transaction: int) -> bytes:
        whole = self.frame(unit, pdu, transaction)
        return whole[:-3] + (b"0" if whole[-3:-2] != b"0" else b"1") + whole[-2:]


FRAMINGS: dict[str, Framing] = {"tcp": Tcp(), "tls": Tcp(), "rtu_over_tcp": Rtu(), "rtu": Rtu(), "ascii": Ascii()}


def crc16(data: bytes) -> int:
    """Bit by bit, as the standard draws it; of a whole frame it is 0."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc
