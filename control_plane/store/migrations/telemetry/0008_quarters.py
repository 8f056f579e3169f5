"""Rollups in quarters of days, indexes by which charts see how things stand at a glance, and who is slowed down.

Rollups that are there are made again: they follow from the chunks.
"""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0008"
down_revision = "telemetry_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM rolled")
    op.execute("DELETE FROM rollup")
    with op.batch_alter_table("rollup") as rollup:
        rollup.alter_column(
            "level",
            existing_type=sa.Integer(),
            existing_nullable=False,
            comment="0: an hour's minutes, 1: a day's hours, 2: a month's quarters of days, 3: a month's days",
            existing_comment="0: minutes of an hour, 1: hours of a day, 2: days of a month",
        )
    op.drop_index("ix_chunk_gateway_epoch_boot_last_mono_ms", table_name="chunk")
    covered = ["gateway", "epoch", "boot", "last_mono_ms", "first_mono_ms"]
    op.create_index("ix_chunk_gateway_epoch_boot_last_mono_ms_first_mono_ms", "chunk", covered)
    unsealed = sa.text("chunk IS NULL")
    op.create_index("ix_history_unsealed", "history", covered, sqlite_where=unsealed, postgresql_where=unsealed)
    slowed = sa.Column(
        "paced", sa.Text(), nullable=True, comment="why ingest slows it down; null or empty: it does not"
    )
    op.add_column("gateway_index", slowed)
