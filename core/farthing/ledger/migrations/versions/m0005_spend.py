"""Spend: budgets' events, which engines have a probe, which have no price."""

import sqlalchemy as sa
from alembic import op

from farthing.ledger.append_only import protect

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; engines whose probes have reported are found in the inbox for the last time."""
    op.create_table(
        "budget_events",
        sa.Column("budget", sa.String(length=1600), nullable=False, comment="its scope: tenant=… project=… model=…"),
        sa.Column("monthly_nano", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("threshold_ppm", sa.BigInteger(), nullable=False, comment="share of the budget, in millionths"),
        sa.Column("spent_nano", sa.BigInteger(), nullable=False, comment="settled spend when it was seen"),
        sa.Column("at_ns", sa.BigInteger(), nullable=False, comment="UTC when it was seen"),
        sa.PrimaryKeyConstraint("budget", "monthly_nano", "month", "threshold_ppm"),
    )
    op.create_table(
        "probed_engines",
        sa.Column("engine", sa.String(length=128), nullable=False),
        sa.Column(
            "first_id", sa.BigInteger(), nullable=False, comment="record in whose arrival its probe first reported"
        ),
        sa.PrimaryKeyConstraint("engine"),
    )
    op.create_table(
        "unpriced_engines",
        sa.Column("engine", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("gpu", sa.String(length=128), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False, comment="UTC; its work since then is in no amount"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("engine"),
    )
    bind = op.get_bind()
    bind.execute(
        sa.text(
            "INSERT INTO probed_engines SELECT boots.engine, min(records.id) FROM boots "
            "JOIN records ON records.boot = boots.boot AND records.kind = 'started' "
            "WHERE boots.boot NOT LIKE 'scrape:%' GROUP BY boots.engine"
        )
    )
    protect(bind, "budget_events")
