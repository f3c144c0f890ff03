"""Boots keep the settings of costing that their windows are made with, and names of what is bought are reasons."""

import sqlalchemy as sa
from alembic import op

from farthing.ledger.database import is_postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, and widen another where its width is insisted on; earlier boots go on with whatever is set."""
    comment = "JSON: settings that its windows are made with"
    op.add_column("boots", sa.Column("costing", sa.Text(), nullable=False, server_default="", comment=comment))
    if is_postgresql(op.get_bind()):
        op.alter_column("journal", "reason", type_=sa.String(128), existing_type=sa.String(32), existing_nullable=False)
