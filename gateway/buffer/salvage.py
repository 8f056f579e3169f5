"""Copies what can still be read from a damaged store into a new one.

The new file keeps the epoch and the numbers only if the lanes' next seq could be read; otherwise it starts a new epoch,
because a number must never be used twice. What could not be copied is neither held nor recorded, so the accounting
at the next Hello finds it and it becomes a gap.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from gateway.buffer.tables import PAGE_BYTES, SCHEMA_VERSION, TABLES


def salvage(damaged: Path, target: Path) -> bool:
    """Copy row by row; True if the epoch could be kept. Without it `target` is left missing, for a fresh store."""
    try:
        source = sqlite3.connect(f"file:{damaged}?mode=rw", uri=True, isolation_level=None)
    except sqlite3.Error:
        return False
    with contextlib.closing(source):
        try:
            facts = source.execute("SELECT key, value FROM meta").fetchall()
            lanes = source.execute("SELECT * FROM lane").fetchall()
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
            copy.executemany("INSERT INTO meta VALUES(?, ?)", [(k, 0 if k == "clean" else v) for k, v in facts])
            copy.executemany("INSERT INTO lane VALUES(?, ?, ?, ?, ?)", lanes)
            copy.executemany("INSERT INTO schema VALUES(?, ?, ?)", schemas)
            for table, width in (("boot", 2), ("last_reading", 3), ("set_aside", 6), ("dictionary", 6)):
                _copy_table(source, copy, table, width)
            for lane, next_seq, *_ in lanes:
                _copy_batches(source, copy, lane, next_seq)
            copy.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            copy.execute("COMMIT")
    return True


def _copy_table(source: sqlite3.Connection, copy: sqlite3.Connection, table: str, width: int) -> None:
    with contextlib.suppress(sqlite3.Error):
        for row in source.execute(f"SELECT * FROM {table}"):
            copy.execute(f"INSERT OR IGNORE INTO {table} VALUES({','.join('?' * width)})", row)


def _copy_batches(source: sqlite3.Connection, copy: sqlite3.Connection, lane: int, next_seq: int) -> None:
    try:
        (first,) = source.execute("SELECT min(seq) FROM batch WHERE lane = ?", (lane,)).fetchone()
    except sqlite3.Error:
        first = 1
    for seq in range(first or next_seq, next_seq):
        with contextlib.suppress(sqlite3.Error):
            row = source.execute("SELECT * FROM batch WHERE lane = ? AND seq = ?", (lane, seq)).fetchone()
            if row:
                copy.execute("INSERT INTO batch VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
