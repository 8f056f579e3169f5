"""Every table with rows in it, and every kind of value that its columns can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, LargeBinary, String, Table, insert, select

from control_plane.store.content import lasting
from control_plane.store.engine import Stores

ROWS = 3


def fill(stores: Stores, *, of_each: int = ROWS) -> None:
    """`of_each` rows in every table; the first with the least that a column can be, the second with the most."""
    for store in stores.all():
        with store.write() as connection:
            for table in lasting(store.name):
                rows = [{c.name: _value(table, c, number) for c in table.columns} for number in range(of_each)]
                connection.execute(insert(table), rows)


def everything(stores: Stores) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all lasting tables, sorted."""
    found = {}
    for store in stores.all():
        with store.read() as connection:
            for table in lasting(store.name):
                rows: Sequence[Any] = connection.execute(select(table)).all()
                found[f"{store.name}.{table.name}"] = sorted((tuple(row) for row in rows), key=repr)
    return found


def _value(table: Table, column: Column[Any], number: int) -> Any:
    kind = column.type
    if column is table.autoincrement_column:
        return 10 + number
    if number == 2 and column.nullable:
        return None
    if isinstance(kind, Boolean):
        return bool(number % 2)
    if isinstance(kind, BigInteger):
        return (-(1 << 63), (1 << 63) - 1)[number] if number < 2 else number
    if isinstance(kind, Integer):
        return (-(1 << 31), (1 << 31) - 1)[number] if number < 2 else number
    if isinstance(kind, Double):
        return (-1.7976931348623157e308, float("inf"))[number] if number < 2 else 0.1
    if isinstance(kind, LargeBinary):
        return bytes(range(256)) * number
    text = f"{number} – ação\t\\N\n'\"" if number else "0"
    return text[: kind.length] if isinstance(kind, String) and kind.length else text
