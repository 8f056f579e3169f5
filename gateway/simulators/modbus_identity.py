"""Read device identification (43/14) of a simulated unit, in as many frames as it takes."""

from __future__ import annotations

from collections.abc import Mapping

from firmware_configs.schema import ModbusProfile

_LEVELS = {1: 0x02, 2: 0x7F, 3: 0xFF}
"""Level → its last object."""
ONE = 4
"""Level that asks for a single object."""
_ALL_LEVELS, _MOST_BYTES = 0x83, 253
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3


def objects_of(profile: ModbusProfile) -> dict[int, bytes]:
    """What a device of that profile says that it is."""
    said = {0: profile.vendor, 1: profile.model, 2: str(profile.version), 4: profile.description}
    return {number: text.encode()[:200] for number, text in said.items()}


def identify(objects: Mapping[int, bytes], data: bytes, *, most_bytes: int = _MOST_BYTES) -> bytes | int:
    """`data` follows the function code; so does the answer, unless it is an exception code."""
    if len(data) != 3 or data[0] != 14:
        return ILLEGAL_FUNCTION
    level, first = data[1], data[2]
    if level == ONE:
        if first not in objects:
            return ILLEGAL_ADDRESS
        chosen = [first]
    elif level in _LEVELS:
        known = [number for number in sorted(objects) if number <= _LEVELS[level]]
        chosen = [number for number in known if number >= first] if first in known else known
    else:
        return ILLEGAL_VALUE
    listed, count, following = b"", 0, 0
    for number in chosen:
        one = bytes((number, len(objects[number]))) + objects[number]
        if 7 + len(listed) + len(one) > most_bytes:
            following = number
            break
        listed, count = listed + one, count + 1
    return bytes((14, level, _ALL_LEVELS, 0xFF if following else 0, following, count)) + listed
