"""First tables of the journal store."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batch",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("schema", sa.BigInteger(), nullable=False),
        sa.Column("codec", sa.Integer(), nullable=False),
        sa.Column("dictionary", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("body_len", sa.Integer(), nullable=False),
        sa.Column("crc32", sa.BigInteger(), nullable=False),
        sa.Column("complete_boot", sa.BigInteger(), nullable=False),
        sa.Column("complete_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("urgent_seq", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.LargeBinary(), nullable=True, comment="a Batch holding only `replaces` and `signature`"),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="as carried"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
        sa.UniqueConstraint("gateway", "epoch", "lane", "seq", name=op.f("uq_batch_gateway_epoch_lane_seq")),
    )
    op.create_table(
        "conflict",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("crc32", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="the whole Batch"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conflict")),
        sa.UniqueConstraint(
            "gateway", "epoch", "lane", "seq", "crc32", name=op.f("uq_conflict_gateway_epoch_lane_seq_crc32")
        ),
        comment="The same key with other content: both are kept.",
    )
    op.create_table(
        "declare",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("schema", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="the Declare as it came; immutable"),
        sa.PrimaryKeyConstraint("gateway", "epoch", "schema", name=op.f("pk_declare")),
    )
    op.create_table(
        "heartbeat",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("complete_boot", sa.BigInteger(), nullable=False),
        sa.Column("complete_mono_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "epoch", "lane", name=op.f("pk_heartbeat")),
        comment="Completeness said on silence; the newest word per lane.",
    )
    op.create_index(op.f("ix_heartbeat_received_ms"), "heartbeat", ["received_ms"], unique=False)
    op.create_table(
        "hello",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("opens", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("boot_id", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="the Hello as it came"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hello")),
    )
    op.create_index(op.f("ix_hello_gateway_id"), "hello", ["gateway", "id"], unique=False)
    op.create_table(
        "lane",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("cum", sa.BigInteger(), nullable=False, comment="every seq <= cum is received or rejected"),
        sa.Column("above", sa.LargeBinary(), nullable=False, comment="ranges above cum: pairs of little-endian uint64"),
        sa.Column("max_seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "epoch", "lane", name=op.f("pk_lane")),
    )
    op.create_table(
        "reject",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "epoch", "lane", "seq", name=op.f("pk_reject")),
        comment="Seqs refused for good: resolved, their bytes set aside on the gateway.",
    )
    op.create_table(
        "session",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_session")),
        comment="The fencing token of a gateway's newest stream; checked in every journal transaction.",
    )


def downgrade() -> None:
    op.drop_table("session")
    op.drop_table("reject")
    op.drop_table("lane")
    op.drop_index(op.f("ix_hello_gateway_id"), table_name="hello")
    op.drop_table("hello")
    op.drop_index(op.f("ix_heartbeat_received_ms"), table_name="heartbeat")
    op.drop_table("heartbeat")
    op.drop_table("declare")
    op.drop_table("conflict")
    op.drop_table("batch")
