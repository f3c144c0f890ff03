"""When a boot ended, though its energy is still awaited, and where one stopped whose records cannot be costed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns; a boot that is closed ended then, and one that is not says so when its records are read."""
    ended = "UTC; set once no amount of it can change any more"
    given_up = "UTC; its records cannot be costed from here on"
    op.add_column("boots", sa.Column("ended_ns", sa.BigInteger(), nullable=True, comment=ended))
    op.add_column("boots", sa.Column("given_up_ns", sa.BigInteger(), nullable=True, comment=given_up))
    op.execute(sa.text("UPDATE boots SET ended_ns = closed_ns"))
