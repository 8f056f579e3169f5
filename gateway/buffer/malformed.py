"""What says that the store's file itself is broken, and not that a disk is full, a lock held or a right missing."""

from __future__ import annotations

import sqlite3
import struct

from google.protobuf.message import DecodeError

DAMAGE = (sqlite3.DatabaseError, DecodeError, struct.error, ValueError, TypeError)


def malformed(what: str) -> sqlite3.DatabaseError:
    """For what SQLite does not look at: as if it had."""
    error = sqlite3.DatabaseError(f"malformed: {what}")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def damaged(error: sqlite3.Error) -> bool:
    """Whether it says that the file itself is broken."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def raise_unless_damage(error: Exception) -> None:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code not in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        raise error
