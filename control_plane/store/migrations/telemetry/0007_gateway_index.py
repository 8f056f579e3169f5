"""The index that a fleet is filtered and sorted by."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0007"
down_revision = "telemetry_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_state_gateway_updated_ms_readings"), "state", ["gateway", "updated_ms", "readings"])
    op.create_table(
        "gateway_index",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=True),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False, comment="slugs, a blank before and after each"),
        sa.Column("words", sa.Text(), nullable=False, comment="name, id and asset in small letters: what is searched"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_ms", sa.BigInteger(), nullable=True),
        sa.Column(
            "certificate_ms",
            sa.BigInteger(),
            nullable=True,
            comment="end of its newest certificate that is not revoked",
        ),
        sa.Column("configuration", sa.String(length=16), nullable=True, comment="see fleet/status.py"),
        sa.Column("generation", sa.BigInteger(), nullable=True, comment="of the configuration it runs"),
        sa.Column("paused_ms", sa.BigInteger(), nullable=True),
        sa.Column("expected_ms", sa.BigInteger(), nullable=True, comment="period of its quickest series"),
        sa.Column("connected_ms", sa.BigInteger(), nullable=True, comment="null: it was never here"),
        sa.Column("heard_ms", sa.BigInteger(), nullable=True),
        sa.Column("left_ms", sa.BigInteger(), nullable=True),
        sa.Column("left_why", sa.Text(), nullable=True),
        sa.Column("version", sa.Text(), nullable=True, comment="of its program"),
        sa.Column("backlog_batches", sa.BigInteger(), nullable=True),
        sa.Column("backlog_bytes", sa.BigInteger(), nullable=True),
        sa.Column("backlog_oldest_ms", sa.BigInteger(), nullable=True),
        sa.Column("clock_source", sa.Integer(), nullable=True),
        sa.Column("clock_err_ms", sa.BigInteger(), nullable=True),
        sa.Column("sensors_silent", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_gateway_index")),
        comment="What a fleet is filtered and sorted by: one row per gateway of what the three stores say of it.",
    )
