"""Many rows with one statement: SQLite's driver gives the interpreter away at each row of ``executemany``.

In a busy service another thread takes it each time, and to get it back takes longer than the row. PostgreSQL's driver
sends the rows of ``executemany`` in one go by itself. Statements are in the driver's own words, since SQLAlchemy would
make each of so many rows anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from farthing.ledger.database import is_postgresql

__all__ = ["add_to", "insert_new_rows", "insert_rows", "mark", "taken", "update_rows"]

Row = tuple[Any, ...]

_AT_ONCE = (64, 16, 4, 1)
"""Rows of a statement: few lengths, since each is compiled once; more would be more values than one may have."""


def mark(connection: Connection) -> str:
    """The driver's mark for a value."""
    return _mark(connection.dialect.name)


def insert_rows(
    connection: Connection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], ending: str = ""
) -> None:
    """Insert rows; ``ending`` is what stands behind them, such as what to do where one is there."""
    if not rows:
        return
    dialect = connection.dialect.name
    if is_postgresql(connection):
        connection.exec_driver_sql(_inserting(table, columns, dialect) + ending, list(rows))
        return
    for some in _slices(rows):
        connection.exec_driver_sql(_inserting(table, columns, dialect, len(some)) + ending, _flat(some))


def insert_new_rows(
    connection: Connection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], key: tuple[str, ...]
) -> set[Row]:
    """Insert rows whose ``key`` is not there yet, and return the keys of those that were inserted.

    The key's columns, two or more, are unique together. Of rows that are alike the first is inserted.
    """
    added: set[Row] = set()
    dialect = connection.dialect.name
    key_of = itemgetter(*map(columns.index, key))
    # nearly always all are new, which needs no word from the database; after a restart none is
    maybe_new = not is_postgresql(connection)
    for some in _slices(rows):
        insert, given = _inserting(table, columns, dialect, len(some)), _flat(some)
        if maybe_new:
            try:
                connection.exec_driver_sql(insert, given)
            except IntegrityError:
                # SQLite has taken back what the statement did, and nothing else
                maybe_new = False
            else:
                added.update(map(key_of, some))
                continue
        insert += f" ON CONFLICT DO NOTHING RETURNING {', '.join(key)}"
        added.update(map(tuple, connection.exec_driver_sql(insert, given)))
    return added


def taken(added: set[Row], key: Row) -> bool:
    """Whether a row of ``insert_new_rows`` was added; said once, of the first that brought it."""
    if key in added:
        added.remove(key)
        return True
    return False


def add_to(connection: Connection, table: sa.Table, sums: dict[Row, tuple[int, ...]]) -> None:
    """Add to a table of sums: key columns -> amounts, in the order of the table's columns."""
    rows = [(*key, *amounts) for key, amounts in sorted(sums.items(), key=itemgetter(0))]
    insert_rows(connection, table, tuple(column.name for column in table.columns), rows, _adding(table))


def update_rows(
    connection: Connection, table: sa.Table, sets: tuple[str, ...], condition: str, rows: Sequence[Row]
) -> None:
    """SQLite: change the rows of ``condition``, in which ``new.column1`` is a row's first value, as in ``sets``.

    Each row of the table is meant by one of ``rows`` at most.
    """
    for some in _slices(rows):
        connection.exec_driver_sql(_updating(table, sets, condition, len(some), len(some[0])), _flat(some))


def _slices(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    begin = 0
    while begin < len(rows):
        count = next(size for size in _AT_ONCE if size <= len(rows) - begin)
        yield rows[begin : begin + count]
        begin += count


def _flat(rows: Sequence[Row]) -> Row:
    return tuple(chain.from_iterable(rows))


@cache
def _inserting(table: sa.Table, columns: tuple[str, ...], dialect: str, count: int = 1) -> str:
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES {_values(count, len(columns), dialect)}"  # noqa: S608 - names of ours  # nosec B608


@cache
def _adding(table: sa.Table) -> str:
    """The end of an INSERT that adds to the row of its key, where there is one."""
    keys = ", ".join(column.name for column in table.primary_key.columns)
    names = [column.name for column in table.columns if not column.primary_key]
    added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in names)
    return f" ON CONFLICT ({keys}) DO UPDATE SET {added}"  # nosec B608


@cache
def _updating(table: sa.Table, sets: tuple[str, ...], condition: str, count: int, width: int) -> str:
    values = _values(count, width, "sqlite")
    return f"UPDATE {table.name} SET {', '.join(sets)} FROM (VALUES {values}) AS new WHERE {condition}"  # noqa: S608 - names of ours  # nosec B608


def _values(rows: int, columns: int, dialect: str) -> str:
    row = f"({', '.join([_mark(dialect)] * columns)})"
    return ", ".join([row] * rows)


def _mark(dialect: str) -> str:
    return "%s" if dialect == "postgresql" else "?"
