"""Takes a serialized Body apart into its fields without touching what is in them.

Both decoders start here, so that they agree on what a body is and neither allocates anything on the word of its
sender: each packed field stands at most once, strings and events are counted. Fields of a later v1 are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.schema import MAX_BODY_BYTES, MAX_EVENTS, MAX_STRINGS, BodyError

BOOT, BASE, GROUP, ROWS, T, V, CONSTANT, D, XPOS, XVAL, STRINGS, Q_POS, Q_LEN, Q_CODE, EVENTS, DEVICE_MS = range(1, 17)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class Fields:
    """Numbers and raw bytes by field number."""

    boot: int = 0
    base_mono_ms: int = 0
    packed: list[bytes] = field(default_factory=lambda: [b""] * (DEVICE_MS + 1))
    strings: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)


def split(data: bytes) -> Fields:
    """Raises BodyError; time and memory are bounded by len(data)."""
    if len(data) > MAX_BODY_BYTES:
        raise BodyError(f"a body of {len(data)} bytes is over the limit of {MAX_BODY_BYTES}")
    try:
        return _split(data)
    except IndexError:
        raise BodyError("the body ends in the middle of a field") from None


def _split(data: bytes) -> Fields:
    fields = Fields()
    packed, seen, at, end = fields.packed, 0, 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _varint(data, at - 1)
        value = data[at]
        at += 1
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            if value > 127:
                value, at = _varint(data, at - 1)
            content, at = data[at : at + value], at + value
            if at > end:
                raise BodyError("the body ends in the middle of a field")
            if number == STRINGS:
                _collect(fields.strings, content, MAX_STRINGS)
                continue
            if number == EVENTS:
                _collect(fields.events, content, MAX_EVENTS)
                continue
        elif kind == _VARINT:
            if value > 127:
                value, at = _varint(data, at - 1)
        elif kind in (_FIXED64, _FIXED32) and number > DEVICE_MS:
            at += 7 if kind == _FIXED64 else 3
            if at > end:
                raise BodyError("the body ends in the middle of a field")
            continue
        else:
            raise BodyError(f"field {number} has wire type {kind}")
        if number > DEVICE_MS:
            continue
        if number == 0 or (kind == _VARINT) != (number <= BASE) or seen >> number & 1:
            raise BodyError(f"field {number} comes twice or in another form")
        seen |= 1 << number
        if number == BOOT:
            fields.boot = value & 0xFFFFFFFF
        elif number == BASE:
            fields.base_mono_ms = value
        else:
            packed[number] = content
    return fields


def _collect(into: list[bytes], content: bytes, limit: int) -> None:
    if len(into) == limit:
        raise BodyError(f"more than {limit} strings or events")
    into.append(content)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise BodyError("a varint has more than 64 bits")
    if value >> 64:
        raise BodyError("a varint has more than 64 bits")
    return value, at
