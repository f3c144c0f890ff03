"""An index from which SQLite reads sums of cost in order: a month's report takes a tenth of the time."""

from alembic import op

from farthing.ledger.database import is_postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it, in SQLite only."""
    if not is_postgresql(op.get_bind()):
        who = ["tenant", "project", "model", "tier", "engine", "account", "phase", "method", "reason"]
        op.create_index("ix_cost_hours_sums", "cost_hours", [*who, "hour", "nano", "late_nano"])
