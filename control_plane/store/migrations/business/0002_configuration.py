"""Groups, configuration layers and what is wanted of each gateway."""

import sqlalchemy as sa
from alembic import op

revision = "business_0002"
down_revision = "business_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gateway_group",
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "priority",
            sa.Integer(),
            nullable=False,
            comment="of its template: the higher one wins; then the later slug",
        ),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_gateway_group")),
    )
    op.create_table(
        "gateway_group_member",
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("slug", "gateway", name=op.f("pk_gateway_group_member")),
    )
    op.create_index(op.f("ix_gateway_group_member_gateway"), "gateway_group_member", ["gateway"], unique=False)
    op.create_table(
        "config_change",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_config_change")),
        comment="Counts saves: rendering from what another save has changed is noticed, and ingest has its cursor.",
    )
    op.create_table(
        "config_layer",
        sa.Column("kind", sa.String(length=8), nullable=False, comment="fleet, group, gateway"),
        sa.Column("target", sa.String(length=64), nullable=False, comment="empty, a group's slug, a gateway's id"),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="from 1; the newest is in force"),
        sa.Column("body", sa.Text(), nullable=False, comment="JSON: a part of a configuration document"),
        sa.Column("saved_ms", sa.BigInteger(), nullable=False),
        sa.Column("saved_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "target", "version", name=op.f("pk_config_layer")),
    )
    op.create_table(
        "config_document",
        sa.Column("hash", sa.String(length=64), nullable=False, comment="SHA-256 of body"),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="canonical JSON, whole"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_config_document")),
    )
    op.create_table(
        "config_revision",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False, comment="strictly increasing: the fencing token"),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("provenance", sa.Text(), nullable=False, comment="JSON: pointer to layer"),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "generation", name=op.f("pk_config_revision")),
        comment="Everything that was ever wanted of a gateway.",
    )
    op.create_table(
        "config_desired",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False, comment="config_change.last of the save"),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_config_desired")),
        comment="What is wanted of each gateway now.",
    )
    op.create_index(op.f("ix_config_desired_change"), "config_desired", ["change"], unique=False)


def downgrade() -> None:
    for table in (
        "config_desired",
        "config_revision",
        "config_document",
        "config_layer",
        "config_change",
        "gateway_group_member",
        "gateway_group",
    ):
        op.drop_table(table)
