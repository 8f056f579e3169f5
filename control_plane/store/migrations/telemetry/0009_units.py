"""Chunks and rollups divided into units that are dropped as a whole, and from when on there is something."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0009"
down_revision = "telemetry_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unit",
        sa.Column("family", sa.String(length=16), nullable=False, comment="the table that is divided"),
        sa.Column(
            "number", sa.Integer(), nullable=False, comment="0: what was there before it was divided; -1: evidence"
        ),
        sa.Column("level", sa.Integer(), nullable=False, comment="of rollups; else 0"),
        sa.Column(
            "kept_as",
            sa.String(length=64),
            nullable=False,
            comment="slug of the group whose retention holds; empty: none",
        ),
        sa.Column("begins_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=True, comment="null: still written to"),
        sa.Column("first_id", sa.BigInteger(), nullable=False, comment="no id below it is given out from then on"),
        sa.PrimaryKeyConstraint("family", "number", name=op.f("pk_unit")),
        comment="The tables into which another one is divided, each dropped as a whole: see store/units.py.",
    )
    op.create_table(
        "kept",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("what", sa.String(length=8), nullable=False, comment="readings, 1m, 1h, 6h, 1d"),
        sa.Column("from_ms", sa.BigInteger(), nullable=False, comment="what had come before is not kept any more"),
        sa.PrimaryKeyConstraint("gateway", "what", name=op.f("pk_kept")),
        comment="From when on there is something, where retention has dropped what was before.",
    )
