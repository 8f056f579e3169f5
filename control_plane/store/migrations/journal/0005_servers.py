"""Which ingest process a gateway's stream is with, and what it is told about its pace."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0005"
down_revision = "journal_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "presence",
        sa.Column("server", sa.Text(), nullable=True, comment="the ingest process it is with"),
    )
    op.add_column(
        "presence",
        sa.Column("paced", sa.Text(), nullable=True, comment="why it is slowed down; null or empty: it is not"),
    )
