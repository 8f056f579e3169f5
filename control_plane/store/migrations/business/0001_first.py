"""First tables of the business store."""

import sqlalchemy as sa
from alembic import op

revision = "business_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_api_token_secret_sha256")),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("dest", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("took_ms", sa.BigInteger(), nullable=True),
        sa.Column(
            "outcome",
            sa.String(length=20),
            nullable=True,
            comment="class of the answer; null = the relay died meanwhile",
        ),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
    )
    op.create_index(op.f("ix_attempt_dest_event_id"), "attempt", ["dest", "event_id"], unique=False)
    op.create_table(
        "certificate",
        sa.Column("serial", sa.String(length=48), nullable=False, comment="lower-case hexadecimal"),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificate")),
    )
    op.create_index(op.f("ix_certificate_gateway"), "certificate", ["gateway"], unique=False)
    op.create_table(
        "event",
        sa.Column("id", sa.String(length=120), nullable=False, comment="evt_<entity>_<slug>_v<n>"),
        sa.Column("entity_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=120), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("change", sa.String(length=12), nullable=False, comment="create, amend, supersede, retract"),
        sa.Column("finality", sa.String(length=12), nullable=False, comment="provisional, final"),
        sa.Column(
            "held", sa.String(length=12), nullable=True, comment="expired: hold_max ran out before the watermark passed"
        ),
        sa.Column("supersedes", sa.String(length=120), nullable=True),
        sa.Column("time_ms", sa.BigInteger(), nullable=False, comment="when it was true"),
        sa.Column(
            "decided_ms", sa.BigInteger(), nullable=False, comment="event time of the observation that decided it"
        ),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False, comment="when we knew"),
        sa.Column("data_sha256", sa.String(length=64), nullable=False),
        sa.Column("data", sa.Text(), nullable=False, comment="canonical JSON"),
        sa.Column("current", sa.Boolean(), nullable=False, comment="the newest version of its entity and type"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("entity_id", "type", "version", name=op.f("uq_event_entity_id_type_version")),
    )
    op.create_index(op.f("ix_event_recorded_ms_id"), "event", ["recorded_ms", "id"], unique=False)
    op.create_index(op.f("ix_event_subject_type"), "event", ["subject", "type"], unique=False)
    op.create_table(
        "gateway",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=True),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("signing_key", sa.LargeBinary(), nullable=False, comment="Ed25519 public key"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateway")),
    )
    op.create_table(
        "join_token",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("gateway_name", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=True),
        sa.Column("used_by", sa.String(length=16), nullable=True),
        sa.Column(
            "used_csr_sha256",
            sa.String(length=64),
            nullable=True,
            comment="the same CSR again is a retry, not a second use",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_join_token")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_join_token_secret_sha256")),
    )
    op.create_table(
        "key_seq",
        sa.Column("dest", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_at_ms", sa.BigInteger(), nullable=True, comment="earliest useful moment; null = nothing open"),
        sa.PrimaryKeyConstraint("dest", "key", name=op.f("pk_key_seq")),
        comment="Order and lease of one key at one destination.",
    )
    op.create_index(op.f("ix_key_seq_dest_next_at_ms"), "key_seq", ["dest", "next_at_ms"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("dest", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(length=120), nullable=False),
        sa.Column("ext_ref", sa.String(length=120), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("delivered_ms", sa.BigInteger(), nullable=True),
        sa.Column("erp_id", sa.Text(), nullable=True),
        sa.Column("last_class", sa.String(length=20), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dest", "key", "seq", name=op.f("pk_outbox")),
        sa.UniqueConstraint("dest", "event_id", name=op.f("uq_outbox_dest_event_id")),
    )
    op.create_index(op.f("ix_outbox_state"), "outbox", ["state"], unique=False)
    op.create_index(
        "ix_outbox_open",
        "outbox",
        ["dest", "key", "seq"],
        unique=False,
        sqlite_where=sa.text("state <> 'delivered'"),
        postgresql_where=sa.text("state <> 'delivered'"),
    )
    op.create_table(
        "reconcile_cursor",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_reconcile_cursor")),
    )
    op.create_table(
        "rule_checkpoint",
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False, comment="JSON: where the rule may resume"),
        sa.PrimaryKeyConstraint("rule", "subject", name=op.f("pk_rule_checkpoint")),
    )
    op.create_table(
        "user_account",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_user_account")),
    )


def downgrade() -> None:
    op.drop_table("user_account")
    op.drop_table("rule_checkpoint")
    op.drop_table("reconcile_cursor")
    op.drop_index("ix_outbox_open", table_name="outbox")
    op.drop_index(op.f("ix_outbox_state"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_index(op.f("ix_key_seq_dest_next_at_ms"), table_name="key_seq")
    op.drop_table("key_seq")
    op.drop_table("join_token")
    op.drop_table("gateway")
    op.drop_index(op.f("ix_event_subject_type"), table_name="event")
    op.drop_index(op.f("ix_event_recorded_ms_id"), table_name="event")
    op.drop_table("event")
    op.drop_index(op.f("ix_certificate_gateway"), table_name="certificate")
    op.drop_table("certificate")
    op.drop_index(op.f("ix_attempt_dest_event_id"), table_name="attempt")
    op.drop_table("attempt")
    op.drop_table("api_token")
