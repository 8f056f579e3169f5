"""Replicas: leases of what only one process may do, and what all hosts must agree on."""

import sqlalchemy as sa
from alembic import op

revision = "business_0007"
down_revision = "business_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column(
            "fence", sa.BigInteger(), nullable=False, comment="rises with each holder; checked in what they write"
        ),
        sa.Column("until_ms", sa.BigInteger(), nullable=False, comment="by the database's clock"),
        sa.Column("taken_ms", sa.BigInteger(), nullable=False, comment="by the database's clock"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
        comment="Which process does what only one may do, and which processes live. On SQLite files do that.",
    )
    op.create_table(
        "installation",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_installation")),
        comment="What all hosts of this installation must agree on: the keys they were given.",
    )
    op.create_table(
        "failed_attempt",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False, comment="by the database's clock"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_failed_attempt")),
        comment="Attempts to log in that were refused, per address, where several processes count them together.",
    )
