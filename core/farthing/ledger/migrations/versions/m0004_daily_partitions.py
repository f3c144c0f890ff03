"""Requests and journal in daily partitions, in PostgreSQL; their rows move there."""

import sqlalchemy as sa
from alembic import op

from farthing.ledger.append_only import protect
from farthing.ledger.partitions import DAY, make_room

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Turn the two tables into partitioned ones with the same rows, indexes and triggers."""
    if op.get_bind().dialect.name == "sqlite":
        return
    _partition("requests", "ended_wall_ns", ("boot", "process", "sequence"))
    op.create_index("ix_requests_ended_wall_ns", "requests", ["ended_wall_ns"])
    op.create_index("ix_requests_request_id", "requests", ["request_id"])
    _partition("journal", "wall_start_ns", ("id",))
    op.create_index("ix_journal_wall_start_ns", "journal", ["wall_start_ns"])
    op.create_index("ix_journal_boot_engine_index_start_ns", "journal", ["boot", "engine_index", "start_ns"])
    protect(op.get_bind(), "journal")


def _partition(table: str, column: str, key: tuple[str, ...]) -> None:
    bind, old = op.get_bind(), f"{table}_whole"
    op.rename_table(table, old)
    like = f"LIKE {old} INCLUDING DEFAULTS INCLUDING COMMENTS"
    op.execute(f"CREATE TABLE {table} ({like}) PARTITION BY RANGE ({column})")
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    days = bind.execute(sa.text(f"SELECT DISTINCT {column} / {DAY} FROM {old}")).scalars()
    make_room(bind, table, [day * DAY for day in days])
    op.execute(f"INSERT INTO {table} SELECT * FROM {old}")
    for name in key:
        # the sequence that numbers the rows would go with the old table
        sequence = bind.execute(sa.text(f"SELECT pg_get_serial_sequence('{old}', '{name}')")).scalar()
        if sequence:
            op.execute(f"ALTER SEQUENCE {sequence} OWNED BY {table}.{name}")
    op.drop_table(old)
    # after the rows, which is quicker, and after the old table, whose names they take
    op.create_primary_key(f"{table}_pkey", table, [*key, column])
