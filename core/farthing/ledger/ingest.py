"""Puts records into the inbox as fast as the database takes them: many rows a statement, COPY in PostgreSQL.

Two transactions that write at once are made to follow each other. What is read in order of arrival, by ascending
number, would otherwise pass over a row whose number was drawn earlier and committed later.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from farthing.domain.records import RawRecord
from farthing.ledger.database import advisory_lock, is_postgresql

__all__ = ["add_records", "copy_bytes"]

_INSERT = (
    "INSERT INTO records (boot, process, sequence, kind, event_ns, line) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_COPY = "COPY {} (boot, process, sequence, kind, event_ns, line) FROM STDIN (FORMAT BINARY)"
_STAGING = (
    "CREATE TEMPORARY TABLE arriving (arrival integer GENERATED ALWAYS AS IDENTITY, boot varchar, process integer, "
    "sequence bigint, kind varchar, event_ns bigint, line bytea) ON COMMIT DROP"
)
_FROM_STAGING = (
    "INSERT INTO records (boot, process, sequence, kind, event_ns, line) "
    "SELECT boot, process, sequence, kind, event_ns, line FROM arriving ORDER BY arrival ON CONFLICT DO NOTHING"
)
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack("!h", -1)
_UNIQUE_VIOLATION = "23505"


def add_records(connection: Connection, records: Sequence[RawRecord]) -> int:
    """Store the records that are not there yet, in the transaction at hand; returns how many were new.

    Errors are those of the database's driver, or SQLAlchemy's.
    """
    if is_postgresql(connection):
        return _copy_new(connection, records)
    rows = [
        (key.boot, key.process, key.sequence, record.kind, record.event_ns, record.line)
        for record in records
        for key in (record.key,)
    ]
    return connection.exec_driver_sql(_INSERT, rows).rowcount


def _copy_new(connection: Connection, records: Sequence[RawRecord]) -> int:
    """COPY straight into the inbox, which is all that new records need; with known ones among them by a detour."""
    advisory_lock(connection, "ingest")
    driver: Any = connection.connection.driver_connection
    try:
        rows = copy_bytes(records)
    except struct.error as error:
        raise OverflowError(f"a record holds a number that its column has no room for ({error})") from error
    try:
        with connection.begin_nested():
            return _copy(driver, "records", rows)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        if getattr(error, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
    connection.exec_driver_sql(_STAGING)
    _copy(driver, "arriving", rows)
    return connection.exec_driver_sql(_FROM_STAGING).rowcount


def _copy(driver: Any, table: str, rows: bytes) -> int:
    with driver.cursor() as cursor:
        with cursor.copy(_COPY.format(table)) as copy:
            copy.write(rows)
        return int(cursor.rowcount)


def copy_bytes(records: Sequence[RawRecord]) -> bytes:
    """The records in COPY's binary format (PostgreSQL's documentation, COPY, "Binary Format")."""
    parts = [_HEADER]
    for record in records:
        key, line = record.key, record.line
        boot, kind = key.boot.encode(), record.kind.encode()
        parts.append(
            struct.pack(
                f"!hi{len(boot)}siiiqi{len(kind)}siqi",
                6,  # fields, each after its length
                len(boot),
                boot,
                4,
                key.process,
                8,
                key.sequence,
                len(kind),
                kind,
                8,
                record.event_ns,
                len(line),
            )
        )
        parts.append(line)
    parts.append(_TRAILER)
    return b"".join(parts)
