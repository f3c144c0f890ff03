"""The database behind the ledger: what transactions see, and what of an error is told."""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from farthing.domain.errors import LedgerError
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import bare_engine, is_postgresql, transaction
from farthing.ledger.repository import Ledger


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _record(sequence):
    return RawRecord(RecordKey("b", 0, sequence), "usage", 0, b"{}")


COUNT = sa.select(sa.func.count()).select_from(t.records)


def test_what_a_transaction_reads_is_of_one_moment(ledger):
    """A report of several queries must not show a bill of one moment and lines of the next."""
    ledger.add([_record(0)])
    with transaction(ledger.engine) as connection:
        assert connection.execute(COUNT).scalar() == 1
        ledger.add([_record(1)])
        assert connection.execute(COUNT).scalar() == 1
    assert ledger.select(COUNT) == [(2,)]


def test_a_connection_that_only_read_can_write_the_next_time(ledger):
    """Connections are used again and again; what one transaction was must not stick to them."""
    for number in range(3):
        assert ledger.select(COUNT) == [(number,)]
        ledger.add([_record(number)])


def _write(ledger, *rows, end=None):
    with transaction(ledger.engine, write=True) as connection:
        for row in rows:
            connection.execute(sa.insert(t.versions), row)
        if end:
            raise end


def test_a_block_that_raises_leaves_nothing(ledger):
    """And the mistake comes out as it is, unless it is the database's."""
    with pytest.raises(ZeroDivisionError):
        _write(ledger, {"kind": "price", "version": "v", "content": "c"}, end=ZeroDivisionError())
    assert ledger.select(sa.select(t.versions)) == []


def test_what_a_database_says_of_a_row_is_not_passed_on(ledger):
    """PostgreSQL adds the row that it refuses, which may end in a log; a URL has a password."""
    row = {"kind": "price", "version": "secret", "content": "very secret"}
    with pytest.raises(LedgerError) as caught:
        _write(ledger, row, row)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    password = ledger.engine.url.password
    assert password is None or password not in str(caught.value)


@pytest.mark.real
def test_a_server_that_answers_before_it_has_written_is_told_to_write_first(postgres):
    """Whatever its administrator chose for others."""
    url = postgres.database()
    postgres.execute(f"ALTER DATABASE {make_url(url).database} SET synchronous_commit = off")
    engine = bare_engine(url)
    assert is_postgresql(engine)
    with transaction(engine) as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    engine.dispose()
    postgres.drop(url)


def test_a_log_of_sqlite_is_on_disk_before_an_answer_is_given(tmp_path):
    """FULL syncs the log at each commit; NORMAL would not, and a power cut would take what was acknowledged."""
    engine = bare_engine(f"sqlite:///{tmp_path}/ledger.db")
    with transaction(engine) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


@pytest.mark.real
def test_a_transaction_that_did_not_say_that_it_writes_cannot(postgres):
    """In SQLite it might fail only when somebody else writes too, which is found too late."""
    url = postgres.database()
    ledger = Ledger.open(url)
    with pytest.raises(LedgerError, match="read-only transaction"), transaction(ledger.engine) as connection:
        connection.execute(sa.insert(t.versions), {"kind": "price", "version": "v", "content": "c"})
    ledger.close()
    postgres.drop(url)


def test_a_new_ledgers_files_are_their_owners_alone(tmp_path):
    """Tokens keep tenants apart; a file that every user of the host may read would not. An old one keeps its mode."""
    url = f"sqlite:///{tmp_path}/deep/ledger.db"
    for mode in (0o600, 0o640):
        ledger = Ledger.open(url)
        try:
            assert {path.stat().st_mode & 0o777 for path in (tmp_path / "deep").iterdir()} == {mode}
        finally:
            ledger.close()
        (tmp_path / "deep/ledger.db").chmod(0o640)
