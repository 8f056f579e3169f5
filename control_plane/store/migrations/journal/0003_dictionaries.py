"""The dictionaries that batches are packed with."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0003"
down_revision = "journal_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dictionary",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column(
            "id", sa.BigInteger(), nullable=False, comment="as batches name it: first 4 bytes of sha256, little-endian"
        ),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("schema", sa.BigInteger(), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False, comment="it was trained on; 0: it came from the gateway"),
        sa.Column("saving", sa.Double(), nullable=False, comment="share of their bytes saved when it was made"),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_ms", sa.BigInteger(), nullable=True, comment="when a newer one took over"),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_dictionary")),
        sa.UniqueConstraint("gateway", "id", name=op.f("uq_dictionary_gateway_id")),
        comment="What batches are packed with. Never deleted: journalled batches name them.",
    )
