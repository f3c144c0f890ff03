"""Every boot keeps the settings of costing that its windows are made with."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; boots from before it go on with whatever is set."""
    comment = "JSON: settings that its windows are made with"
    op.add_column("boots", sa.Column("costing", sa.Text(), nullable=False, server_default="", comment=comment))
