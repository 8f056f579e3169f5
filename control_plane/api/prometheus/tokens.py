"""Words of a query, and the durations and strings in it."""

from __future__ import annotations

import re
from typing import NamedTuple

from control_plane.api.prometheus.expression import QueryError

MOST_CHARACTERS = 10_000
MOST_MS = 100 * 365 * 86_400_000
UNIT_MS = {
    "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000, "y": 365 * 86_400_000,
}  # fmt: skip
_TOKEN = re.compile(
    r"""
    (?P<blank>   [ \t\r\n]+ | \#[^\n]* )
  | (?P<duration>(?:[0-9]+(?:ms|[smhdwy]))+ (?![0-9a-zA-Z_]) )
  | (?P<number>  0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? )
  | (?P<word>    [a-zA-Z_:][a-zA-Z0-9_:]* )
  | (?P<string>  "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | `[^`]*` )
  | (?P<sign>    =~ | !~ | != | == | >= | <= | [-+*/%^(){}\[\],=<>:@] )
    """,
    re.VERBOSE,
)
_DURATION = re.compile(r"([0-9]+)(ms|[smhdwy])")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))")
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"} | {c: c for c in "\\'\""}


class Token(NamedTuple):
    kind: str
    text: str
    at: int


def tokens(text: str) -> list[Token]:
    """In order, an `end` last. Raises QueryError."""
    if len(text) > MOST_CHARACTERS:
        raise QueryError(f"A query has at most {MOST_CHARACTERS} characters.")
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            unfinished = "; a string ends where it began, in the same line" if text[at] in "\"'`" else ""
            raise QueryError(f"Character {at + 1}: {text[at]!r} can't stand here{unfinished}.")
        kind = match.lastgroup
        assert kind is not None
        if kind != "blank":
            found.append(Token(kind, match.group(), at))
        at = match.end()
    return [*found, Token("end", "the end", at)]


def duration_ms(text: str) -> int:
    """`90s`, `1h30m`. Raises QueryError."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise QueryError(f"{text[:40]!r} is not a duration; write e.g. 5m or 1h30m.")
    total = sum(int(number[:20]) * UNIT_MS[unit] for number, unit in parts)
    if not 0 < total <= MOST_MS:
        raise QueryError(f"{text[:40]!r}: a duration lies between 1 ms and 100 years.")
    return total


def unquoted(token: Token) -> str:
    """The string that a token of kind `string` stands for. Raises QueryError."""
    if token.text[0] == "`":
        return token.text[1:-1]
    return _ESCAPE.sub(lambda found: _escaped(found, token.at), token.text[1:-1])


def _escaped(found: re.Match[str], at: int) -> str:
    *hexadecimal, octal, plain = found.groups()
    code = next((int(digits, 16) for digits in hexadecimal if digits), None)
    if octal:
        code = int(octal, 8)
    if code is not None and (code > 0x10FFFF or 0xD800 <= code < 0xE000):
        raise QueryError(f"Character {at + 1}: {found.group()} is no character.")
    if code is None and plain not in _PLAIN:
        raise QueryError(f"Character {at + 1}: \\{plain} is not known in a string; a backslash itself is \\\\.")
    return _PLAIN[plain] if code is None else chr(code)
