"""First tables of the journal store."""

from alembic import op

from control_plane.store.tables import journal

revision = "journal_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    journal.create_all(op.get_bind())


def downgrade() -> None:
    journal.drop_all(op.get_bind())
