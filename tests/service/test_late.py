"""A record that arrives after it was given up: its money comes back in the ledger, once, whatever is restarted."""

import random

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, content, journal_sums, raw_records

from farthing.domain import conventions as c
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.settings import CostingSettings, Settings

SETTINGS = Settings(costing=CostingSettings(grace_seconds=20))


@pytest.fixture(scope="module")
def raw():
    """The 8B recording's records as intake stores them."""
    return raw_records(load_recording("h100-llama8b-vllm0.26"))


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _late_delivery(raw):
    """All but some usage records of the recording's first minutes, and these."""
    rng = random.Random(5)  # noqa: S311 - seeded trials
    early = [record for record in raw[: len(raw) * 2 // 3] if record.kind == "usage"]
    late = rng.sample(early, 40)
    keys = {record.key for record in late}
    return [record for record in raw if record.key not in keys], late


def test_late_records_move_money_out_of_unattributed_once_and_counters_never_fall(raw, ledger):
    """The books get the tenants right again, and reading everything a second time posts nothing."""
    on_time, late = _late_delivery(raw)
    cut = len(on_time) - 200
    ledger.add(on_time[:cut])
    first = accountant(ledger, SETTINGS)
    first.advance()
    before = journal_sums(ledger, "debit")
    assert before[(c.UNATTRIBUTED,)] > 0
    ledger.add(late)
    first.advance()
    after = journal_sums(ledger, "debit")
    assert sum(after.values()) == sum(before.values())
    assert after[(c.UNATTRIBUTED,)] < before[(c.UNATTRIBUTED,)] * 0.5
    assert min(journal_sums(ledger, "debit", "phase", "tenant").values()) >= 0
    (view,) = first.snapshot().engines
    assert sum(view.late_nano.values()) == before[(c.UNATTRIBUTED,)] - after[(c.UNATTRIBUTED,)]
    assert view.residual_nano == 0

    ledger.add(on_time[cut:])
    first.advance()
    whole = content(ledger)
    second = accountant(ledger, SETTINGS)
    second.advance()
    assert content(ledger) == whole
    states = {state for (state,) in ledger.select(sa.select(t.journal.c.state).distinct())}
    assert states == {"settled", "adjusted"}
    (view,) = second.snapshot().engines
    assert view.residual_nano == 0
    assert view.bill_nano == sum(journal_sums(ledger, "debit").values())


def test_every_request_has_what_the_journal_says_after_late_records(raw, ledger):
    """The requests' own costs follow the adjustments."""
    on_time, late = _late_delivery(raw)
    ledger.add(on_time[:-200])
    books = accountant(ledger, SETTINGS)
    books.advance()
    ledger.add([*late, *on_time[-200:]])
    books.advance()
    q = t.requests.c
    cost = sa.func.sum(q.prefill_nano + q.decode_nano + q.vision_nano)
    rows = ledger.select(sa.select(q.tenant, cost).group_by(q.tenant))
    sums = journal_sums(ledger, "debit", "tenant")
    for tenant, nano in rows:
        assert nano == sums[c.CHARGED, tenant] + sums[c.ABORTED, tenant]
