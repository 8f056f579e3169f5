"""Many rows by one statement, handed to the driver as they are.

SQLAlchemy binds each row of an executemany by itself, which costs more than the store's own work. Here the statement is
compiled once; values must be what the driver takes: int, float, str, bytes, None.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
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


class Prepared:
    """One statement, compiled once and run by the driver: what SQLAlchemy does around each costs several times that.

    `statement`, or what it makes for a connection's dialect, has a parameter for each name it is called with; an INSERT
    has the columns `names`. Values and results are what the driver takes and gives: int, float, str, bytes, None.
    """

    def __init__(
        self, statement: ClauseElement | Callable[[Connection], ClauseElement], names: Sequence[str] | None = None
    ) -> None:
        self._statement = statement
        self._names = None if names is None else list(names)
        self._sql = ""
        self._fixed: dict[str, Any] = {}
        self._order: Sequence[str] | None = None
        self._row: Any = None

    def __call__(self, connection: Connection, **values: Any) -> list[Any]:
        """All rows, with their columns by name. Raises DBAPIError."""
        if not self._sql:
            self._compile(connection)
        given: Any = self._fixed | values
        if self._order is not None:
            given = tuple([given[name] for name in self._order])
        base: Any = connection.dialect.loaded_dbapi.Error
        try:
            return self._run(connection, given)
        except base as error:
            found: Any = DBAPIError.instance(self._sql, None, error, base, dialect=connection.dialect)
            raise found from error

    def _run(self, connection: Connection, given: Any) -> list[Any]:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._sql, given)
            if cursor.description is None:
                return []
            if self._row is None:
                self._row = namedtuple("Row", [column[0] for column in cursor.description], rename=True)  # type: ignore[misc]  # noqa: PYI024
            return [self._row._make(row) for row in cursor.fetchall()]
        finally:
            cursor.close()

    def one(self, connection: Connection, **values: Any) -> Any:
        """The first row; None if there is none."""
        rows = self(connection, **values)
        return rows[0] if rows else None

    def _compile(self, connection: Connection) -> None:
        made = self._statement
        statement = made if isinstance(made, ClauseElement) else made(connection)
        compiled: Any = statement.compile(dialect=connection.dialect, column_keys=self._names)
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        self._order = compiled.positiontup if compiled.positional else None
        self._sql = str(compiled)
