"""First tables of the business store."""

from alembic import op

from control_plane.store.tables import business

revision = "business_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    business.create_all(op.get_bind())


def downgrade() -> None:
    business.drop_all(op.get_bind())
