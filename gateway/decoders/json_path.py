"""JSON messages → values at JSON pointers (RFC 6901). Pure.

A message that isn't JSON, or has none of the wanted values, is refused whole. Of a message that has some, a value that
isn't there is BAD_COMM, one of another type (null included) or a sentinel BAD_SENSOR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from firmware_configs.messages import MessageValue
from gateway.decoders.values import wire
from gateway.errors import Rejected
from gateway.reading import Wire
from protos.comboio.v1 import batch_pb2 as pb

MAX_BYTES = 64 * 1024
Decoded = tuple[tuple[Wire, ...], tuple[int, ...] | None]
"""One wire value per column; one quality per column, or None when all are good."""
_ABSENT = object()


def compile_values(values: Sequence[MessageValue]) -> Callable[[bytes], Decoded]:
    """A decoder of messages. It raises Rejected with the reason, and nothing else."""
    pointers = [(value, tokens(value.path)) for value in values]

    def decode(payload: bytes) -> Decoded:
        document = _document(payload)
        found = [_one(value, at(document, path)) for value, path in pointers]
        quality = tuple(code for _, code in found)
        if all(value is None for value, _ in found):
            raise Rejected("none of the wanted values is in the message")
        return tuple(value for value, _ in found), quality if any(quality) else None

    return decode


def tokens(pointer: str) -> tuple[str, ...]:
    """Split a pointer: /a~1b/0 → ("a/b", "0"); an empty one is the whole document."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def at(document: Any, path: Sequence[str]) -> Any:
    """What stands there; a private marker when nothing does."""
    for token in path:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list) and token.isdecimal() and token.isascii() and str(int(token[:9])) == token:
            index = int(token)
            if index >= len(document):
                return _ABSENT
            document = document[index]
        else:
            return _ABSENT
    return document


def _document(payload: bytes) -> Any:
    if len(payload) > MAX_BYTES:
        raise Rejected(f"{len(payload)} bytes are more than the {MAX_BYTES} a message may have")
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"not JSON: {error}") from error


def _one(value: MessageValue, said: Any) -> tuple[Wire, int]:
    if said is _ABSENT:
        return None, pb.QUALITY_BAD_COMM
    if isinstance(said, int | float | str) and not isinstance(said, bool) and said in value.sentinels:
        return None, pb.QUALITY_BAD_SENSOR
    found = wire(said, value.type, value.decimals)
    return found, pb.QUALITY_GOOD if found is not None else pb.QUALITY_BAD_SENSOR
