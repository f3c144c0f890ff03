"""Where and when each GPU was there, and which of them each boot ran on."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table and a column; which GPUs earlier boots had is not known."""
    op.create_table(
        "gpu_presence",
        sa.Column("uuid", sa.String(length=96), nullable=False),
        sa.Column("first_ns", sa.BigInteger(), nullable=False, comment="UTC of the first sample"),
        sa.Column("last_ns", sa.BigInteger(), nullable=False, comment="UTC of the last sample"),
        sa.Column("host", sa.String(length=256), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False, comment="as the driver spells it"),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="gpu, mig or cpu"),
        sa.Column("parent", sa.String(length=128), nullable=False, comment="GPU that a MIG instance is a slice of"),
        sa.Column("pod", sa.String(length=512), nullable=False, comment="namespace/pod that had it last"),
        sa.Column("read_id", sa.BigInteger(), nullable=False, comment="the last record of samples that is in here"),
        sa.PrimaryKeyConstraint("uuid", "first_ns"),
    )
    comment = "JSON: UUIDs of its GPUs, as far as anybody told"
    op.add_column("boots", sa.Column("gpu_uuids", sa.Text(), nullable=False, server_default="[]", comment=comment))
