"""Many rows by one statement, handed to the driver as they are.

SQLAlchemy binds each row of an executemany by itself, which costs more than the store's own work. Here the statement is
compiled once; values must be what the driver takes: int, float, str, bytes, None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql.dml import UpdateBase

Row = Mapping[str, Any]


class BulkWrite:
    """`statement(connection)` makes an INSERT or an UPDATE with a parameter for each of `names`; asked once."""

    def __init__(self, statement: Callable[[Connection], UpdateBase], names: Sequence[str]) -> None:
        self._statement = statement
        self._names = list(names)
        self._sql = ""
        self._bind: Callable[[Row], Any] | None = None

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Each row has exactly the names."""
        if not rows:
            return
        if not self._sql:
            self._compile(connection)
        bind = self._bind
        connection.exec_driver_sql(self._sql, list(rows) if bind is None else [bind(row) for row in rows])

    def _compile(self, connection: Connection) -> None:
        compiled: Any = self._statement(connection).compile(dialect=connection.dialect, column_keys=self._names)
        self._sql = str(compiled)
        if compiled.positional:
            self._bind = itemgetter(*compiled.positiontup)
