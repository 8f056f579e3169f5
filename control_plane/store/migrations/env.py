"""Alembic's entry: runs one store's migrations on the connection it is handed."""

from alembic import context

config = context.config
context.configure(
    connection=config.attributes["connection"],
    target_metadata=config.attributes["metadata"],
    version_table="schema_version",
)
with context.begin_transaction():
    context.run_migrations()
