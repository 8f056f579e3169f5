"""Every command this box took and what became of it, durable before anything follows from it.

    received → begun → ended → told

`begun` is written just before the request that may change the device leaves: what is not begun was never written, and
what is begun is never written again. One row per id; ended and told ones are forgotten when there are too many or they
are too old, and then everything not above the newest number forgotten counts as a replay.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import structlog

from gateway.errors import Rejected

KEPT = 1000
KEPT_MS = 90 * 86_400_000
State = Literal["received", "begun", "ended"]

log = structlog.get_logger("gateway.commands")

_TABLES = """
CREATE TABLE IF NOT EXISTS command (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, body BLOB NOT NULL, boot BLOB NOT NULL, until_ms INTEGER NOT NULL,
    taken_ms INTEGER NOT NULL, state TEXT NOT NULL, result BLOB, told INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER NOT NULL);
"""
_COLUMNS = "id, number, body, boot, until_ms, state, result, told"


class Entry(NamedTuple):
    """`body`: a Command. `until_ms`: its end on the monotonic clock of `boot`. `result`: a CommandResult."""

    id: str
    number: int
    body: bytes
    boot: bytes
    until_ms: int
    state: State = "received"
    result: bytes | None = None
    told: bool = False


class Book:
    """Synchronous, thread-safe; every change is on the disk when it returns.

    Opened when it is first asked: a disk that can't be written hurts commands, not the start of the gateway. Everything
    raises sqlite3.Error and OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._opened: sqlite3.Connection | None = None
        self._closed = False

    @property
    def _store(self) -> sqlite3.Connection:
        """Asked with the lock held."""
        if self._closed:
            raise sqlite3.ProgrammingError("the book is closed")
        if self._opened is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._opened = _opened(self._path)
            except sqlite3.OperationalError:  # of the disk, not of what is in the file
                raise
            except sqlite3.DatabaseError as error:
                aside = self._path.with_suffix(".damaged")
                self._path.replace(aside)
                log.error("commands.damaged", aside=str(aside), why=str(error), lost="which commands were carried out")
                self._opened = _opened(self._path)
        return self._opened

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._opened is not None:
                self._opened.close()

    def find(self, id_: str) -> Entry | None:
        with self._lock:
            row = self._store.execute(f"SELECT {_COLUMNS} FROM command WHERE id = ?", (id_,)).fetchone()
        return None if row is None else _entry(row)

    def take(self, entry: Entry, *, wall_ms: int) -> Entry | None:
        """Keep a command that is new here; what is known of it otherwise. Raises Rejected for a replay."""
        known = self.find(entry.id)
        if known is not None:
            return known
        with self._lock, self._store:
            row = self._store.execute("SELECT number FROM forgotten").fetchone()
            if entry.number and row is not None and entry.number <= row[0]:
                raise Rejected("this box has forgotten what became of commands as old as this one")
            values = (entry.id, entry.number, entry.body, entry.boot, entry.until_ms, wall_ms, entry.state)
            self._store.execute(
                "INSERT INTO command (id, number, body, boot, until_ms, taken_ms, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            self._forget(wall_ms)
        return None

    def begin(self, id_: str) -> None:
        """From now on the device may have been changed."""
        self._set(id_, "state = 'begun'")

    def end(self, id_: str, result: bytes) -> None:
        self._set(id_, "state = 'ended', result = ?", result)

    def told(self, id_: str) -> None:
        self._set(id_, "told = 1")

    def unfinished(self) -> list[Entry]:
        """Not ended, or ended and not told; oldest first."""
        query = f"SELECT {_COLUMNS} FROM command WHERE told = 0 ORDER BY taken_ms, number"
        with self._lock:
            return [_entry(row) for row in self._store.execute(query)]

    def _set(self, id_: str, what: str, *values: object) -> None:
        with self._lock, self._store:
            self._store.execute(f"UPDATE command SET {what} WHERE id = ?", (*values, id_))

    def _forget(self, wall_ms: int) -> None:
        """Told ones beyond the newest KEPT, or older than KEPT_MS."""
        old = "SELECT id FROM command WHERE told = 1 ORDER BY taken_ms DESC, number DESC LIMIT -1 OFFSET ?"
        which = f"told = 1 AND (taken_ms < ? OR id IN ({old}))"
        bounds = (wall_ms - KEPT_MS, KEPT)
        (newest,) = self._store.execute(f"SELECT max(number) FROM command WHERE {which}", bounds).fetchone()
        if newest is None:
            return
        self._store.execute(f"DELETE FROM command WHERE {which}", bounds)
        raised = "ON CONFLICT (only) DO UPDATE SET number = max(number, excluded.number)"
        self._store.execute(f"INSERT INTO forgotten VALUES (1, ?) {raised}", (newest,))


def _opened(path: Path) -> sqlite3.Connection:
    store = sqlite3.connect(path, check_same_thread=False)
    try:
        store.execute("PRAGMA synchronous = FULL")
        store.executescript(_TABLES)
    except sqlite3.DatabaseError:
        store.close()
        raise
    return store


def _entry(row: tuple[object, ...]) -> Entry:
    return Entry(*row)._replace(told=bool(row[-1]))  # type: ignore[arg-type]
