"""Seals of what was pruned, and a log of erasures; both append-only."""

import sqlalchemy as sa
from alembic import op

from farthing.ledger.append_only import protect

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "seals",
        sa.Column("number", number, autoincrement=False, nullable=False),
        sa.Column("table_name", sa.String(length=32), nullable=False, comment="whose rows may be deleted, or are"),
        sa.Column(
            "period",
            sa.String(length=7),
            nullable=False,
            comment="that the rows were posted in, or that the boot ended in",
        ),
        sa.Column("boot", sa.String(length=128), nullable=False, comment="whose rows; empty: all of the period"),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("sums", sa.Text(), nullable=False, comment="JSON: what the rows added to the tables of sums"),
        sa.Column(
            "digest", sa.String(length=64), nullable=False, comment="SHA-256 over the rows; of records, their evidence"
        ),
        sa.Column("pruned_ns", sa.BigInteger(), nullable=False, comment="UTC"),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="over this row and the one before"),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("table_name", "period", "boot", name=op.f("uq_seals_table_name_period_boot")),
    )
    op.create_table(
        "erasures",
        sa.Column("number", number, autoincrement=False, nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False, comment="UTC"),
        sa.Column("records", sa.BigInteger(), nullable=False, comment="whose user was removed; never who it was"),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="over this row and the one before"),
        sa.PrimaryKeyConstraint("number"),
    )
    for table in ("seals", "erasures"):
        protect(op.get_bind(), table)
