"""Batches divided into units that are dropped as a whole, and evidence that stays."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0007"
down_revision = "journal_0006"
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
