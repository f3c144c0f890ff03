"""Which span a request was, what it was estimated to cost, and requests by trace."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and an index; the spans of earlier requests are not known."""
    for name, comment in (("span_id", "of the edge span"), ("parent_span_id", "of the caller's span")):
        column = sa.Column(name, sa.String(length=16), nullable=False, server_default="", comment=comment)
        op.add_column("requests", column)
    comment = "at the prices that the probe knew; NULL: one was not known"
    op.add_column("requests", sa.Column("estimate_nano", sa.BigInteger(), nullable=True, comment=comment))
    traced = sa.text("trace_id <> ''")
    op.create_index("ix_requests_trace_id", "requests", ["trace_id"], sqlite_where=traced, postgresql_where=traced)
