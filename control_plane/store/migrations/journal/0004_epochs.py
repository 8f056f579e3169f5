"""Which opening of a store the server goes on with, what came again in another epoch, and suspected clones."""

import sqlalchemy as sa
from alembic import op

revision = "journal_0004"
down_revision = "journal_0003"
branch_labels = None
depends_on = None

KNOWN = """
INSERT INTO epoch (gateway, epoch, opens, run_id, boot_id, hello_id)
SELECT said.gateway, said.epoch, said.opens, said.run_id, said.boot_id, said.id FROM hello AS said
JOIN (SELECT max(id) AS id FROM hello GROUP BY gateway, epoch) AS newest ON newest.id = said.id
"""


def upgrade() -> None:
    op.add_column(
        "hello",
        sa.Column("why", sa.Text(), nullable=True, comment="why a new epoch was ordered; null: it was accepted"),
    )
    op.create_index(op.f("ix_hello_gateway_run_id"), "hello", ["gateway", "run_id"], unique=False)
    op.add_column(
        "lane",
        sa.Column("session", sa.BigInteger(), server_default="0", nullable=False, comment="of the newest batch"),
    )
    op.create_table(
        "epoch",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("opens", sa.BigInteger(), nullable=False, comment="of the newest Hello that was accepted"),
        sa.Column("run_id", sa.LargeBinary(), nullable=False),
        sa.Column("boot_id", sa.LargeBinary(), nullable=False),
        sa.Column("hello_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "superseded_by",
            sa.BigInteger(),
            nullable=True,
            comment="the epoch whose Hello named this one as predecessor",
        ),
        sa.PrimaryKeyConstraint("gateway", "epoch", name=op.f("pk_epoch")),
        comment="Which opening of each store the server goes on with.",
    )
    op.execute(KNOWN)
    op.create_table(
        "clone",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("hello_id", sa.BigInteger(), nullable=False, comment="Hellos up to this one prove nothing any more"),
        sa.Column("released_ms", sa.BigInteger(), nullable=True, comment="null: nothing is taken of this gateway"),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_clone")),
        comment="Gateways of which two boxes were seen to live.",
    )
    op.create_table(
        "known",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("of_epoch", sa.BigInteger(), nullable=False, comment="where its bytes are: journal.batch"),
        sa.Column("of_seq", sa.BigInteger(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_known")),
        sa.UniqueConstraint("gateway", "epoch", "lane", "seq", name=op.f("uq_known_gateway_epoch_lane_seq")),
        comment="Batches that came again in another epoch: resolved there, and stored once.",
    )
