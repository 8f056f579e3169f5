"""Which batches came more than once."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0006"
down_revision = "journal_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "repeat",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False, comment="beside the first"),
        sa.Column("received_ms", sa.BigInteger(), nullable=False, comment="the last time"),
        sa.PrimaryKeyConstraint("gateway", "epoch", "lane", "seq", name=op.f("pk_repeat")),
        comment="Batches that came again with the same content, and were stored once.",
    )
