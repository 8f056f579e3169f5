"""Thinned batches, and what they stand for."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0003"
down_revision = "telemetry_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "thinned",
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="journal.batch.id"),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("replaces", sa.LargeBinary(), nullable=False, comment="ranges as in lane.above"),
        sa.Column("held", sa.BigInteger(), nullable=False, comment="its readings that an original holds too"),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_thinned")),
        comment="Batches that stand for others; where those are here too, they win.",
    )
    op.create_index(op.f("ix_thinned_gateway_epoch_seq"), "thinned", ["gateway", "epoch", "seq"])
