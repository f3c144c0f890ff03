"""Backup and restore: the whole of a ledger as it was at one moment, from and into either database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection, Engine

from farthing.domain.errors import LedgerError
from farthing.ledger.backup_file import CHUNK, BackupReader, BackupWriter, ColumnEntry, Manifest, Progress, Row
from farthing.ledger.database import bare_engine, is_postgresql, knows_revision, migrate, snapshot, transaction
from farthing.ledger.partitions import make_room, partition_names
from farthing.ledger.repository import Ledger
from farthing.ledger.tables import metadata

__all__ = ["back_up", "open_existing", "restore"]

_TYPES = {"integer": "int8", "text": "text", "bytes": "bytea"}
_DAY_OF = {"requests": "ended_wall_ns", "journal": "wall_start_ns"}
"""By which column PostgreSQL partitions a table."""


def _silent(_table: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def back_up(url: str, path: Path, *, made_ns: int, force: bool = False, progress: Progress = _silent) -> Manifest:
    """Write every table of the ledger at a URL, as they are at one moment, into one file; returns what is in it.

    Others go on writing meanwhile. ``made_ns`` is UTC. The schema stays as it is, also an older one. Raises LedgerError
    when there is no ledger, when the file exists and ``force`` is not given, or when it cannot be written.
    """
    with _existing_ledger(url) as engine:
        writer = BackupWriter(path, force=force)
        try:
            with snapshot(engine) as connection:
                tables = []
                for name, columns in _tables(connection).items():
                    total = int(connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one())  # noqa: S608  # nosec B608
                    counted = _counted(_read(connection, name, columns), name, total, progress)
                    tables.append(writer.table(name, columns, counted))
                revision = _revision(connection)
            manifest = Manifest(str(revision), made_ns, engine.dialect.name, tuple(tables))
            writer.finish(manifest)
        except OSError as error:
            writer.abandon()
            raise LedgerError(f"{path}: cannot be written ({error.strerror}); there is no backup of it now") from error
        except BaseException:
            writer.abandon()
            raise
    return manifest


def restore(url: str, path: Path, *, progress: Progress = _silent) -> Manifest:
    """Fill the empty ledger at a URL with a backup, in one transaction; returns what was in it.

    The file is read and checked to its end before anything is written. Raises LedgerError when it is not whole and
    unchanged, is of a newer version, or when the ledger holds anything already.
    """
    with BackupReader(path) as reader:
        manifest = reader.manifest
        if not knows_revision(manifest.revision):
            raise LedgerError(
                f"{path}: has schema {manifest.revision}, which this version does not know; restore it with a newer one"
            )
        reader.check(progress)
        engine = bare_engine(url)
        try:
            _make_empty(engine, manifest.revision)
            with transaction(engine, write=True) as connection:
                # somebody may have begun to write since
                _refuse_rows(connection)
                known = _tables(connection)
                partitioned = bool(partition_names(connection))
                for table in manifest.tables:
                    names = [column.name for column in table.columns]
                    if sorted(names) != sorted(column.name for column in known.get(table.name, ())):
                        raise LedgerError(f"{path}: table {table.name} has other columns than its schema says")
                    done = 0
                    for chunk in reader.chunks(table):
                        if partitioned and table.name in _DAY_OF:
                            place = names.index(_DAY_OF[table.name])
                            make_room(connection, table.name, (row[place] for row in chunk))
                        _write(connection, table.name, names, chunk)
                        done += len(chunk)
                        progress(table.name, done, table.rows)
                    _number_on(connection, table.name, names)
            migrate(engine)
        finally:
            engine.dispose()
    return manifest


# ---- reading -----------------------------------------------------------------------------------------


@contextmanager
def _existing_ledger(url: str) -> Iterator[Engine]:
    """An engine on a database that is there, whatever its schema: opening SQLite would make an empty one.

    Raises LedgerError when there is none.
    """
    engine = bare_engine(url)
    try:
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        if file and not Path(file).exists():
            raise LedgerError(f"ledger {engine.url.render_as_string()}: there is none; check ledger: in farthing.yaml")
        yield engine
    finally:
        engine.dispose()


def open_existing(url: str) -> Ledger:
    """The ledger at a URL that is there: a mistyped SQLite path must not make a new one.

    Raises LedgerError when there is none.
    """
    with _existing_ledger(url):
        pass
    return Ledger.open(url)


def _tables(connection: Connection) -> dict[str, tuple[ColumnEntry, ...]]:
    """The ledger's tables that there are, with their columns. Raises LedgerError when it holds none of them."""
    inspector = sa.inspect(connection)
    there = set(inspector.get_table_names()) - partition_names(connection)
    names = [str(table.name) for table in metadata.sorted_tables if table.name in there]
    if _revision(connection) is None or not names:
        url = connection.engine.url.render_as_string(hide_password=True)
        raise LedgerError(f"ledger {url}: holds no ledger; check ledger: in farthing.yaml")
    return {name: tuple(_column(column) for column in inspector.get_columns(name)) for name in names}


def _column(column: Any) -> ColumnEntry:
    kinds = ((sa.LargeBinary, "bytes"), (sa.Integer, "integer"), (sa.String, "text"))
    return ColumnEntry(str(column["name"]), next(kind for cls, kind in kinds if isinstance(column["type"], cls)))


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _read(connection: Connection, table: str, columns: Sequence[ColumnEntry]) -> Iterator[list[Row]]:
    """The rows of a table in chunks, by COPY in PostgreSQL."""
    driver: Any = connection.connection.driver_connection
    if not is_postgresql(connection):
        names = ", ".join(column.name for column in columns)
        cursor = driver.execute(f"SELECT {names} FROM {table}")  # noqa: S608 - names of ours  # nosec B608
        while rows := cursor.fetchmany(CHUNK):
            yield rows
        return
    # integers of one width: a binary COPY tells them apart, a backup does not
    selected = ", ".join(f"{column.name}::{_TYPES[column.kind]}" for column in columns)
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY (SELECT {selected} FROM {table}) TO STDOUT (FORMAT BINARY)") as copy,  # noqa: S608  # nosec B608
    ):
        copy.set_types([_TYPES[column.kind] for column in columns])
        chunk: list[Row] = []
        for row in copy.rows():
            chunk.append(row)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _counted(chunks: Iterator[list[Row]], table: str, total: int, progress: Progress) -> Iterator[list[Row]]:
    done = 0
    progress(table, 0, total)
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        progress(table, done, total)


# ---- writing -----------------------------------------------------------------------------------------


def _make_empty(engine: Engine, revision: str) -> None:
    """Give an empty database the schema of the backup, and refuse one that is not empty or has another."""
    with transaction(engine) as connection:
        found = _revision(connection)
        if found is not None:
            _refuse_rows(connection)
    if found is None:
        migrate(engine, revision)
    elif found != revision:
        url = engine.url.render_as_string(hide_password=True)
        raise LedgerError(
            f"ledger {url}: has schema {found} and the backup {revision}; restore into a database without tables"
        )


def _refuse_rows(connection: Connection) -> None:
    for name in _tables(connection):
        if connection.execute(sa.text(f"SELECT 1 FROM {name} LIMIT 1")).first():  # noqa: S608 - a name of ours  # nosec B608
            url = connection.engine.url.render_as_string(hide_password=True)
            raise LedgerError(
                f"ledger {url}: is not empty (table {name} has rows); restore into a new one and put it in its place"
            )


def _write(connection: Connection, table: str, names: Sequence[str], rows: list[Row]) -> None:
    """Add rows, by COPY in PostgreSQL."""
    if not is_postgresql(connection):
        places = ", ".join("?" * len(names))
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})"  # noqa: S608 - names of the schema's  # nosec B608
        connection.exec_driver_sql(insert, rows)
        return
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _number_on(connection: Connection, table: str, names: Sequence[str]) -> None:
    """Let PostgreSQL number new rows after those that are there; SQLite does so by itself."""
    if not is_postgresql(connection):
        return
    for name in names:
        sequence = connection.execute(
            sa.text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table, "column": name}
        ).scalar()
        if sequence:
            highest = f"SELECT max({name}) FROM {table}"  # noqa: S608 - names of the schema's  # nosec B608
            last = connection.execute(sa.text(highest)).scalar()
            if last is not None:
                connection.execute(sa.text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last})
