"""A ledger of before the books is migrated with all that is in it, in both databases."""

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, raw_records

from farthing.ledger import tables as t
from farthing.ledger.database import bare_engine, migrate
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

OLD = "0002"
TABLES = (t.records, t.boots, t.fits, t.windows, t.journal, t.requests, t.adjustments)
SUMS = (t.cost_hours, t.usage_hours, t.window_hours, t.boot_lines)


@pytest.fixture(scope="module")
def current(tmp_path_factory):
    """A ledger of today, with a recorded engine in it."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('current')}/ledger.db")
    ledger.add(raw_records(load_recording("h100-llama8b-vllm0.26")))
    accountant(ledger).advance()
    yield ledger
    ledger.close()


def _copy(current, engine):
    """The rows of today's ledger, in the columns that the old one has."""
    with engine.begin() as connection:
        known = sa.inspect(connection)
        for table in TABLES:
            names = {column["name"] for column in known.get_columns(table.name)}
            columns = [column for column in table.columns if column.name in names]
            rows = [dict(row._mapping) for row in current.select(sa.select(*columns))]
            old = sa.table(table.name, *(sa.column(column.name, column.type) for column in columns))
            if rows:
                connection.execute(sa.insert(old), rows)


def _content(ledger, table):
    return sorted(tuple(row) for row in ledger.select(sa.select(table)))


def test_periods_and_sums_are_those_that_posting_would_have_kept(current, ledger_url):
    """Nobody has to begin anew, and reports say what they said."""
    engine = bare_engine(ledger_url)
    migrate(engine, OLD)
    _copy(current, engine)
    engine.dispose()
    ledger = Ledger.open(ledger_url)
    # the old journal knew no projects; the recording has none
    for table in SUMS:
        assert _content(ledger, table) == _content(current, table)
    j = t.journal.c
    assert ledger.select(sa.select(j.period).distinct()) == current.select(sa.select(j.period).distinct())
    b = t.boots.c
    reach = sa.select(b.boot, b.ranks, b.covered_ns, b.bill_nano, b.read_id)
    assert ledger.select(reach) == current.select(reach)
    saved = sa.select(sa.func.sum(t.saving_hours.c.nano))
    assert ledger.select(saved) == current.select(saved)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(sa.delete(t.journal))
    books = accountant(ledger)
    books.advance()
    (view,) = books.snapshot().engines
    assert view.residual_nano == 0
    ledger.close()


def test_a_closed_boot_ended_when_it_closed_and_an_open_one_is_asked(current, ledger_url):
    """Of a ledger that did not tell ends: what of a GPU is whose does not change by an upgrade."""
    engine = bare_engine(ledger_url)
    migrate(engine, "0010")
    known = {column["name"] for column in sa.inspect(engine).get_columns("boots")}
    columns = [column for column in t.boots.columns if column.name in known]
    ((row,),) = [[dict(one._mapping) for one in current.select(sa.select(*columns))]]
    old = sa.table("boots", *(sa.column(column.name, column.type) for column in columns))
    with engine.begin() as connection:
        connection.execute(sa.insert(old), [row, row | {"boot": "open", "closed_ns": None}])
    engine.dispose()
    ledger = Ledger.open(ledger_url)
    b = t.boots.c
    ends = ledger.select(sa.select(b.boot, b.closed_ns, b.ended_ns, b.given_up_ns).order_by(b.boot))
    assert ends == [("b", row["closed_ns"], row["closed_ns"], None), ("open", None, None, None)]
    assert row["closed_ns"] is not None
    ledger.close()
