"""The migrations make what the tables say: a table changed without a migration fails here."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from control_plane.store.engine import Store, Stores
from control_plane.store.tables import STORES

EXPECTED = "expected"


def named(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: str(item["name"]))


def described(connection: Connection, schema: str | None) -> dict[str, Any]:
    """Everything a database can tell of its tables, but for the version table."""
    look = inspect(connection)
    return {
        table: {
            "columns": [
                {
                    **column,
                    "type": column["type"].compile(connection.dialect),
                    "default": str(column["default"])
                    .replace(f'"{schema}".', "")
                    .replace(f"{schema}.", ""),  # a sequence is named with its schema
                }
                for column in look.get_columns(table, schema=schema)
            ],
            "key": look.get_pk_constraint(table, schema=schema),
            "unique": named(look.get_unique_constraints(table, schema=schema)),
            "indexes": [
                {**index, "dialect_options": {key: str(said) for key, said in index["dialect_options"].items()}}
                for index in named(look.get_indexes(table, schema=schema))
            ],
            "foreign": look.get_foreign_keys(table, schema=schema),
            "comment": None if connection.dialect.name == "sqlite" else look.get_table_comment(table, schema=schema),
        }
        for table in look.get_table_names(schema=schema)
        if table != "schema_version"
    }


def wanted(store: Store) -> dict[str, Any]:
    """What `create_all` makes of the tables as they are now."""
    if store.sqlite:
        engine = create_engine("sqlite://")
        with engine.connect() as connection:
            STORES[store.name].create_all(connection)
            found = described(connection, None)
        engine.dispose()
        return found
    with store.write() as connection:
        connection.execute(text(f"CREATE SCHEMA {EXPECTED}"))
        connection.execute(text(f"SET LOCAL search_path = {EXPECTED}"))
        STORES[store.name].create_all(connection, checkfirst=False)
        found = described(connection, EXPECTED)
        connection.rollback()
    return found


@pytest.mark.parametrize("name", sorted(STORES))
def test_the_migrated_schema_is_that_of_the_tables(stores: Stores, name: str) -> None:
    store: Store = getattr(stores, name)
    with store.read() as connection:
        migrated = described(connection, None if store.sqlite else name)
    assert migrated == wanted(store)


@pytest.mark.parametrize("name", sorted(STORES))
def test_a_new_migration_would_have_nothing_to_do(stores: Stores, name: str) -> None:
    store: Store = getattr(stores, name)
    options = {"compare_type": True, "compare_server_default": True, "version_table": "schema_version"}
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, STORES[name]) == []


def test_a_changed_table_is_noticed(stores: Stores) -> None:
    with stores.journal.write() as connection:
        before = described(connection, None if stores.journal.sqlite else "journal")
        connection.execute(text("ALTER TABLE batch ADD COLUMN more INTEGER"))
        assert described(connection, None if stores.journal.sqlite else "journal") != before
        connection.rollback()
