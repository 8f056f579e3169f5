"""Conditions that gateways say; gap records that are joined."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0002"
down_revision = "telemetry_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "condition",
        sa.Column("id", sa.String(length=40), nullable=False, comment="batch id + index of the event"),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("sensor", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.String(length=120), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False, comment="the alarm's; empty for silence"),
        sa.Column("kind", sa.Integer(), nullable=False, comment="EventKind: raised, cleared, silent, recovered"),
        sa.Column("severity", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("limit", sa.Double(), nullable=False),
        sa.Column("below", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("since_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("said_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_condition")),
        comment="What a gateway said of its own alarms and of silent sensors; each as it came.",
    )
    op.create_index(op.f("ix_condition_gateway_recorded_ms"), "condition", ["gateway", "recorded_ms"])
    op.create_index(
        op.f("ix_condition_gateway_sensor_quantity_name"), "condition", ["gateway", "sensor", "quantity", "name"]
    )
    comment = "the record this one is part of now; readers skip it"
    op.add_column("gap", sa.Column("joined_to", sa.String(length=40), nullable=True, comment=comment))
    op.create_index(op.f("ix_gap_recorded_ms"), "gap", ["recorded_ms"])
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("gap", "recorded_ms", comment="when it was last changed")
        op.create_table_comment("gap", "Records that touch are one: what a dead sensor says every minute is one row.")
