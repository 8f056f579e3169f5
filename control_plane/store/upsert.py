"""INSERT … ON CONFLICT, which SQLite and PostgreSQL spell alike and SQLAlchemy keeps in two dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from control_plane.store.bulk import BulkWrite, Prepared

Insert = sqlite.Insert | postgresql.Insert


def insert(connection: Connection, table: Table) -> Insert:
    """The dialect's own INSERT, which knows `excluded` and `on_conflict_…`."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows by the table's primary key; what is there takes the new values of the columns given."""
    if not rows:
        return
    fresh = insert(connection, table)
    key = [column.name for column in table.primary_key]
    changed = {name: fresh.excluded[name] for name in rows[0] if name not in key}
    connection.execute(fresh.on_conflict_do_update(index_elements=key, set_=changed), rows)


def bulk_insert(table: Table, names: Sequence[str]) -> BulkWrite:
    """Rows with a value for each of `names`; none of their keys may be taken."""
    return BulkWrite(lambda _: table.insert(), names)


def bulk_upsert(table: Table, names: Sequence[str], *, kept: Sequence[str] = ()) -> BulkWrite:
    """As `upsert`, of rows with exactly `names`; `kept` stay as they are in a row that is there."""
    return BulkWrite(_upserting(table, names, kept), names)


def prepared_upsert(table: Table, names: Sequence[str], *, kept: Sequence[str] = ()) -> Prepared:
    """The same for one row."""
    return Prepared(_upserting(table, names, kept), names)


def _upserting(table: Table, names: Sequence[str], kept: Sequence[str]) -> Callable[[Connection], Insert]:
    key = [column.name for column in table.primary_key]

    def statement(connection: Connection) -> Insert:
        fresh = insert(connection, table)
        changed = {name: fresh.excluded[name] for name in names if name not in key and name not in kept}
        return fresh.on_conflict_do_update(index_elements=key, set_=changed)

    return statement


def keep_first(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Write a row unless one of its keys is taken; what is there stays. Whether it was written."""
    written = connection.execute(
        insert(connection, table).on_conflict_do_nothing(), row, execution_options={"preserve_rowcount": True}
    )
    return written.rowcount > 0
