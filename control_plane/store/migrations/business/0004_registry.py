"""Assets, places, notes on sensors, scoped users and tokens, and the versions of what people edit."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "business_0004"
down_revision = "business_0003"
branch_labels = None
depends_on = None


def _added() -> tuple[tuple[str, sa.Column[Any]], ...]:
    return (
        (
            "gateway",
            sa.Column("version", sa.BigInteger(), nullable=False, server_default="1", comment="of what people edit"),
        ),
        (
            "gateway",
            sa.Column(
                "enrolled_ms",
                sa.BigInteger(),
                nullable=True,
                comment="null: registered ahead, the box has not come yet",
            ),
        ),
        (
            "join_token",
            sa.Column(
                "gateway",
                sa.String(length=16),
                nullable=True,
                comment="the gateway registered ahead that this token is for",
            ),
        ),
        (
            "user_account",
            sa.Column("groups", sa.Text(), nullable=True, comment="JSON array of slugs; null: the whole fleet"),
        ),
        ("user_account", sa.Column("version", sa.BigInteger(), nullable=False, server_default="1")),
        (
            "api_token",
            sa.Column(
                "user_name", sa.String(length=80), nullable=True, comment="whose rights bound it; null: nobody's"
            ),
        ),
        (
            "api_token",
            sa.Column(
                "permissions",
                sa.Text(),
                nullable=True,
                comment="JSON array of area:read, area:write; null: all of its role",
            ),
        ),
        (
            "api_token",
            sa.Column(
                "groups",
                sa.Text(),
                nullable=True,
                comment="JSON array of slugs; null: as its user, or the whole fleet",
            ),
        ),
        ("gateway_group", sa.Column("version", sa.BigInteger(), nullable=False, server_default="1")),
    )


def upgrade() -> None:
    for table, column in _added():
        op.add_column(table, column)
    op.execute("UPDATE gateway SET enrolled_ms = created_ms")
    op.create_table(
        "asset",
        sa.Column(
            "id",
            sa.String(length=320),
            nullable=False,
            comment="slug path; its parent is the path without the last slug",
        ),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="vehicle, compartment, warehouse, other"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("attrs", sa.Text(), nullable=False, comment="JSON object of strings"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asset")),
    )
    op.create_table(
        "place",
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False, comment="JSON: a circle or a polygon"),
        sa.Column("attrs", sa.Text(), nullable=False, comment="JSON object of strings"),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_place")),
    )
    op.create_table(
        "sensor_note",
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("sensor", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "sensor", name=op.f("pk_sensor_note")),
        comment="What people say of sensors, beside what gateways declare and configurations order.",
    )
    op.create_table(
        "registry_edit",
        sa.Column("kind", sa.String(length=16), nullable=False, comment="gateway, sensor, asset, place, group, user"),
        sa.Column("id", sa.String(length=320), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=True, comment="JSON: what it was from then on; null: deleted"),
        sa.Column("edited_ms", sa.BigInteger(), nullable=False),
        sa.Column("edited_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", "version", name=op.f("pk_registry_edit")),
        comment="Every version of what people edit: a stale edit is told what changed since.",
    )


def downgrade() -> None:
    for table in ("registry_edit", "sensor_note", "place", "asset"):
        op.drop_table(table)
    for table, column in reversed(_added()):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column.name)
