"""Of each group the last row that was sealed, and how many rows its hour holds so far: one packed row for all.

`restart_told` says up to where a restart's gap record reaches, where no row has come since: the next begins there.

A sealing rewrites them all. A row for each would be a page for every fifty groups, at every sealing.

The packed form is zlib over MessagePack of [boot, newest_ms, group, ms before newest_ms, rows, group, …] per boot,
groups as steps from the one before: some 4 bytes each.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from gateway.buffer.malformed import malformed

Run = Callable[..., sqlite3.Cursor]
TABLES = (
    "CREATE TABLE last_readings(number INTEGER PRIMARY KEY CHECK(number = 1), packed BLOB NOT NULL)",
    "CREATE TABLE restart_told(group_id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, mono_ms INTEGER NOT NULL)",
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[int]]).decode


class Last(NamedTuple):
    """A group's last sealed row, or its declaration."""

    boot: int
    mono_ms: int
    in_hour: int
    """Rows sealed of the hour of that boot's clock which the last one is in."""


def load(run: Run) -> dict[int, Last]:
    """By group. Raises sqlite3.DatabaseError for a damaged file."""
    row = run("SELECT packed FROM last_readings").fetchone()
    try:
        return unpack(row[0]) if row else {}
    except ValueError as error:
        raise malformed(str(error)) from None


def keep(run: Run, lasts: Mapping[int, Last]) -> None:
    """Inside a transaction."""
    run("INSERT OR REPLACE INTO last_readings VALUES(1, ?)", (pack(lasts),))


def reached(run: Run) -> dict[int, tuple[int, int]]:
    """Group → (boot, mono_ms) after which nothing of it is sealed or told."""
    found = {group: (last.boot, last.mono_ms) for group, last in load(run).items()}
    for group, boot, mono_ms in run("SELECT group_id, boot, mono_ms FROM restart_told"):
        if group in found:  # else it is read no more
            found[group] = max(found[group], (boot, mono_ms))
    return found


def tell(run: Run, group: int, boot: int, mono_ms: int) -> None:
    """Inside a transaction: a gap record of a restart reaches up to there."""
    run("INSERT OR REPLACE INTO restart_told VALUES(?, ?, ?)", (group, boot, mono_ms))


def untell(run: Run, group: int) -> None:
    """Inside a transaction: the group is read no more."""
    run("DELETE FROM restart_told WHERE group_id = ?", (group,))


def from_rows(run: Run) -> dict[int, Last]:
    """As files up to format 4 have them."""
    return {group: Last(*rest) for group, *rest in run("SELECT group_id, boot, mono_ms, in_hour FROM last_reading")}


def bring_up(run: Run) -> None:
    """The step from format 4, inside its transaction."""
    lasts = from_rows(run)
    for table in TABLES:
        run(table)
    keep(run, lasts)
    run("DROP TABLE last_reading")


def pack(lasts: Mapping[int, Last]) -> bytes:
    boots: dict[int, list[tuple[int, Last]]] = {}
    for group in sorted(lasts):
        boots.setdefault(lasts[group].boot, []).append((group, lasts[group]))
    return zlib.compress(_encode([_packed(boot, members) for boot, members in boots.items()]), 1)


def _packed(boot: int, members: list[tuple[int, Last]]) -> list[int]:
    newest_ms, before = max(last.mono_ms for _, last in members), 0
    packed = [boot, newest_ms]
    for group, last in members:
        packed += (group - before, newest_ms - last.mono_ms, last.in_hour)
        before = group
    return packed


def unpack(packed: bytes) -> dict[int, Last]:
    """Raises ValueError for damaged bytes."""
    found = {}
    try:
        for boot, newest_ms, *triples in _decode(zlib.decompress(packed)):
            group = 0
            for step, behind_ms, rows in zip(triples[::3], triples[1::3], triples[2::3], strict=True):
                group += step
                found[group] = Last(boot, newest_ms - behind_ms, rows)
    except (zlib.error, msgspec.MsgspecError, TypeError) as error:  # TypeError: not bytes at all
        raise ValueError(f"last readings: {error}") from None
    return found
