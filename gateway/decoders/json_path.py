"""JSON documents as devices write them, and JSON pointers (RFC 6901) into them. Pure.

What no JSON allows and devices send all the same (NaN, Infinity, numbers beyond any float) spoils only itself. The same
name twice in one object is refused: which of the two is meant, nobody knows (RFC 8259, section 4).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from gateway.errors import Rejected

MAX_BYTES = 64 * 1024
ABSENT = object()
"""What stands where nothing does."""


class Unreadable(Rejected):
    """A payload that gives nothing; `cause` is one word for a counter."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def tokens(pointer: str) -> tuple[str, ...]:
    """Split a pointer: /a~1b/0 → ("a/b", "0"); an empty one is the whole document."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def at(document: Any, path: Sequence[str]) -> Any:
    """What stands there; ABSENT when nothing does."""
    for token in path:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list) and token.isdecimal() and token.isascii() and str(int(token[:9])) == token:
            index = int(token)
            if index >= len(document):
                return ABSENT
            document = document[index]
        else:
            return ABSENT
    return document


def names_of(paths: Sequence[Sequence[str]]) -> tuple[bytes, ...]:
    """The names on these paths as a document spells them, for `document` to look for twice."""
    return tuple(sorted({b'"%s"' % token.encode() for path in paths for token in path if not token.isdecimal()}))


def document(payload: bytes, names: Sequence[bytes] = ()) -> Any:
    """Raises Unreadable, and nothing else. `names`: of these none may stand twice in one object."""
    if len(payload) > MAX_BYTES:
        raise Unreadable("too_large", f"{len(payload)} bytes are more than the {MAX_BYTES} a message may have")
    if not payload.strip():
        raise Unreadable("empty", "it is empty")
    try:
        if b"\\u" not in payload and all(payload.count(name) <= 1 for name in names):
            return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # the slow way finds out more
    return _slowly(payload)


def _slowly(payload: bytes) -> Any:
    try:
        text = payload.decode()
        return json.loads(text, parse_constant=lambda _: None, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise Unreadable("not_text", f"not JSON: byte {error.start} is no UTF-8") from None
    except RecursionError:
        raise Unreadable("too_deep", "not JSON: it is nested too deep") from None
    except ValueError as error:
        raise Unreadable("not_json", f"not JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _twice(pairs)
    return found


def _twice(pairs: list[tuple[str, Any]]) -> NoReturn:
    seen: set[str] = set()
    name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    raise Unreadable("duplicate_name", f"{name[:60]!r} stands in one object twice")
