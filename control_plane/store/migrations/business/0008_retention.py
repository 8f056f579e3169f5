"""How long what gateways of a group sent is kept."""

import sqlalchemy as sa
from alembic import op

revision = "business_0008"
down_revision = "business_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retention",
        sa.Column("slug", sa.String(length=64), nullable=False, comment="of a group of gateways"),
        sa.Column(
            "body",
            sa.Text(),
            nullable=False,
            comment="JSON: days by what is kept; what is missing is as for the fleet",
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_retention")),
        comment="How long what gateways of a group sent is kept, where that differs from the server's setting.",
    )
