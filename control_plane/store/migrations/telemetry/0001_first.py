"""First tables of the telemetry store."""

from alembic import op

from control_plane.store.tables import telemetry

revision = "telemetry_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    telemetry.create_all(op.get_bind())


def downgrade() -> None:
    telemetry.drop_all(op.get_bind())
