"""What to do about a SQLite file that can't be read: decided here, before any role starts.

* telemetry.db only holds what follows from the journal. It is set aside under another name and projected again.
* journal.db and business.db hold what exists nowhere else. They are never reset: a person restores or removes them.

Only what opening a file and looking at the root of each table shows is found; a damaged page deeper down is met by
whoever reads it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import structlog

from control_plane.errors import Misconfigured
from control_plane.store.engine import Store, Stores

DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
COMPANIONS = ("", "-wal", "-shm")
LOST = {
    "journal": "what gateways were acknowledged and is not yet projected",
    "business": "gateways, accounts, events and what was sent to the ERP",
}

log = structlog.get_logger("control_plane.store")


def set_right(stores: Stores, *, ran_before: bool, now_ms: int) -> None:
    """Call while no role runs. Raises Misconfigured, naming file and remedy, where a person has to decide."""
    for store in stores.all():
        if not store.sqlite:
            continue
        path = Path(str(store.engine.url.database))
        why = damage(path, empty_is=ran_before)
        if why is not None:
            _treat(store, path, why, now_ms)


def damage(path: Path, *, empty_is: bool) -> str | None:
    """Why this file can't serve, or None. A file that isn't there is a store not yet made."""
    if not path.exists():
        return None
    if not path.stat().st_size:
        return "it is empty" if empty_is else None
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in names:
                connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in DAMAGE:
            raise Misconfigured(f"{path}: can't be opened: {error}") from None
        return str(error)
    return None


def _treat(store: Store, path: Path, why: str, now_ms: int) -> None:
    if store.name != "telemetry":
        raise Misconfigured(
            f"{path} is damaged: {why}. Nothing was changed. Restore it from a backup; or, to go on without "
            f"{LOST[store.name]}, move it away together with its -wal and -shm"
        )
    stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    store.close()
    for ending in COMPANIONS:
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(path.with_name(f"{path.name}.damaged-{stamp}{ending}"))
    log.error("store.set_aside", file=str(path), why=why, remedy="it is projected again from the journal")
