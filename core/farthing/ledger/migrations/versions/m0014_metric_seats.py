"""Which tenants and tiers have series of their own: given anew at each start, counters would fall."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table; the first start gives its seats to the costliest, as every start did before."""
    op.create_table(
        "metric_seats",
        sa.Column("label", sa.String(length=16), nullable=False, comment="tenant or tier"),
        sa.Column("value", sa.String(length=512), nullable=False, comment="that has series of its own"),
        sa.PrimaryKeyConstraint("label", "value"),
    )
