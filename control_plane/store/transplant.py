"""Moves an installation from SQLite files into PostgreSQL.

Everything is one transaction there: it all came over and was counted again, or nothing is there. The files are only
read. Memory: some rows at a time, whatever there is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, Table, select, text

from control_plane.errors import Misconfigured
from control_plane.store.content import Cursors, Tally, copy_types, counted, cursors, lasting, names
from control_plane.store.engine import Stores
from control_plane.store.tables import STORES, batch, command_result
from control_plane.store.units import fold

ROWS = 100
"""Read at once: a batch may have 16 MB."""


class Parity(NamedTuple):
    """One table on both sides."""

    store: str
    table: str
    there: Tally
    here: Tally

    @property
    def same(self) -> bool:
        return (self.there.rows, self.there.sum) == (self.here.rows, self.here.sum)


def transplant(source: Stores, target: Stores, *, arrived: Callable[[], None] = lambda: None) -> list[Parity]:
    """`source` on SQLite with nobody writing, `target` an empty and migrated PostgreSQL database.

    `arrived` is called when everything is there and right, before it is committed.

    Raises Misconfigured, with nothing changed, if something else is there or something did not arrive as it was.
    """
    _same_version(source, target)
    with ExitStack() as reads, target.business.engine.connect() as connection, connection.begin():
        refuse_content(connection)
        found = {store.name: reads.enter_context(store.read()) for store in source.all()}
        report = []
        for store, reading in found.items():
            for table in lasting(store):
                there = _copy(reading, connection, store, table)
                here = _count(connection, store, table)
                report.append(Parity(store, table.name, there, here))
        wrong = [one for one in report if not one.same]
        if wrong:
            said = ", ".join(f"{one.store}.{one.table}: {one.there.rows} and {one.here.rows} rows" for one in wrong)
            raise Misconfigured(f"not everything arrived as it was, nothing was changed: {said}")
        for name in ("journal", "telemetry"):
            connection.execute(text(f"SET LOCAL search_path = {name}"))
            fold(connection, name)
        connection.execute(text("SET LOCAL search_path = business"))
        count_on(connection, cursors(found["business"], found["telemetry"]))
        arrived()
    return report


def refuse_content(connection: Connection) -> None:
    """Raises Misconfigured if any lasting table of the database has rows."""
    for store in STORES:
        for table in lasting(store):
            if connection.execute(text(f'SELECT 1 FROM {store}."{table.name}" LIMIT 1')).first() is not None:
                raise Misconfigured(f"--database: {store}.{table.name} has rows already; give an empty database")


def count_on(connection: Connection, read: Cursors) -> None:
    """Let every sequence go on after what is there, and after what was read of it."""
    at_least = {batch.name: max(read.projected, read.reconciled), command_result.name: read.told}
    for store in STORES:
        for table, column in counted(store):
            highest = f'SELECT coalesce(max("{column}"), 0) FROM {store}."{table.name}"'
            last = max(int(connection.execute(text(highest)).scalar_one()), at_least.get(table.name, 0))
            if last:
                sequence = text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)")
                name = f'{store}."{table.name}"'
                connection.execute(sequence, {"table": name, "column": column, "last": last})


def _same_version(source: Stores, target: Stores) -> None:
    if (have := versions(source)) != (want := versions(target)):
        raise Misconfigured(
            f"the tables are of another version ({have}, not {want}): run comboio-control migrate first"
        )


def versions(stores: Stores) -> dict[str, str]:
    """Store → the newest migration it has."""
    found = {}
    for store in stores.all():
        with store.read() as connection:
            found[store.name] = str(connection.execute(text("SELECT version_num FROM schema_version")).scalar_one())
    return found


def driver(connection: Connection) -> psycopg.Connection[Any]:
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)
    return found


def _copy(reading: Connection, connection: Connection, store: str, table: Table) -> Tally:
    tally = Tally()
    rows = reading.execution_options(yield_per=ROWS).execute(select(table))
    with driver(connection).cursor() as target:
        statement = f'COPY {store}."{table.name}" ({names(table)}) FROM STDIN (FORMAT binary)'
        with target.copy(statement.encode()) as copy:
            copy.set_types(copy_types(table))
            for row in tally.over(rows):
                copy.write_row(row)
    return tally


def _count(connection: Connection, store: str, table: Table) -> Tally:
    tally = Tally()
    with driver(connection).cursor(name="parity") as cursor:
        cursor.itersize = ROWS
        cursor.execute(f'SELECT {names(table)} FROM {store}."{table.name}"'.encode(), binary=True)
        for row in cursor:
            tally.add(row)
    return tally
