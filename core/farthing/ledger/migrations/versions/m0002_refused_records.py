"""How many records of a boot intake refused: apart from those that were lost on the way."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count."""
    op.add_column("boots", sa.Column("refused", sa.BigInteger(), server_default="0", nullable=False))
