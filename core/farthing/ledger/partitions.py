"""Daily partitions of the tables that grow with traffic, in PostgreSQL; SQLite has none.

``requests`` is partitioned by ``ended_wall_ns``, ``journal`` by ``wall_start_ns``, UTC nanoseconds. The partition of a
day, ``journal_20261126`` for example, is made when the first row of the day before, or of the day itself, is written.
Rows of no day that a clock should show, and those of a day that has no partition, are in the default partition: where a
row lies changes no figure. Since a partition's column has to be part of every unique key, the primary keys are wider
than in ``tables`` by that column, which a row's record determines.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from farthing.domain.clock import SECOND
from farthing.ledger.database import advisory_lock, is_postgresql, transaction

__all__ = ["DAY", "Rooms", "make_room", "partition_names"]

DAY = 86_400 * SECOND
_DAYS = range(18_262, 47_482)
"""Days since the epoch from 2020 to 2099: a wild clock makes no partitions."""
# not to_regclass of each: it answers from a cache that does not see what others commit meanwhile
_THERE = sa.text(
    "SELECT relname FROM pg_class WHERE relname = ANY(CAST(:names AS text[])) "
    "AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(:table))"
)


class Rooms:
    """Makes partitions before a posting, in transactions of their own: whoever reads waits for that alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: set[tuple[str, int]] = set()

    def make(self, table: str, moments: Iterable[int]) -> None:
        """As ``make_room``, asking the database once for each day. Raises LedgerError."""
        if not is_postgresql(self._engine):
            return
        days = {(table, moment // DAY) for moment in moments} - self._known
        if days:
            with transaction(self._engine, write=True) as connection:
                make_room(connection, table, [day * DAY for _, day in days])
            self._known |= days


def make_room(connection: Connection, table: str, moments: Iterable[int]) -> None:
    """See to it that rows of these UTC nanoseconds have their partitions, and that the day after them has one."""
    if not is_postgresql(connection):
        return
    days = {moment // DAY for moment in moments}
    wanted = {day: _name(table, day) for day in sorted(days | {day + 1 for day in days}) if day in _DAYS}
    if not wanted:
        return
    missing = _missing(connection, table, wanted)
    if missing:
        # another program may make the same ones
        advisory_lock(connection, "partitions")
        for day, name in _missing(connection, table, missing).items():
            _make(connection, table, day, name)


def partition_names(connection: Connection) -> set[str]:
    """The tables that are partitions of others."""
    if not is_postgresql(connection):
        return set()
    query = "SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.relkind = 'r'"
    return set(connection.execute(sa.text(query)).scalars())


def _name(table: str, day: int) -> str:
    return f"{table}_{datetime.fromtimestamp(day * DAY // SECOND, UTC):%Y%m%d}"


def _missing(connection: Connection, table: str, wanted: dict[int, str]) -> dict[int, str]:
    """Those of no name that is taken: a partition that was detached is not made again."""
    there = set(connection.execute(_THERE, {"table": table, "names": list(wanted.values())}).scalars())
    return {day: name for day, name in wanted.items() if name not in there}


def _make(connection: Connection, table: str, day: int, name: str) -> None:
    try:
        # made apart and attached, since CREATE TABLE ... PARTITION OF would lock the whole table against readers
        with connection.begin_nested():
            connection.execute(sa.text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
            span = f"FROM ({day * DAY}) TO ({(day + 1) * DAY})"
            connection.execute(sa.text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES {span}"))
    except IntegrityError:
        # the default partition holds rows of that day: the rest of the day goes there too
        return
