"""First tables of the telemetry store."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "anchor",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("err_ms", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "epoch", "boot", "mono_ms", name=op.f("pk_anchor")),
    )
    op.create_table(
        "cursor",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursor")),
    )
    op.create_table(
        "gap",
        sa.Column(
            "id", sa.String(length=40), nullable=False, comment="batch id + index of the event, or a server-made name"
        ),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=False, comment="0 = all groups"),
        sa.Column("sensor", sa.String(length=64), nullable=False),
        sa.Column("from_boot", sa.BigInteger(), nullable=False),
        sa.Column("from_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_boot", sa.BigInteger(), nullable=False),
        sa.Column("to_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("seqs", sa.LargeBinary(), nullable=False, comment="ranges as in lane.above"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("count_exact", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gap")),
    )
    op.create_index(op.f("ix_gap_gateway_epoch"), "gap", ["gateway", "epoch"], unique=False)
    op.create_table(
        "history",
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="journal.batch.id"),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("schema", sa.BigInteger(), nullable=False),
        sa.Column("first_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("groups", sa.LargeBinary(), nullable=False, comment="ids of the groups inside: little-endian uint32"),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_history")),
        comment="Which batch holds which minutes. The readings stay in the batch as it came.",
    )
    op.create_index(
        op.f("ix_history_gateway_epoch_boot_last_mono_ms"),
        "history",
        ["gateway", "epoch", "boot", "last_mono_ms"],
        unique=False,
    )
    op.create_table(
        "integrity",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_integrity")),
    )
    op.create_table(
        "progress",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("cum", sa.BigInteger(), nullable=False, comment="every seq <= cum is resolved and projected"),
        sa.Column("above", sa.LargeBinary(), nullable=False),
        sa.Column("marks", sa.LargeBinary(), nullable=False, comment="complete_to of seqs above cum"),
        sa.Column("complete_boot", sa.BigInteger(), nullable=False, comment="the lane's watermark"),
        sa.Column("complete_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "epoch", "lane", name=op.f("pk_progress")),
        comment="Resolved seqs (received, rejected or gap-recorded) and how far a lane is complete.",
    )
    op.create_table(
        "quarantine",
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_quarantine")),
        comment="Journalled batches that could not be decoded; raw bytes stay in the journal.",
    )
    op.create_table(
        "series",
        sa.Column("key", sa.String(length=200), nullable=False, comment="gateway/sensor/quantity"),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("sensor", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("unit", sa.String(length=40), nullable=False),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("period_ms", sa.BigInteger(), nullable=False),
        sa.Column("attrs", sa.Text(), nullable=False, comment="JSON object"),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("schema", sa.BigInteger(), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=False),
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_series")),
        comment="The newest declaration of each series.",
    )
    op.create_index(
        op.f("ix_series_gateway_epoch_series_id"), "series", ["gateway", "epoch", "series_id"], unique=False
    )
    op.create_table(
        "state",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("readings", sa.BigInteger(), nullable=False, comment="decoded so far, all epochs"),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="packed arrays, see projections/state.py"),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_state")),
        comment="Latest value per series, one compact row per gateway.",
    )


def downgrade() -> None:
    op.drop_table("state")
    op.drop_index(op.f("ix_series_gateway_epoch_series_id"), table_name="series")
    op.drop_table("series")
    op.drop_table("quarantine")
    op.drop_table("progress")
    op.drop_table("integrity")
    op.drop_index(op.f("ix_history_gateway_epoch_boot_last_mono_ms"), table_name="history")
    op.drop_table("history")
    op.drop_index(op.f("ix_gap_gateway_epoch"), table_name="gap")
    op.drop_table("gap")
    op.drop_table("cursor")
    op.drop_table("anchor")
