"""How engines that were discovered are watched and paid for: what they are discovered by may be gone tomorrow."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "discovered_engines",
        sa.Column("engine", sa.String(length=128), nullable=False),
        sa.Column(
            "settings",
            sa.Text(),
            nullable=False,
            comment="JSON: how it is watched and paid for, as it was discovered last",
        ),
        sa.Column("since_ns", sa.BigInteger(), nullable=False, comment="UTC when it was discovered first"),
        sa.Column("changed_ns", sa.BigInteger(), nullable=False, comment="UTC when its settings became these"),
        sa.PrimaryKeyConstraint("engine"),
    )
