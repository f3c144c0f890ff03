"""Drops whole partitions in PostgreSQL whose rows are all sealed: quicker than rows, and the space is free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from farthing.books.periods import bounds
from farthing.domain.clock import SECOND
from farthing.ledger import tables as t
from farthing.ledger.database import is_postgresql, transaction
from farthing.ledger.partitions import partition_names

__all__ = ["drop_partitions"]

_NAME = re.compile(r"^(?P<table>journal|requests)_(?P<day>\d{8})$")


def drop_partitions(engine: Engine, through: str) -> Iterator[int]:
    """Drop the journal's partitions that hold nothing posted after a sealed period; says how many rows each had.

    Rows of that period and before that share a partition with later ones stay. Nothing in SQLite.
    """
    if not is_postgresql(engine):
        return
    with transaction(engine) as connection:
        names = sorted(partition_names(connection))
    for name in names:
        if _day(name, t.journal.name) < bounds(through)[1]:
            with transaction(engine, write=True) as connection:
                rows = _drop(connection, name, through)
            if rows:
                yield rows


def _day(name: str, table: str) -> int:
    """The first UTC nanosecond of the day of a table's partition; of any other table, never."""
    found = _NAME.match(name)
    if found is None or found["table"] != table:
        return 2**63
    return int(datetime.strptime(found["day"], "%Y%m%d").replace(tzinfo=UTC).timestamp()) * SECOND


def _drop(connection: Connection, name: str, through: str) -> int:
    # nobody adds a row between the look and the drop
    connection.execute(sa.text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
    rows, last = connection.execute(sa.text(f"SELECT count(*), max(period) FROM {name}")).one()  # noqa: S608  # nosec B608
    if last is not None and last > through:
        return 0
    connection.execute(sa.text(f"DROP TABLE {name}"))
    return int(rows)
