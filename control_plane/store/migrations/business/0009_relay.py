"""What ends a delivery beside its delivery; people's acts, cut-overs, and how destinations are found."""

import sqlalchemy as sa
from alembic import op

revision = "business_0009"
down_revision = "business_0008"
branch_labels = None
depends_on = None

OPEN = sa.text("state NOT IN ('delivered', 'superseded', 'skipped', 'shadowed')")


def upgrade() -> None:
    op.drop_index("ix_outbox_open", table_name="outbox")
    op.create_index(
        "ix_outbox_open", "outbox", ["dest", "key", "seq"], unique=False, sqlite_where=OPEN, postgresql_where=OPEN
    )
    op.create_table(
        "relay_act",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("dest", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=120), nullable=True, comment="null = of the destination"),
        sa.Column("act", sa.String(length=12), nullable=False, comment="replay, skip, fix, resume, cutover"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True, comment="what a fix replaced"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_relay_act")),
        comment="What people did to deliveries.",
    )
    op.create_index(op.f("ix_relay_act_dest_event_id"), "relay_act", ["dest", "event_id"], unique=False)
    op.create_table(
        "cutover",
        sa.Column("dest", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False, comment="* = every key"),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dest", "key", name=op.f("pk_cutover")),
        comment="Keys of a destination in shadow mode that are delivered after all.",
    )
    op.create_table(
        "relay_health",
        sa.Column("dest", sa.String(length=64), nullable=False),
        sa.Column(
            "state",
            sa.String(length=12),
            nullable=False,
            comment="running, open, half_open, maintenance, refused, paused",
        ),
        sa.Column("until_ms", sa.BigInteger(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column(
            "at_once", sa.Integer(), nullable=False, comment="deliveries under way at most, as the far side bears"
        ),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dest", name=op.f("pk_relay_health")),
        comment="How the relay that looked last finds a destination.",
    )
