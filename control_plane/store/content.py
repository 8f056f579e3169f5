"""What a store holds, apart from how a database keeps it: its lasting tables, numbers to go on from, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, Boolean, Connection, Double, Integer, LargeBinary, Table, func, select

from control_plane.store.tables import STORES, cursor, failed_attempt, lease, reconcile_cursor

FLEETING = frozenset({lease.name, failed_attempt.name})
"""Of running processes: worth nothing in a copy."""
COPY_TYPES: tuple[tuple[type, str], ...] = (
    (BigInteger, "int8"),
    (Integer, "int4"),
    (Boolean, "bool"),
    (Double, "float8"),
    (LargeBinary, "bytea"),
)
_pack = msgspec.msgpack.Encoder().encode


def lasting(store: str) -> list[Table]:
    return [table for table in STORES[store].sorted_tables if table.name not in FLEETING]


def names(table: Table) -> str:
    """Its columns, quoted, in the order of the definition."""
    return ", ".join(f'"{column.name}"' for column in table.columns)


def copy_types(table: Table) -> list[str]:
    """PostgreSQL's names, for COPY … (FORMAT binary)."""
    return [
        next((name for kind, name in COPY_TYPES if isinstance(column.type, kind)), "text") for column in table.columns
    ]


@dataclass(slots=True)
class Tally:
    """Count and fingerprint of rows; their order does not matter."""

    rows: int = 0
    sum: int = 0

    def add(self, row: Sequence[Any]) -> None:
        self.rows += 1
        self.sum = (self.sum + int.from_bytes(hashlib.sha256(_pack(tuple(row))).digest()[:16])) % (1 << 128)

    def over(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """The rows, counted on their way."""
        for row in rows:
            self.add(row)
            yield row

    @property
    def hex(self) -> str:
        return f"{self.sum:032x}"


def counted(store: str) -> Iterator[tuple[Table, str]]:
    """(table, its column that the database counts up)."""
    for table in lasting(store):
        column = table.autoincrement_column
        if column is not None and column.autoincrement is True:
            yield table, column.name


def newest(connection: Connection, table: Table, column: str) -> int:
    return int(connection.execute(select(func.max(table.c[column]))).scalar_one() or 0)


class Cursors(NamedTuple):
    """How far those who follow a table have read it: new rows must have higher numbers."""

    projected: int
    """journal.batch, by the projections."""
    reconciled: int
    """journal.batch, by the business events."""
    told: int
    """telemetry.command_result, by the commands."""


def cursors(business: Connection, telemetry: Connection) -> Cursors:
    return Cursors(
        _position(telemetry, cursor, "telemetry"),
        _position(business, reconcile_cursor, "history"),
        _position(business, reconcile_cursor, "commands"),
    )


def _position(connection: Connection, table: Table, name: str) -> int:
    return int(connection.execute(select(table.c.position).where(table.c.name == name)).scalar_one_or_none() or 0)
