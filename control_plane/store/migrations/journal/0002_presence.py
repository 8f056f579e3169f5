"""Who is connected, and what gateways say of their configuration."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0002"
down_revision = "journal_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "presence",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("connected_ms", sa.BigInteger(), nullable=False),
        sa.Column("heard_ms", sa.BigInteger(), nullable=False, comment="last message of any kind, to a few seconds"),
        sa.Column("left_ms", sa.BigInteger(), nullable=True, comment="null while connected"),
        sa.Column("version", sa.Text(), nullable=False, comment="of the gateway's program"),
        sa.Column("heartbeat", sa.LargeBinary(), nullable=True, comment="the last Heartbeat as it came"),
        sa.Column("running", sa.LargeBinary(), nullable=True, comment="the newest RunningConfig as it came"),
        sa.Column("why", sa.Text(), nullable=True, comment="why the stream ended"),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_presence")),
        comment="Who is connected and what they said last.",
    )
    op.create_table(
        "config_offer",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("offered_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_config_offer")),
        comment="The newest configuration each gateway was offered.",
    )
    op.create_table(
        "config_status",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("pointer", sa.Text(), nullable=False, comment="JSON pointer into the document"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("retry_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_status")),
        comment="What gateways said became of an offer; a repetition is not a further row.",
    )
    op.create_index(
        op.f("ix_config_status_gateway_generation_id"), "config_status", ["gateway", "generation", "id"], unique=False
    )
    op.create_table(
        "effective_config",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("pushed_hash", sa.LargeBinary(), nullable=False),
        sa.Column("local_hash", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="canonical JSON"),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_effective_config")),
        comment="The document each gateway runs by, in its own words.",
    )
