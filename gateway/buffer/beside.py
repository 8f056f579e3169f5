"""Reading the store's file from outside, also while the daemon runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.errors import Misconfigured


@contextmanager
def looking(folder: Path) -> Iterator[sqlite3.Connection]:
    """Read-only, everything as of one instant. Raises Misconfigured when there is no readable buffer."""
    path = folder / "sealed.db"
    if not path.exists():
        raise Misconfigured(f"{folder}: there is no buffer yet")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as db:
            db.execute("BEGIN")
            yield db
    except sqlite3.DatabaseError as error:
        raise Misconfigured(f"{path}: can't be read ({error}); the daemon sets it aside at its next start") from error
