"""The index from which SQLite reads sums of cost in order has their energy too, which reports show beside them."""

from alembic import op

from farthing.ledger.database import is_postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it anew, in SQLite only."""
    if not is_postgresql(op.get_bind()):
        who = ["tenant", "project", "model", "tier", "engine", "account", "phase", "method", "reason"]
        op.drop_index("ix_cost_hours_sums", "cost_hours")
        op.create_index("ix_cost_hours_sums", "cost_hours", [*who, "hour", "nano", "late_nano", "millijoules"])
