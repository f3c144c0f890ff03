"""The database behind a ledger: its connections, its transactions and its schema, in SQLite or PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from farthing.domain.errors import LedgerError

__all__ = [
    "PERIODS_LOCK",
    "advisory_lock",
    "bare_engine",
    "is_postgresql",
    "knows_revision",
    "migrate",
    "open_engine",
    "snapshot",
    "transaction",
]

LOCK_SECONDS = 30
"""How long a writer waits in SQLite while others write."""
SQLITE_PRAGMAS = (
    f"busy_timeout={LOCK_SECONDS * 1000}",  # ms; before what two programs may do at once
    "journal_mode=WAL",  # the page reads while intake writes
    "synchronous=FULL",  # an acknowledged record survives a power cut
    "foreign_keys=ON",
    "cache_size=-32768",  # KiB, of each connection
)
POSTGRESQL_OPTIONS = {
    "application_name": "farthing",
    "client_encoding": "utf8",  # COPY sends bytes
    "connect_timeout": "10",  # s
    "tcp_user_timeout": "30000",  # ms, until a server that vanished without a word is given up
}
"""libpq's options (PostgreSQL's documentation, "Parameter Key Words"), where the URL does not set them."""

PERIODS_LOCK = "periods"
"""Name of the lock that postings share, so that no period closes meanwhile, and that a closing has to itself."""
_WRITES = "farthing_writes"
"""Execution option of a connection whose transactions write."""
_FULL = ("database or disk is full", "could not extend file", "No space left on device", "disk quota exceeded")


@contextmanager
def transaction(engine: Engine, *, write: bool = False) -> Iterator[Connection]:
    """A connection within one transaction, which commits at the end of the block unless that raises.

    One that will write has to say so at once: in SQLite a transaction that has read before waits for nobody else's
    writing and fails. One that does not sees one moment, however many queries it takes. Raises LedgerError of one line
    when the database fails, without a word of what was written, ``of_row`` when that is what it refuses.
    """
    driver_errors = engine.dialect.loaded_dbapi.Error
    options: dict[str, Any] = {_WRITES: write}
    if is_postgresql(engine) and not write:
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.connect() as connection, connection.execution_options(**options).begin():
            yield connection
    except (SQLAlchemyError, OverflowError, driver_errors) as error:
        of_row = isinstance(error, DataError | IntegrityError | OverflowError)
        raise LedgerError(f"ledger {_safe(engine.url)}: {_reason(error)}", of_row=of_row) from error


def snapshot(engine: Engine) -> AbstractContextManager[Connection]:
    """A transaction that reads, and sees one moment however long it takes. Errors as above."""
    return transaction(engine)


def is_postgresql(bind: Engine | Connection) -> bool:
    """Whether it is PostgreSQL, and not SQLite."""
    return bind.dialect.name == "postgresql"


def advisory_lock(connection: Connection, name: str, *, shared: bool = False) -> None:
    """Wait until no other transaction holds PostgreSQL's lock of that name, and hold it to the end of this one.

    ``shared`` waits for and keeps off only those that do not share it. Nothing in SQLite: there a transaction that
    writes is alone anyway.
    """
    if is_postgresql(connection):
        lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        connection.exec_driver_sql(f"SELECT {lock}(hashtextextended(%s, 0))", (f"farthing {name}",))


def open_engine(url: str) -> Engine:
    """An engine on a SQLAlchemy URL, its database created or migrated to the current schema.

    Raises LedgerError when the URL is wrong, the database cannot be reached or is newer than this version.
    """
    engine = bare_engine(url)
    try:
        migrate(engine)
    except LedgerError:
        engine.dispose()
        raise
    return engine


def bare_engine(url: str) -> Engine:
    """An engine on a SQLAlchemy URL, whatever its database holds. Raises LedgerError when the URL is wrong."""
    try:
        return _engine(make_url(url))
    except ModuleNotFoundError as error:
        raise LedgerError(f"ledger {_safe(url)}: needs {error.name}; pip install 'farthing[postgres]'") from error
    except (ArgumentError, SQLAlchemyError, OSError) as error:
        raise _not_opened(url, error) from error


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to a revision, in one transaction.

    Raises LedgerError when the database cannot be reached or has a schema that this version does not know.
    """
    config = _config()
    try:
        with engine.connect() as connection, connection.execution_options(**{_WRITES: True}).begin():
            # two programs may open a new ledger at the same moment
            advisory_lock(connection, "migration")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except (SQLAlchemyError, OSError) as error:
        raise _not_opened(engine.url, error) from error
    except Exception as error:  # alembic raises plain exceptions for an unknown revision
        raise LedgerError(f"ledger {_safe(engine.url)}: cannot be migrated ({error})") from error


def knows_revision(revision: str) -> bool:
    """Whether there are migrations up to this revision of the schema."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        in_file = url.database not in (None, "", ":memory:")
        # the connection that was used last has the pages that are wanted next, and the others stay small
        pool: dict[str, Any] = {"pool_use_lifo": True} if in_file else {}
        engine = sa.create_engine(url, pool_pre_ping=True, **pool)
        if in_file:
            sa.event.listen(engine, "do_connect", lambda *_: _new_file(Path(str(url.database))))
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    options = {name: value for name, value in POSTGRESQL_OPTIONS.items() if name not in url.query}
    engine = sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=options)
    if is_postgresql(engine):
        sa.event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _new_file(path: Path) -> None:
    """Make a ledger's file its owner's alone: it has every tenant's rows. SQLite gives its log the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Python's driver would begin transactions too late, and none at all before it creates a table
    connection.isolation_level = None
    for pragma in SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get(_WRITES):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite itself looks every 100 ms whether another writer is done, and a busy one would never be met resting
    raw: Any = connection.connection.driver_connection
    deadline = time.monotonic() + LOCK_SECONDS
    raw.execute("PRAGMA busy_timeout=5")
    try:
        while True:
            try:
                raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
    finally:
        raw.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000}")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # a server may answer before it has written; what intake acknowledges must be on disk
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _not_opened(url: str | URL, error: Exception) -> LedgerError:
    return LedgerError(f"ledger {_safe(url)}: cannot be opened ({_reason(error)}); check the URL and its folder")


def _reason(error: Exception) -> str:
    """What the database says, in one line, without the row it says it of."""
    cause = getattr(error, "orig", None) or error
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    reason = " ".join(str(primary or cause).split())
    if any(sign in reason for sign in _FULL):
        reason += "; free some of the disk: nothing that was acknowledged is lost, and writing goes on by itself"
    return reason


def _safe(url: str | URL) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not a database URL)"
