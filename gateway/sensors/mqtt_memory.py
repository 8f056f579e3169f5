"""Which messages are rows already, across a kill of the gateway.

A gateway killed after its rows reached the buffer's log and before the broker heard of the acknowledgement is sent the
messages again. Invariants:

1. A message's entry is written before its rows can be: both happen without giving way to other tasks, and rows leave
   memory only in a task of their own.
2. A group's rows rise in time and the buffer recovers a prefix of them; so a row is in the buffer exactly if it is not
   younger than the group's last recovered one.

Hence a message is known if its entry is there and its rows were recovered; else it is handed over as if new. A power
cut may take the entry too (it is not synced): then what was not acknowledged comes twice, the second time as stale.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from gateway.buffer import last_readings
from protos.comboio.v1 import batch_pb2 as pb

REMEMBERED = 1000
REWRITE_BYTES = 1 << 20
Key = tuple[int, str, bytes]
"""Message id, topic and a digest of the payload."""
Instant = tuple[bytes, int]
"""Boot id and mono_ms."""


class Rows(NamedTuple):
    """What a message became in one group: `many` rows at `first_ms` and the milliseconds after it.

    `skipped` rows before them had come of the same message already.
    """

    first_ms: int
    many: int = 1
    skipped: int = 0


log = structlog.get_logger("gateway.mqtt")


class Taken(NamedTuple):
    """A message that was handed over: group → its rows."""

    boot_id: bytes
    rows: Mapping[str, Rows]


class MqttMemory:
    """One file per broker. Never raises: without its file the gateway remembers nothing, and says so."""

    def __init__(self, *, path: Path, buffer: Path, boot_id: bytes) -> None:
        self._path = path
        self._buffer = buffer
        self._boot_id = boot_id
        self._entries: OrderedDict[Key, Taken] = OrderedDict()
        self._recovered: Mapping[str, Instant] = {}
        self._fd: int | None = None
        self._bytes = 0

    def open(self) -> None:
        """Read what the last process left, and what the buffer recovered; once, before anything is handed over."""
        if self._fd is not None:
            return
        try:
            self._recovered = last_rows(self._buffer)
            self._entries = _read(self._path)
            self._rewrite()
        except (OSError, sqlite3.Error) as error:
            log.error("mqtt.memory", path=str(self._path), error=str(error))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def forget(self) -> None:
        """The broker lost our session: its message ids begin again."""
        self._entries.clear()

    def write(self, taken: Mapping[Key, Mapping[str, Rows]]) -> None:
        """These messages are rows now. To be called before the caller gives way to any other task."""
        if self._fd is None or not taken:
            return
        for key, rows in taken.items():
            self._entries[key] = Taken(self._boot_id, rows)
        while len(self._entries) > REMEMBERED:
            self._entries.popitem(last=False)
        try:
            if self._bytes > REWRITE_BYTES:
                self._rewrite()
            else:
                self._append("".join(_line(key, self._entries[key]) for key in taken if key in self._entries))
        except OSError as error:
            log.error("mqtt.memory", path=str(self._path), error=str(error))

    def known(self, key: Key) -> bool:
        """A process before this one took this message, and all of its rows are in the buffer."""
        taken = self._entries.get(key)
        found = self.recovered(key)
        return taken is not None and all(found[group] == one.skipped + one.many for group, one in taken.rows.items())

    def recovered(self, key: Key) -> dict[str, int]:
        """How many rows of this message, per group, are in the buffer from a process before."""
        taken = self._entries.get(key)
        if taken is None:
            return {}
        return {group: one.skipped + self._held(taken.boot_id, group, one) for group, one in taken.rows.items()}

    def _held(self, taken_in: bytes, group: str, rows: Rows) -> int:
        boot_id, last_ms = self._recovered.get(group, (b"", 0))
        return max(0, min(rows.many, last_ms - rows.first_ms + 1)) if boot_id == taken_in else 0

    def _append(self, text: str) -> None:
        assert self._fd is not None
        self._bytes += os.write(self._fd, text.encode())

    def _rewrite(self) -> None:
        """Start the file anew with what is remembered; the old one stays until the new one is whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.close()
        self._fd, self._bytes = fd, 0
        self._append("".join(_line(key, taken) for key, taken in self._entries.items()))
        fresh.replace(self._path)


def last_rows(buffer: Path) -> dict[str, Instant]:
    """Group → its last row in a buffer that is open: read-only, by its file."""
    path = buffer / "sealed.db"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        newest = db.execute("SELECT shape FROM schema ORDER BY number DESC LIMIT 1").fetchone()
        boots = dict(db.execute("SELECT ordinal, boot_id FROM boot").fetchall())
        lasts = last_readings.load(db.execute).items()
        found = {group: (bytes(boots[last.boot]), last.mono_ms) for group, last in lasts if last.boot in boots}
    groups = pb.Declare.FromString(newest[0]).groups if newest else ()
    return {group_key(group.sensor, group.series[0].name): found[group.id] for group in groups if group.id in found}


def group_key(sensor: str, first_quantity: str) -> str:
    """A group of a sensor, by what it is declared with."""
    return f"{sensor}/{first_quantity}"


def _line(key: Key, taken: Taken) -> str:
    mid, topic, digest = key
    return json.dumps([mid, topic, digest.hex(), taken.boot_id.hex(), dict(taken.rows)]) + "\n"


def _read(path: Path) -> OrderedDict[Key, Taken]:
    """What can be read; a line cut off by a kill was never followed by its rows."""
    found: OrderedDict[Key, Taken] = OrderedDict()
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            one: Any = json.loads(line)
            mid, topic, digest, boot_id, rows = one
            key = (int(mid), str(topic), bytes.fromhex(digest))
            found[key] = Taken(
                bytes.fromhex(boot_id), {str(group): Rows(*map(int, one)) for group, one in rows.items()}
            )
        except (ValueError, TypeError, AttributeError):
            continue
        found.move_to_end(key)
    return found
