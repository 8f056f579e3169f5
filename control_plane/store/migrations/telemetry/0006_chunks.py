"""Sealed chunks and rollups."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0006"
down_revision = "telemetry_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "history",
        sa.Column(
            "chunk",
            sa.BigInteger(),
            nullable=True,
            comment="chunk.id that holds its readings too; null: not sealed yet",
        ),
    )
    op.create_table(
        "chunk",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("first_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("readings", sa.BigInteger(), nullable=False),
        sa.Column("sealed_ms", sa.BigInteger(), nullable=False),
        sa.Column("toc", sa.LargeBinary(), nullable=False, comment="see projections/chunk.py"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunk")),
        comment="The readings of one boot's hour, sealed column by column. What came late has a chunk of its own.",
    )
    op.create_index(
        op.f("ix_chunk_gateway_epoch_boot_last_mono_ms"), "chunk", ["gateway", "epoch", "boot", "last_mono_ms"]
    )
    op.create_table(
        "rolled",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column(
            "chunk", sa.BigInteger(), nullable=False, comment="the rollups hold every chunk of the boot up to this one"
        ),
        sa.Column("points", sa.Integer(), nullable=False, comment="how many anchors"),
        sa.Column(
            "anchors",
            sa.LargeBinary(),
            nullable=False,
            comment="by which they were placed in time: their mono and wall ms",
        ),
        sa.PrimaryKeyConstraint("gateway", "epoch", "boot", name=op.f("pk_rolled")),
        comment="What the rollups were made of. Where that has changed, readers go to the readings.",
    )
    op.create_table(
        "rollup",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column(
            "level",
            sa.Integer(),
            nullable=False,
            comment="0: minutes of an hour, 1: hours of a day, 2: days of a month",
        ),
        sa.Column("start_ms", sa.BigInteger(), nullable=False, comment="of the hour, the day or the month, UTC"),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="see projections/rollup.py"),
        sa.PrimaryKeyConstraint("gateway", "level", "start_ms", name=op.f("pk_rollup")),
        comment="Count, least, greatest, sum and last per series and step of time.",
    )
    if op.get_bind().dialect.name == "postgresql":  # packed already: no second try
        for table in ("chunk", "rollup"):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL")
