"""Commands: what people and programs ask of devices."""

import sqlalchemy as sa
from alembic import op

revision = "business_0006"
down_revision = "business_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "command",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True, comment="rises per gateway; null: asked at the box"),
        sa.Column("sensor", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.String(length=120), nullable=False),
        sa.Column("value", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("expect", sa.Text(), nullable=True, comment="JSON: only if the device holds this"),
        sa.Column("generation", sa.BigInteger(), nullable=False, comment="of the configuration; 0 = any"),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("caller", sa.String(length=80), nullable=False, comment="whose idempotency key it is"),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True, comment="null: no gateway can have seen it"),
        sa.Column("until_ms", sa.BigInteger(), nullable=True, comment="sent again until then; null: no more"),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True, comment="of its one result; null: there is none yet"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True, comment="JSON: what the device held"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_command")),
        sa.UniqueConstraint("gateway", "number", name=op.f("uq_command_gateway_number")),
        sa.UniqueConstraint(
            "gateway", "caller", "idempotency_key", name=op.f("uq_command_gateway_caller_idempotency_key")
        ),
        comment="What was asked of devices, by whom, and what became of it; never deleted.",
    )
    op.create_index(op.f("ix_command_until_ms"), "command", ["until_ms"])
    op.create_index(op.f("ix_command_gateway_asked_ms"), "command", ["gateway", "asked_ms"])
