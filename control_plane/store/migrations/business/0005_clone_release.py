"""Administrators' decisions on suspected clones."""

import sqlalchemy as sa
from alembic import op

revision = "business_0005"
down_revision = "business_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clone_release",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column(
            "since_ms", sa.BigInteger(), nullable=False, comment="of the suspicion that is settled: journal.clone"
        ),
        sa.Column("decided_ms", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_clone_release")),
        comment="An administrator's word that the second box is gone; ingest acts on it at the next Hello.",
    )
