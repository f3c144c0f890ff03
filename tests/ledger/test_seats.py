"""Seats of tenants and tiers in the ledger, in both databases: given once, they are there for good."""

import sqlalchemy as sa

from farthing.ledger import tables as t
from farthing.ledger.database import bare_engine, migrate
from farthing.ledger.repository import Ledger
from farthing.ledger.seats import keep_seats, kept_seats


def test_seats_are_there_after_the_ledger_was_opened_anew(ledger_url):
    """Those of tenants are not those of tiers, and one that is given twice is there once."""
    ledger = Ledger.open(ledger_url)
    keep_seats(ledger, "tenant", {"acme", 'gl"obex'})
    keep_seats(ledger, "tenant", {"acme", "initech"})
    keep_seats(ledger, "tier", {"batch"})
    ledger.close()
    ledger = Ledger.open(ledger_url)
    assert kept_seats(ledger, "tenant") == {"acme", 'gl"obex', "initech"}
    assert kept_seats(ledger, "tier") == {"batch"}
    ledger.close()


def test_a_ledger_of_before_the_seats_goes_on_with_none_given(ledger_url):
    """What is in it stays, and it has the columns of a new one."""
    engine = bare_engine(ledger_url)
    migrate(engine, "0013")
    with engine.begin() as connection:
        connection.execute(sa.insert(t.probed_engines), [{"engine": "h100", "first_id": 7}])
    engine.dispose()
    ledger = Ledger.open(ledger_url)
    assert kept_seats(ledger, "tier") == frozenset()
    assert [tuple(row) for row in ledger.select(sa.select(t.probed_engines))] == [("h100", 7)]
    known = {column["name"] for column in sa.inspect(ledger.engine).get_columns("metric_seats")}
    assert known == {column.name for column in t.metric_seats.columns}
    ledger.close()
