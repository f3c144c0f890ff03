"""What key figures are computed from: hourly sums, and single requests only where there are few or on demand."""

import pytest
from tests.service.hours import NOW_NS, book

from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.ledger.repository import Ledger
from farthing.service.measures import DOCUMENT_LIMIT, drivers, key_figures, measure
from farthing.service.scope import Scope

HOUR_NOW = NOW_NS // HOUR


@pytest.fixture
def ledger(ledger_url):
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def test_measures_are_the_sums_of_their_hours(ledger):
    """By account, by phase, of those with a name, and of requests by outcome."""
    book(ledger, HOUR_NOW, tenant="acme", nano=5, requests=2)
    book(ledger, HOUR_NOW - 1, tenant=c.UNKNOWN, nano=3, requests=1)
    book(ledger, HOUR_NOW - 1, tenant="acme", nano=1, account=c.ABORTED)
    book(ledger, HOUR_NOW, nano=7, account=c.IDLE)
    book(ledger, HOUR_NOW - 100, tenant="acme", nano=1_000, requests=9)
    found = measure(ledger, Scope(HOUR_NOW - 1))
    assert (found.bill_nano, found.work_nano, found.named_nano) == (16, 9, 6)
    assert found.phases_nano == {c.DECODE: 9}
    assert found.requests == {c.FINISHED: 3}
    assert found.tokens[c.TOKEN_OUTPUT] == 3_000


def test_single_requests_are_read_where_there_are_few_or_when_asked_for(ledger):
    """Beyond a hundred thousand a figure of theirs is unknown, unless somebody waits for it."""
    book(ledger, HOUR_NOW, tenant="acme", nano=5, requests=DOCUMENT_LIMIT)
    assert key_figures(ledger, Scope()).documents == (0, 0)
    book(ledger, HOUR_NOW, tenant="acme", nano=5, requests=1)
    assert key_figures(ledger, Scope()).documents is None
    assert key_figures(ledger, Scope()).image_requests is None
    assert key_figures(ledger, Scope(), documents=True).documents == (0, 0)


def test_drivers_have_units_for_work_and_none_for_the_rest(ledger):
    """Tokens by model and phase; an account without work has no unit."""
    book(ledger, HOUR_NOW, tenant="acme", nano=5, requests=2)
    book(ledger, HOUR_NOW, nano=7, account=c.IDLE)
    book(ledger, HOUR_NOW, nano=9, account=c.SHARED)
    assert drivers(ledger, Scope()) == {
        ("llama", c.DECODE): (2_000, 5),
        (c.IDLE, ""): (None, 7),
        (c.SHARED, ""): (None, 9),
    }
