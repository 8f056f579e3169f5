"""What gateways said became of commands."""

import sqlalchemy as sa
from alembic import op

revision = "telemetry_0005"
down_revision = "telemetry_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "command_result",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("gateway", sa.String(length=16), nullable=False),
        sa.Column("command", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False, comment="CommandState"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False, comment="JSON: protos.commands.Outcome"),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_command_result")),
        sa.UniqueConstraint("gateway", "command", name=op.f("uq_command_result_gateway_command")),
        comment="The first result each gateway told of each command.",
    )
