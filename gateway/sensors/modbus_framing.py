"""Where a frame ends in the bytes of each dialect. Pure: bytes in, frames out.

No dialect's frame is believed before it is whole and its check sum (RTU, ASCII) or header (TCP) is right. RTU has no
mark for begin or end: a frame is as long as its function says. Sources: "MODBUS over Serial Line V1.02" 2.5, "MODBUS
Messaging on TCP/IP V1.0b" 3.1, "MODBUS Application Protocol V1.1b3" 6.
"""

from __future__ import annotations

import struct
from binascii import unhexlify
from collections.abc import Callable
from typing import NamedTuple

LONGEST_RTU = 256
LONGEST_ASCII = 513
NOISE_BYTES = 8
"""A transceiver that changes direction makes a byte or two that nobody sent; an answer is looked for behind so many."""
_COUNTED = frozenset({1, 2, 3, 4, 12, 17, 20, 21, 23})
"""Functions whose answer says in its third byte how many follow."""
_FIXED = {5: 8, 6: 8, 7: 5, 8: 8, 11: 8, 15: 8, 16: 8, 22: 10}
_MBAP = struct.Struct(">HHHB")


class Frame(NamedTuple):
    """One whole frame, and the bytes it took with what stood before it."""

    end: int
    unit: int
    pdu: bytes
    adu: bytes
    transaction: int = 0


class Broken(NamedTuple):
    """No frame from here on. `end`: what can be thrown away; 0: nothing yet, more may make it one."""

    end: int
    why: str
    foreign: bool = False
    """Another protocol is spoken there."""


Cut = Callable[[bytes, bytes], Frame | Broken | None]
"""What was heard and the begin of the answer waited for (unit, function, byte count where it is known) → the first
frame, what is wrong, or None: more must come."""


def tcp(heard: bytes, head: bytes) -> Frame | Broken | None:
    del head
    if len(heard) >= 4 and heard[2:4] != b"\0\0":
        return Broken(0, f"this is not a Modbus TCP device: it answered {shown(heard)}", foreign=True)
    if len(heard) < 7:
        return None
    transaction, _, length, unit = _MBAP.unpack_from(heard)
    if not 3 <= length <= 254:
        why = f"this is not a Modbus TCP device: a frame of {length} bytes, {shown(heard)}"
        return Broken(0, why, foreign=True)
    if len(heard) < 6 + length:
        return None
    adu = heard[: 6 + length]
    return Frame(len(adu), unit, adu[7:], adu, transaction)


def rtu(heard: bytes, head: bytes) -> Frame | Broken | None:
    first = _rtu_at(heard)
    if isinstance(first, Frame) or (first is None and head.startswith(heard[: len(head)])):
        return first  # or the answer on its way
    for at in range(1, min(NOISE_BYTES, len(heard) - 4) + 1):
        if heard.startswith(head, at) or (heard[at] == head[0] and heard[at + 1] == head[1] | 0x80):
            found = _rtu_at(heard[at:])
            if isinstance(found, Frame):
                return found._replace(end=found.end + at)
    if first is None and len(heard) > LONGEST_RTU:
        return Broken(0, "a frame without an end")
    return first


def _rtu_at(heard: bytes) -> Frame | Broken | None:
    size = rtu_size(heard)
    if size is None or len(heard) < size:
        return None
    if not size:
        return Broken(0, f"no frame of Modbus RTU: {shown(heard)}")
    if crc16(heard[: size - 2]) != int.from_bytes(heard[size - 2 : size], "little"):
        return Broken(0, f"the check sum (CRC) of {size} bytes is wrong")
    return Frame(size, heard[0], heard[1 : size - 2], heard[:size])


def rtu_size(heard: bytes) -> int | None:
    """Bytes of the answer that begins with `heard`; None: too little to know; 0: no answer begins so."""
    if len(heard) < 2:
        return None
    function = heard[1]
    if function & 0x80:
        return 5
    if function in _COUNTED:
        return 5 + heard[2] if len(heard) > 2 else None
    if function == 43:
        return _identification_size(heard)
    return _FIXED.get(function, 0)


def _identification_size(heard: bytes) -> int | None:
    if len(heard) < 8:
        return None
    at = 8
    for _ in range(heard[7]):
        if len(heard) < at + 2:
            return None
        at += 2 + heard[at + 1]
    return at + 2 if at + 2 <= LONGEST_RTU else 0


def ascii_(heard: bytes, head: bytes) -> Frame | Broken | None:
    del head
    begin = heard.find(b":")
    if begin < 0:
        return Broken(len(heard), f"no frame of Modbus ASCII: {shown(heard)}")
    end = heard.find(b"\r\n", begin)
    if end < 0:
        return Broken(len(heard), "a frame without an end") if len(heard) - begin > LONGEST_ASCII else None
    begin = heard.rfind(b":", begin, end)  # a colon always begins anew
    adu = heard[begin : end + 2]
    try:
        message = unhexlify(adu[1:-2])
    except ValueError:
        return Broken(end + 2, f"a frame with other characters than digits: {shown(adu)}")
    if len(message) < 3 or sum(message) & 0xFF:
        return Broken(end + 2, f"the check sum (LRC) of {len(adu)} characters is wrong")
    return Frame(end + 2, message[0], message[1:-1], adu)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)  # noqa: PLW2901
        table.append(byte)
    return tuple(table)


_CRC = _table()


def crc16(data: bytes) -> int:
    """As the serial line guide's appendix B has it; sent low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc


def shown(heard: bytes) -> str:
    return repr(heard[:16])[1:]
