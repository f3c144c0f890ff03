"""The news of many boots in one transaction are booked as one after the other would be."""

from dataclasses import replace

import msgspec
import pytest
import sqlalchemy as sa
from tests.ledger.test_repository import BOOT, _request, _window

from farthing.domain.errors import LedgerError
from farthing.domain.model import Fit
from farthing.domain.records import RecordKey
from farthing.ledger import tables as t
from farthing.ledger.repository import Entry, Ledger, Posted


@pytest.fixture
def ledger(ledger_url):
    """A fresh ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _fit(version):
    return Fit(version, "modelled", {"steps": 1.0}, {"steps": (0.5, float("inf"))}, 0.1, 12)


def _entry(number, count=3):
    """News of a boot: more requests than one statement takes, and windows with two fits."""
    boot = replace(BOOT, boot=f"b{number}", engine=f"e{number % 2}", read_id=number, bill_nano=10 * count)
    change = msgspec.structs.replace
    requests = tuple(change(_request(), key=RecordKey(boot.boot, 0, i), request_id=f"r{i}") for i in range(70))
    windows = []
    for i in range(count):
        (request,) = _window().requests
        window = _window()._replace(
            boot=boot.boot, start_ns=5 * i, end_ns=5 * i + 5, fit_version=f"nnls-{i // 2}", fit=_fit(f"nnls-{i // 2}")
        )
        windows.append(window._replace(requests=(request._replace(key=RecordKey(boot.boot, 0, i)),)))
    return Entry(boot, requests, tuple(windows))


def _books(ledger):
    tables = [t.boots, t.requests, t.windows, t.fits, t.journal, t.cost_hours, t.boot_lines, t.usage_hours]
    tables += [t.window_hours, t.saving_hours]
    return {one.name: ledger.select(sa.select(one).order_by(*one.primary_key.columns)) for one in tables}


def test_many_boots_together_are_booked_as_one_by_one(ledger, tmp_path):
    """The same rows under the same numbers, and the same answers."""
    entries = [_entry(number) for number in range(5)]
    entries.append(replace(_entry(2, 4), boot=replace(_entry(2, 4).boot, read_id=9)))
    together = ledger.post_each(entries)
    with Ledger.open(f"sqlite:///{tmp_path}/other.db") as other:
        alone = [other.post(one.boot, one.requests, one.windows) for one in entries]
        assert _books(other) == _books(ledger)
    assert together == alone
    assert [len(one.windows) for one in together] == [3, 3, 3, 3, 3, 1]
    assert together[5].requests == []
    assert ledger.post_each(entries) == [Posted([], [])] * 6
    assert len(_books(ledger)["fits"]) == 10


def test_one_that_cannot_be_booked_keeps_out_all_of_its_transaction(ledger):
    """And what is known to be in the ledger is only what was committed."""
    wrong = _entry(1)
    wrong = replace(wrong, windows=(wrong.windows[0]._replace(bill_nano=2**80),))
    with pytest.raises(LedgerError) as caught:
        ledger.post_each([_entry(0), wrong])
    assert caught.value.of_row
    assert not any(_books(ledger).values())
    assert [len(one.windows) for one in ledger.post_each([_entry(0)])] == [3]
    books = _books(ledger)
    assert len(books["boots"]) == 1
    assert len(books["fits"]) == 2
