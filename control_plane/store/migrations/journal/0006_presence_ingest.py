"""Which ingest has a gateway's stream: when that process is gone, so is the gateway."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0006"
down_revision = "journal_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    said = "the process that has the stream: business.lease"
    op.add_column("presence", sa.Column("ingest", sa.String(length=120), nullable=True, comment=said))
