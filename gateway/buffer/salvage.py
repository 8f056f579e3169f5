"""Copies what can still be read from a damaged store into a new one.

The new file keeps the epoch and the numbers only if the lanes' next seq could be read; otherwise it starts a new epoch,
because a number must never be used twice. What could not be copied is neither held nor recorded, so the accounting
at the next Hello finds it and it becomes a gap.

Killed at any instant, the next start goes on: the copy is made as `….part`, is called `….new` once it is whole, and
takes the store's name when the damaged files have theirs.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from gateway.buffer import last_readings
from gateway.buffer.tables import NEWER_FACTS, PAGE_BYTES, SCHEMA_VERSION, TABLES
from gateway.buffer.tail import sync_folder

MAX_PROBED = 1_000_000
LANE = "lane, next_seq, acked, complete_boot, complete_mono_ms"  # what the server agreed to is asked anew
NEWER_TABLES = ("moved", "anchor", "thinned")
PARTS = ("", "-wal", "-shm", "-journal")  # the file first: SQLite does away with a log whose file is new


def suspect(path: Path) -> None:
    """Remember for the next start that the store was found damaged while it ran."""
    _beside(path, ".suspect").touch(mode=0o600)


def suspected(path: Path) -> bool:
    return _beside(path, ".suspect").exists()


def replace(path: Path, now_ms: int) -> Path:
    """Set the damaged store aside by name and put what can be read of it in its place; returns that name.

    Nothing is put there if not even the numbers could be read.
    """
    for suffix in PARTS:
        _beside(path, ".part" + suffix).unlink(missing_ok=True)
    if salvage(path, _beside(path, ".part")):
        _beside(path, ".part").rename(_beside(path, ".new"))
        sync_folder(path.parent)
    aside = set_aside(path, now_ms)
    finish(path, now_ms)
    return aside


def finish(path: Path, now_ms: int) -> None:
    """Give a whole copy the store's name."""
    if _beside(path, ".new").exists():
        set_aside(path, now_ms)
        _beside(path, ".new").rename(path)
        sync_folder(path.parent)
        _beside(path, ".suspect").unlink(missing_ok=True)


def set_aside(path: Path, now_ms: int) -> Path:
    aside = _beside(path, f".damaged-{now_ms}")
    for suffix in PARTS:
        if _beside(path, suffix).exists():
            _beside(path, suffix).rename(_beside(aside, suffix))
    sync_folder(path.parent)
    _beside(path, ".suspect").unlink(missing_ok=True)
    return aside


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def salvage(damaged: Path, target: Path) -> bool:
    """Copy row by row; True if the epoch could be kept. Without it `target` is left missing, for a fresh store."""
    try:
        source = sqlite3.connect(f"file:{damaged}?mode=rw", uri=True, isolation_level=None)
    except sqlite3.Error:
        return False
    with contextlib.closing(source):
        try:
            facts = source.execute("SELECT key, value FROM meta").fetchall()
            lanes = source.execute(f"SELECT {LANE} FROM lane").fetchall()
            schemas = source.execute("SELECT * FROM schema").fetchall()
        except sqlite3.Error:
            return False
        if not {"epoch", "opens", "clean", "tail_generation", "tail_offset"} <= {key for key, _ in facts}:
            return False
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
            copy.execute(f"PRAGMA page_size={PAGE_BYTES}")
            copy.execute("BEGIN")
            for statement in TABLES.split(";"):
                copy.execute(statement)
            unclean = [(k, 0 if k == "clean" else v) for k, v in facts]
            copy.executemany("INSERT OR IGNORE INTO meta VALUES(?, ?)", [*unclean, *NEWER_FACTS])
            copy.executemany(f"INSERT OR IGNORE INTO lane({LANE}) VALUES(?, ?, ?, ?, ?)", lanes)
            copy.executemany("INSERT OR IGNORE INTO schema VALUES(?, ?, ?)", schemas)
            _copy_last_readings(source, copy)
            for table in ("boot", "restart_told", "set_aside", "dictionary", "ledger", "placed", *NEWER_TABLES):
                _copy_table(source, copy, table)
            for lane, next_seq, *_ in lanes:
                _copy_batches(source, copy, lane, next_seq)
            copy.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            copy.execute("COMMIT")
    return True


def _copy_last_readings(source: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    for read in (last_readings.load, last_readings.from_rows):
        with contextlib.suppress(sqlite3.Error):
            last_readings.keep(copy.execute, read(source.execute))
            return


def _copy_table(source: sqlite3.Connection, copy: sqlite3.Connection, table: str) -> None:
    with contextlib.suppress(sqlite3.Error):
        names = _shared(source, copy, table)
        for row in source.execute(f"SELECT {names} FROM {table}"):
            _put(copy, table, names, row)


def _shared(source: sqlite3.Connection, copy: sqlite3.Connection, table: str) -> str:
    """The columns that both have: the damaged file may be of an earlier format."""
    here, there = ({row[1] for row in db.execute(f"PRAGMA table_info({table})")} for db in (source, copy))
    return ", ".join(sorted(here & there))


def _put(copy: sqlite3.Connection, table: str, names: str, row: tuple[object, ...]) -> None:
    copy.execute(f"INSERT OR IGNORE INTO {table}({names}) VALUES({','.join('?' * len(row))})", row)


def _copy_batches(source: sqlite3.Connection, copy: sqlite3.Connection, lane: int, next_seq: int) -> None:
    try:
        seqs = [seq for (seq,) in source.execute("SELECT seq FROM batch WHERE lane = ? ORDER BY seq", (lane,))]
        names = _shared(source, copy, "batch")
    except sqlite3.Error:
        seqs = list(range(max(1, next_seq - MAX_PROBED), next_seq))  # one by one, whichever can be found
        names = ", ".join(row[1] for row in copy.execute("PRAGMA table_info(batch)"))
    for seq in seqs:
        with contextlib.suppress(sqlite3.Error):
            row = source.execute(f"SELECT {names} FROM batch WHERE lane = ? AND seq = ?", (lane, seq)).fetchone()
            if row:
                _put(copy, "batch", names, row)
