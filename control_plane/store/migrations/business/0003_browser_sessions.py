"""Who is signed in with a browser."""

import sqlalchemy as sa
from alembic import op

revision = "business_0003"
down_revision = "business_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "browser_session",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False, comment="of the cookie's value"),
        sa.Column("user_name", sa.String(length=80), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False, comment="of the last request, to the minute"),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_browser_session")),
    )
    op.create_index(op.f("ix_browser_session_user_name"), "browser_session", ["user_name"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_browser_session_user_name"), table_name="browser_session")
    op.drop_table("browser_session")
