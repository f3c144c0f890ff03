"""Puts records into the inbox as fast as the database takes them: many rows a statement, COPY in PostgreSQL.

Two transactions that write at once are made to follow each other. What is read in order of arrival, by ascending
number, would otherwise pass over a row whose number was drawn earlier and committed later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

from sqlalchemy.engine import Connection

from farthing.domain.records import RawRecord
from farthing.ledger import tables as t
from farthing.ledger.database import advisory_lock, is_postgresql
from farthing.ledger.many_rows import insert_new_rows, taken

__all__ = ["add_batches", "copy_bytes"]

_COLUMNS = ("boot", "process", "sequence", "kind", "event_ns", "line")
_COPY = "COPY {} (boot, process, sequence, kind, event_ns, line) FROM STDIN (FORMAT BINARY)"
_STAGING = (
    "CREATE TEMPORARY TABLE arriving (arrival integer GENERATED ALWAYS AS IDENTITY, boot varchar, process integer, "
    "sequence bigint, kind varchar, event_ns bigint, line bytea) ON COMMIT DROP"
)
_FROM_STAGING = (
    "INSERT INTO records (boot, process, sequence, kind, event_ns, line) "
    "SELECT boot, process, sequence, kind, event_ns, line FROM arriving "
    "WHERE arrival > %s AND arrival <= %s ORDER BY arrival ON CONFLICT DO NOTHING"
)
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack("!h", -1)
_UNIQUE_VIOLATION = "23505"


def add_batches(connection: Connection, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
    """Store the records that are not there yet, in the transaction at hand; returns how many of each batch were new.

    Errors are those of the database's driver, or SQLAlchemy's.
    """
    if is_postgresql(connection):
        return _copy_new(connection, batches)
    rows = [list(map(_row, batch)) for batch in batches]
    added = insert_new_rows(connection, t.records, _COLUMNS, list(chain.from_iterable(rows)), _COLUMNS[:3])
    return [sum(taken(added, row[:3]) for row in batch) for batch in rows]


def _row(record: RawRecord) -> tuple[str, int, int, str, int, bytes]:
    key = record.key
    return key.boot, key.process, key.sequence, record.kind, record.event_ns, record.line


def _copy_new(connection: Connection, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
    """COPY straight into the inbox, which is all that new records need; with known ones among them by a detour."""
    try:
        rows = copy_bytes(chain.from_iterable(batches))
    except struct.error as error:
        raise OverflowError(f"a record holds a number that its column has no room for ({error})") from error
    advisory_lock(connection, "ingest")
    driver: Any = connection.connection.driver_connection
    try:
        with connection.begin_nested():
            _copy(driver, "records", rows)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        if getattr(error, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
    else:
        return list(map(len, batches))
    connection.exec_driver_sql(_STAGING)
    _copy(driver, "arriving", rows)
    ends = list(accumulate(map(len, batches), initial=0))
    return [connection.exec_driver_sql(_FROM_STAGING, span).rowcount for span in pairwise(ends)]


def _copy(driver: Any, table: str, rows: bytes) -> None:
    with driver.cursor() as cursor, cursor.copy(_COPY.format(table)) as copy:
        copy.write(rows)


def copy_bytes(records: Iterable[RawRecord]) -> bytes:
    """The records in COPY's binary format (PostgreSQL's documentation, COPY, "Binary Format")."""
    packers: dict[tuple[str, str], Callable[..., bytes]] = {}
    parts = [_HEADER]
    for record in records:
        key, line = record.key, record.line
        alike = (key.boot, record.kind)
        pack = packers.get(alike)
        if pack is None:
            pack = packers[alike] = _packer(*alike)
        parts += (pack(key.process, key.sequence, record.event_ns, len(line)), line)
    parts.append(_TRAILER)
    return b"".join(parts)


def _packer(boot: str, kind: str) -> Callable[[int, int, int, int], bytes]:
    """Makes a row up to its line, of the records of a boot and kind: of six fields, each after its length."""
    first, fourth = boot.encode(), kind.encode()
    head = struct.pack(f"!hi{len(first)}si", 6, len(first), first, 4)
    middle = struct.pack(f"!i{len(fourth)}si", len(fourth), fourth, 8)
    pack = struct.Struct(f"!{len(head)}siiq{len(middle)}sqi").pack
    return lambda process, sequence, event_ns, size: pack(head, process, 8, sequence, middle, event_ns, size)
