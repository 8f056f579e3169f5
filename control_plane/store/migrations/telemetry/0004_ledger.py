"""The loss ledger: rows received and rows lost, per group and hour. Boots, and where those without an anchor lie."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0004"
down_revision = "telemetry_0003"
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
    op.create_table(
        "boot",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column(
            "first_ms", sa.BigInteger(), nullable=False, comment="when it was first heard of, by the server's clock"
        ),
        sa.Column("anchored", sa.Integer(), nullable=False, comment="1 = an anchor places it"),
        sa.Column("wall_ms", sa.BigInteger(), nullable=True, comment="of its mono_ms 0, where no anchor ever came"),
        sa.Column("err_ms", sa.BigInteger(), nullable=True),
        sa.Column("placed_ms", sa.BigInteger(), nullable=True, comment="when it was placed so"),
        sa.PrimaryKeyConstraint("gateway", "epoch", "boot", name=op.f("pk_boot")),
        comment="Boots of gateways; those without an anchor are placed between their neighbours.",
    )
    op.create_index(op.f("ix_boot_anchored"), "boot", ["anchored"])
    op.create_index(op.f("ix_boot_placed_ms"), "boot", ["placed_ms"])
    schema = "telemetry." if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(
        f"INSERT INTO {schema}boot(gateway, epoch, boot, first_ms, anchored) "
        f"SELECT gateway, epoch, boot, 0, max(anchored) FROM ("
        f"SELECT DISTINCT gateway, epoch, boot, 0 AS anchored FROM {schema}history "
        f"UNION ALL SELECT DISTINCT gateway, epoch, boot, 1 AS anchored FROM {schema}anchor) AS known "
        "GROUP BY gateway, epoch, boot"
    )
