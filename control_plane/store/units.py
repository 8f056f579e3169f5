"""Tables divided into units, each of which is dropped as a whole: what retention drops never costs row by row.

A family is one table of the model (`batch`, `chunk`, `rollup`): who reads goes on reading it under its name. On
PostgreSQL the units are tables that inherit from it. On SQLite they are tables of the same file, and from the first
division on the name is a view over them. Rows are written to a unit by its own name.

Invariants
1. Until a family is divided, it is the table itself: number 0. What it held then stays together as unit 0.
2. Of each group with a retention of its own (`kept_as`), and of all others (empty), one unit is open. Ids rise over all
   units of a family: a new unit begins above every id given out so far, also of units that are gone.
3. A unit that is dropped goes with the rows of it that stay, into the open unit or the evidence, in one transaction.
4. No wait for a lock is longer than PATIENCE_MS: a reader with an open transaction puts a drop off, and stops nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, MetaData, Table, delete, func, select, text, update
from sqlalchemy.sql import quoted_name

from control_plane.store.content import names
from control_plane.store.tables import NAMING, batch, chunk, journal_unit, rollup, telemetry_unit

FAMILIES: Mapping[str, Table] = {table.name: table for table in (batch, chunk, rollup)}
EVIDENCE = -1
"""The unit that is never dropped."""
BASE = 0
PATIENCE_MS = 500
AT_ONCE = 500


class Unit(NamedTuple):
    """See store/tables.py."""

    family: str
    number: int
    level: int
    kept_as: str
    begins_ms: int
    ends_ms: int | None
    first_id: int


def all_of(connection: Connection, family: str) -> list[Unit]:
    """Evidence first, then as they were made."""
    table = _registry(family)
    query = select(table).where(table.c.family == family).order_by(table.c.number)
    return [Unit(*row) for row in connection.execute(query)]


def opened(connection: Connection, family: str) -> dict[str, Unit]:
    """By whose retention holds; empty as long as the family is not divided."""
    table = _registry(family)
    query = select(table).where(table.c.family == family, table.c.ends_ms.is_(None), table.c.number > BASE)
    return {row.kept_as: Unit(*row) for row in connection.execute(query)}


def table_of(connection: Connection, unit: Unit) -> Table:
    """Of a family that is divided. Unit 0 on PostgreSQL is the table itself, without those that inherit from it."""
    if unit.number == BASE and connection.dialect.name != "sqlite":
        return FAMILIES[unit.family]
    return _clone(unit.family, name_of(unit))


def name_of(unit: Unit) -> str:
    return f"{unit.family}_{'evidence' if unit.number == EVIDENCE else unit.number}"


def into(connection: Connection, family: str, kept_as: str) -> tuple[Table, dict[str, Any]]:
    """Where a new row is written, and the id it must have, if it is not given one by the database."""
    units = opened(connection, family)
    if not units:
        return FAMILIES[family], {}
    table = table_of(connection, units[kept_as if kept_as in units else ""])
    return table, {"id": newest_id(connection, family) + 1} if connection.dialect.name == "sqlite" else {}


def newest_id(connection: Connection, family: str) -> int:
    """The highest one given out so far, whether its row is still there or not."""
    units = all_of(connection, family)
    open_ones = [unit for unit in units if unit.ends_ms is None and unit.number > BASE]
    base = [unit for unit in units if unit.number == BASE and unit.ends_ms is not None]
    tables = [table_of(connection, unit) for unit in open_ones or base] or [FAMILIES[family]]
    highest = [connection.execute(select(func.max(table.c.id))).scalar_one() or 0 for table in tables]
    return max(*highest, *(unit.first_id - 1 for unit in units), 0)


# --- dividing --------------------------------------------------------------------------------------------


def add(
    connection: Connection, family: str, *, kept_as: str, level: int = 0, begins_ms: int, ends_ms: int | None = None
) -> Unit:
    """A further unit; the open one of the same kind is closed. The first one divides the family."""
    known = all_of(connection, family)
    if not any(unit.ends_ms is not None or unit.number > BASE for unit in known):
        known = [unit for unit in known if unit.number != BASE]
        known.append(_divide(connection, family, begins_ms, max((u.first_id for u in known), default=1)))
    first_id = newest_id(connection, family) + 1 if "id" in FAMILIES[family].c else 1
    registry = _registry(family)
    if ends_ms is None:
        same = (registry.c.family == family, registry.c.kept_as == kept_as, registry.c.level == level)
        still = (registry.c.ends_ms.is_(None), registry.c.number > BASE)
        connection.execute(update(registry).where(*same, *still).values(ends_ms=begins_ms))
    number = max(0, *(unit.number for unit in known)) + 1
    return _make(connection, Unit(family, number, level, kept_as, begins_ms, ends_ms, first_id))


def evidence(connection: Connection, family: str) -> Unit:
    """The unit that stays, made when it is first needed. The family must be divided."""
    known = next((unit for unit in all_of(connection, family) if unit.number == EVIDENCE), None)
    return known or _make(connection, Unit(family, EVIDENCE, 0, "", 0, None, 1))


def close(connection: Connection, unit: Unit, now_ms: int) -> None:
    """Nobody writes to it from the next transaction on: the group whose it was has no retention of its own any more."""
    registry = _registry(unit.family)
    mine = (registry.c.family == unit.family, registry.c.number == unit.number)
    connection.execute(update(registry).where(*mine).values(ends_ms=now_ms))


def divide(connection: Connection, family: str, now_ms: int) -> None:
    """What is there becomes unit 0, and is closed; further units are added where they are needed."""
    _divide(connection, family, now_ms, 1)
    _show(connection, family)


def _divide(connection: Connection, family: str, now_ms: int, first_id: int) -> Unit:
    newest = newest_id(connection, family) + 1 if "id" in FAMILIES[family].c else 1
    base = Unit(family, BASE, 0, "", 0, now_ms, max(first_id, newest))
    registry = _registry(family)
    connection.execute(delete(registry).where(registry.c.family == family, registry.c.number == BASE))
    connection.execute(registry.insert(), base._asdict())
    if connection.dialect.name == "sqlite":
        connection.execute(text(f'ALTER TABLE "{family}" RENAME TO "{name_of(base)}"'))
    return base


def _make(connection: Connection, unit: Unit) -> Unit:
    if connection.dialect.name == "sqlite":
        table_of(connection, unit).create(connection)
    else:
        _be_patient(connection)
        like = f'LIKE "{unit.family}" INCLUDING DEFAULTS INCLUDING INDEXES'
        connection.execute(text(f'CREATE TABLE "{name_of(unit)}" ({like}) INHERITS ("{unit.family}")'))
    connection.execute(_registry(unit.family).insert(), unit._asdict())
    _show(connection, unit.family)
    return unit


def _show(connection: Connection, family: str) -> None:
    """The view over all units, on SQLite."""
    if connection.dialect.name != "sqlite":
        return
    columns = names(FAMILIES[family])
    arms = [f'SELECT {columns} FROM "{name_of(unit)}"' for unit in all_of(connection, family)]
    connection.execute(text(f'DROP VIEW IF EXISTS "{family}"'))
    connection.execute(text(f'CREATE VIEW "{family}" AS {" UNION ALL ".join(arms)}'))


# --- dropping --------------------------------------------------------------------------------------------


def move(connection: Connection, unit: Unit, ids: Collection[int], to: Unit) -> int:
    """Copy rows as they are, with their ids, out of a unit that is dropped in the same transaction; how many."""
    source, target = table_of(connection, unit), table_of(connection, to)
    only = "ONLY " if unit.number == BASE and connection.dialect.name != "sqlite" else ""
    columns, wanted, moved = names(source), sorted(ids), 0
    for start in range(0, len(wanted), AT_ONCE):
        some = ", ".join(str(int(one)) for one in wanted[start : start + AT_ONCE])
        query = (
            f'INSERT INTO "{target.name}" ({columns}) SELECT {columns} FROM {only}"{source.name}" WHERE id IN ({some})'
        )
        moved += connection.execute(text(query)).rowcount
    return moved


def drop(connection: Connection, unit: Unit) -> None:
    """All of it. Raises OperationalError where a reader has it open for longer than PATIENCE_MS: try again later.

    Of unit 0 an empty table is left, which `gone` tells from one with something in it.
    """
    registry, sqlite = _registry(unit.family), connection.dialect.name == "sqlite"
    mine = (registry.c.family == unit.family, registry.c.number == unit.number)
    if unit.number == BASE:
        connection.execute(update(registry).where(*mine).values(begins_ms=registry.c.ends_ms))
    else:
        connection.execute(delete(registry).where(*mine))
    if not sqlite:
        _be_patient(connection)
        what = f'TRUNCATE ONLY "{unit.family}"' if unit.number == BASE else f'DROP TABLE "{name_of(unit)}"'
        connection.execute(text(what))
        return
    connection.execute(text("PRAGMA secure_delete = FAST"))  # else each page is written once more, as zeros
    connection.execute(text(f'DROP VIEW "{unit.family}"'))
    connection.execute(text(f'DROP TABLE "{name_of(unit)}"'))
    if unit.number == BASE:
        table_of(connection, unit).create(connection)
    _show(connection, unit.family)


def gone(unit: Unit) -> bool:
    return unit.begins_ms == unit.ends_ms


def _be_patient(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE_MS}ms'"))


# --- copies ----------------------------------------------------------------------------------------------


def clear(connection: Connection, family: str) -> None:
    """Delete every row, whatever unit it is in."""
    divided = opened(connection, family)
    if connection.dialect.name != "sqlite" or not divided:
        connection.execute(delete(FAMILIES[family]))
        return
    for unit in all_of(connection, family):
        connection.execute(delete(table_of(connection, unit)))


def fold(connection: Connection, store: str) -> None:
    """On PostgreSQL, of a copy whose rows all came into the tables themselves: they are not divided any more."""
    for family in (batch.name,) if store == "journal" else (chunk.name, rollup.name):
        units, registry = all_of(connection, family), _registry(family)
        if units:
            connection.execute(delete(registry).where(registry.c.family == family))
            base = Unit(family, BASE, 0, "", 0, None, max(unit.first_id for unit in units))
            connection.execute(registry.insert(), base._asdict())


def _registry(family: str) -> Table:
    return journal_unit if family == batch.name else telemetry_unit


@cache
def _clone(family: str, name: str) -> Table:
    made = FAMILIES[family].to_metadata(MetaData(naming_convention=NAMING), name=name)
    for number, index in enumerate(sorted(made.indexes, key=lambda one: str(one.name))):
        index.name = quoted_name(f"ix_{name}_{number}", None)
    return made
