"""The loss ledger: rows received and rows lost, per group and hour."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0003"
down_revision = "telemetry_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "received",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False, comment="mono_ms / 3 600 000"),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="group u32, rows u32 of each group, little-endian"),
        sa.PrimaryKeyConstraint("gateway", "epoch", "boot", "hour", name=op.f("pk_received")),
        comment="The loss ledger: how many rows of each group came, per hour of a boot's clock.",
    )
    op.create_table(
        "loss",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False, comment="0 = nobody knows when"),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=False, comment="0 = nobody knows of which group"),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column(
            "unknown", sa.Integer(), nullable=False, comment="1 = besides, rows were lost that nobody could count"
        ),
        sa.PrimaryKeyConstraint("gateway", "epoch", "boot", "hour", "group_id", "reason", name=op.f("pk_loss")),
        comment="The loss ledger: rows that gap records account for.",
    )
