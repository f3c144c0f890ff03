"""Verifying: books that are right are all green, and one number that was changed anywhere is found and named."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from tests.ledger.booked import close, fill
from tests.service.books import accountant, raw_records

from farthing.domain.model import Check
from farthing.ledger import tables as t
from farthing.ledger.append_only import allow, protect
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import CHECKS, verify, verify_within
from farthing.ledger.verify_sums import Scope
from farthing.replay.recording import load_recording
from farthing.settings import CostingSettings, Settings

TOLD_ONCE = {
    "boots": {"gpu_count", "energy_last_mj", "lost", "refused", "billed_from_ns", "read_id"},
    "dispute_marks": {"id", "at_ns"},
    "fits": {"engine_index"},
    "journal": {"id"},
}
"""Numbers that nothing else in the ledger tells: docs/ledger.md says so."""
EMPTY = {
    "budget_events",
    "discovered_engines",
    "erasures",
    "gpu_presence",
    "metric_seats",
    "probed_engines",
    "seals",
    "unpriced_engines",
}
"""Tables that neither recordings nor a closing fill."""


@dataclass(frozen=True)
class Booked:
    """A ledger that is only changed within transactions that are taken back."""

    ledger: Ledger

    @contextmanager
    def changing(self, *tables):
        """A transaction with the triggers of some tables put aside, rolled back at its end."""
        with self.ledger.engine.connect() as connection:
            transaction = connection.begin()
            for table in tables:
                allow(connection, table)
            yield connection
            transaction.rollback()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def booked(request, tmp_path_factory):
    """Two recordings, an adjustment, a closed period and a dispute, in each database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('verify')}/ledger.db"
    else:
        url = request.getfixturevalue("postgres").database()
    ledger = Ledger.open(url)
    fill(ledger, users=True)
    close(ledger)
    yield Booked(ledger)
    ledger.close()


def _first_bad(connection) -> str:
    """What the first check says that is not green; the rest need not run."""
    scope = Scope(connection)
    return next((found.bad for check in CHECKS if (found := check(scope)).bad), "")


def _middle_row(connection, table) -> dict[str, Any]:
    count = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
    keys = list(table.primary_key.columns)
    row = connection.execute(sa.select(table).order_by(*keys).offset(count // 2).limit(1)).one()
    return dict(row._mapping)


def _where(table, row):
    return [table.c[column.name] == row[column.name] for column in table.primary_key.columns]


def test_books_of_two_recordings_with_a_closed_period_are_right(booked):
    """Every check has looked at something, and agrees."""
    checks = verify(booked.ledger.engine)
    assert [check for check in checks if not check.ok] == []
    assert [check.name for check in checks] == [check.__name__ for check in CHECKS]
    empty = [check.name for check in checks if check.detail.startswith("0 ")]
    assert empty == ["seals_are_unbroken"]


def test_an_empty_ledger_is_right(ledger_url):
    """Nothing is wrong with nothing."""
    ledger = Ledger.open(ledger_url)
    assert all(check.ok for check in verify(ledger.engine))
    ledger.close()


def test_books_are_right_at_any_moment_with_work_in_progress_and_late_records(ledger_url):
    """Open boots, windows that are not settled, records that came late: verified after every delivery."""
    ledger = Ledger.open(ledger_url)
    raw = raw_records(load_recording("h100-llama8b-vllm0.26"))
    late = [record for record in raw[: len(raw) // 2] if record.kind == "usage"][::40]
    on_time = [record for record in raw if record not in late]
    books = accountant(ledger, Settings(costing=CostingSettings(grace_seconds=20)))
    cut = len(on_time) * 2 // 3
    for delivery in (on_time[:cut], late, on_time[cut:]):
        ledger.add(delivery)
        books.advance()
        assert [check for check in verify(ledger.engine) if not check.ok] == []
    assert ledger.select(sa.select(sa.func.count()).select_from(t.adjustments))[0][0] > 0
    ledger.close()


@pytest.mark.parametrize("table", [table for table in t.metadata.sorted_tables if table.name not in EMPTY], ids=str)
def test_one_number_that_was_changed_in_any_table_is_found(booked, table):
    """Every number of a row in the middle, by one: found, unless nothing else tells it; in PostgreSQL, the last."""
    unseen = set()
    numbers = [column for column in table.columns if isinstance(column.type, sa.Integer)]
    for column in numbers if booked.ledger.engine.dialect.name == "sqlite" else numbers[-1:]:
        with booked.changing(*({table.name} & {*t.APPEND_ONLY})) as connection:
            row = _middle_row(connection, table)
            changed = {column.name: (row[column.name] or 0) + 1}
            if column.name in {"id", "process", "sequence", "line", "number"}:
                # the next number may be taken
                changed = {column.name: 2**31 - 5}
            assert connection.execute(sa.update(table).where(*_where(table, row)).values(changed)).rowcount == 1
            if table.name in t.APPEND_ONLY:
                protect(connection, table.name)
            if not _first_bad(connection):
                unseen.add(column.name)
    assert unseen <= TOLD_ONCE.get(table.name, set())


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("journal", "tenant"),
        ("journal", "state"),
        ("journal", "credit"),
        ("requests", "tenant"),
        ("requests", "trace_id"),
        ("versions", "content"),
        ("fits", "version"),
        ("statement_lines", "cost_centre"),
        ("statements", "tenant"),
        ("closings", "signed_by"),
    ],
)
def test_one_word_that_was_changed_is_found(booked, table, column):
    """Who, what and by whom count as much as how much."""
    source = t.metadata.tables[table]
    with booked.changing(*({table} & {*t.APPEND_ONLY})) as connection:
        row = _middle_row(connection, source)
        statement = sa.update(source).where(*_where(source, row)).values({column: f"{row[column][:10]}x"})
        assert connection.execute(statement).rowcount == 1
        assert _first_bad(connection)


@pytest.mark.parametrize(
    "table",
    ["records", "requests", "windows", "journal", "boots", "fits", "cost_hours", "versions", "closings", "statements"],
)
def test_a_row_that_was_taken_away_is_found(booked, table):
    """What was never pruned must be there."""
    source = t.metadata.tables[table]
    with booked.changing(*({table} & {*t.APPEND_ONLY})) as connection:
        row = _middle_row(connection, source)
        if table == "fits":
            row["version"] = connection.execute(sa.select(sa.func.min(t.windows.c.fit_version))).scalar()
            where = [t.fits.c.version == row["version"]]
        else:
            where = _where(source, row)
        assert connection.execute(sa.delete(source).where(*where)).rowcount >= 1
        assert _first_bad(connection)


@pytest.mark.parametrize("table", ["records", "closings", "statements"])
def test_one_byte_of_a_document_or_a_record_is_found_and_named(booked, table):
    """The evidence of a closed period, and what was signed and issued."""
    source = t.metadata.tables[table]
    column = "line" if table == "records" else "document"
    with booked.changing(*({table} & {*t.APPEND_ONLY})) as connection:
        if table == "records":
            query = sa.select(source).where(source.c.kind == "steps").offset(20).limit(1)
            row = dict(connection.execute(query).one()._mapping)
        else:
            row = _middle_row(connection, source)
        data = bytearray(row[column])
        place = max(place for place, byte in enumerate(data) if chr(byte).isdigit())
        data[place] = ord("1") if data[place] != ord("1") else ord("2")
        connection.execute(sa.update(source).where(*_where(source, row)).values({column: bytes(data)}))
        assert _first_bad(connection).startswith(f"{table}: ")


@pytest.mark.parametrize("table", t.APPEND_ONLY)
def test_a_table_whose_rows_may_be_changed_is_named(booked, table):
    """The trigger is missing, or is there and lets everything pass."""
    with booked.changing(table) as connection:
        assert _first_bad(connection) == f"{table}: nothing keeps its rows from being changed or deleted"
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN SELECT 1; END")
            connection.exec_driver_sql(f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} BEGIN SELECT 1; END")
        else:
            protect(connection, table)
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER {table}_no_change")
        assert _first_bad(connection) == f"{table}: nothing keeps its rows from being changed or deleted"


def test_a_finding_names_the_row_and_the_difference(booked):
    """So that somebody can go and look."""
    with booked.changing() as connection:
        changed = sa.update(t.cost_hours).where(t.cost_hours.c.account == "idle").values(nano=t.cost_hours.c.nano + 7)
        connection.execute(changed)
        found = {check.name: check for check in verify_within(connection)}
    name = "cost_hours_are_the_journals"
    engine = "h100-llama8b-vllm0.26"
    assert found[name] == Check(
        name,
        False,
        f"cost_hours: hour 498734, period 2026-11, engine {engine}, account idle, model m, method metered "
        "differs from its rows by 7",
    )
