"""An index from which SQLite reads who bore how much: a report by tenant takes a tenth of the time."""

from alembic import op

from farthing.ledger.database import is_postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it, in SQLite only."""
    if not is_postgresql(op.get_bind()):
        columns = ["tenant", "project", "account", "phase", "method", "hour", "nano"]
        op.create_index("ix_cost_hours_who", "cost_hours", columns)
