"""Prices that end, begin and change while engines run: what is booked stays, what has no price waits for one."""

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, journal_sums
from tests.service.closings import close, identity, moved

from farthing.domain.conventions import CHECK_PRICED
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.settings import parse_settings

UNTIL_DECEMBER = "  - {gpu: H100-SXM, usd_per_hour: 3.348, from: 2026-01-01, to: 2026-12-01}\n"
FROM_DECEMBER = "  - {gpu: H100-SXM, usd_per_hour: 2, from: 2026-12-01}\n"


def _settings(prices):
    return parse_settings(f"costing: {{grace_seconds: 20}}\nprices:\n{prices}", "farthing.yaml")


@pytest.fixture
def ledger(tmp_path):
    """The 8B recording, which begins two minutes before December."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add(moved(load_recording("h100-llama8b-vllm0.26"), "2026-11", 120))
    yield ledger
    ledger.close()


def _booked(ledger):
    return sum(journal_sums(ledger, "debit").values())


def test_an_engine_that_runs_into_a_time_without_a_price_is_booked_up_to_it_and_unpriced_after(ledger):
    """Never free, and never at the price that has ended."""
    books = accountant(ledger, _settings(UNTIL_DECEMBER))
    books.advance()
    (view,) = books.snapshot().engines
    assert view.residual_nano == 0
    assert 0 < view.bill_nano == _booked(ledger) <= 120 * 930_000
    wrong = {check.name: check.detail for check in view.checks if not check.ok}
    assert list(wrong) == [CHECK_PRICED]
    assert "has no price from 2026-12-01" in wrong[CHECK_PRICED]
    closed = close(ledger, "2026-11", _settings(UNTIL_DECEMBER))
    identity(closed)
    assert "has no price from 2026-12-01" in closed.document.facts.unpriced[0]
    assert any("has no price" in one for one in closed.statements[0].unpriced)


def test_the_rest_is_costed_once_there_is_a_price(ledger):
    """From the records that were kept; what was booked and closed stays."""
    before = _settings(UNTIL_DECEMBER)
    accountant(ledger, before).advance()
    november = close(ledger, "2026-11", before)
    after = _settings(UNTIL_DECEMBER + FROM_DECEMBER)
    books = accountant(ledger, after)
    books.advance()
    (view,) = books.snapshot().engines
    # 120 s at $3.348 and 133.18 s at $2 an hour
    assert view.bill_nano == pytest.approx(120 * 930_000 + 133.180839 * 2e9 / 3_600, abs=2_000)
    assert view.residual_nano == 0
    december = close(ledger, "2026-12", after)
    identity(december)
    assert december.document.facts.unpriced == ()
    bills = november.document.facts.bill_nano + december.document.facts.bill_nano
    assert bills == view.bill_nano == _booked(ledger)


def test_another_engine_goes_on_when_one_runs_out_of_prices(ledger):
    """One price that ended must not stop the books of the fleet."""
    other = moved(load_recording("h100-qwen2vl7b-vllm0.26"), "2026-11", 120, boot="other", engine="vision")
    ledger.add(other)
    settings = parse_settings(
        "costing: {grace_seconds: 20}\nengines:\n"
        "  - {name: vision, url: 'http://127.0.0.1:8000', probe: true, price: spare}\n"
        "prices:\n" + UNTIL_DECEMBER + "  - {gpu: H100-SXM, name: spare, usd_per_hour: 1, from: 2026-01-01}\n",
        "farthing.yaml",
    )
    books = accountant(ledger, settings)
    books.advance()
    views = {view.engine.name: view for view in books.snapshot().engines}
    assert [check.name for check in views["vision"].checks if not check.ok] == []
    assert views["vision"].bill_nano > 120 * 10**9 // 3_600
    assert views["h100"].bill_nano < 120 * 930_000 + 1


def test_a_price_that_is_entered_late_never_rewrites_what_is_booked(tmp_path):
    """It applies from the last posted window on; both versions are cited, and the bill is the sum of both."""
    raw = moved(load_recording("h100-llama8b-vllm0.26"), "2026-11", 600)
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add(raw[: len(raw) // 2])
    accountant(ledger, _settings("  - {gpu: H100-SXM, usd_per_hour: 3.6, from: 2026-01-01}\n")).advance()
    before = journal_sums(ledger, "boot", "start_ns", "debit")
    end = ledger.posted_until("b")
    ledger.add(raw[len(raw) // 2 :])
    for _ in range(2):
        # twice: a restart with the same settings changes nothing any more
        books = accountant(ledger, _settings("  - {gpu: H100-SXM, usd_per_hour: 7.2, from: 2026-01-01}\n"))
        books.advance()
        after = journal_sums(ledger, "boot", "start_ns", "debit")
        assert {key: after[key] for key in before} == before
        ((boot_bill, started, closed),) = ledger.select(
            sa.select(t.boots.c.bill_nano, t.boots.c.started_ns, t.boots.c.closed_ns)
        )
        assert boot_bill == pytest.approx((end - started) / 1_000 + (closed - end) / 500, abs=2)
        assert boot_bill == _booked(ledger)
        (view,) = books.snapshot().engines
        assert view.residual_nano == 0
    versions = {row[0] for row in ledger.select(sa.select(t.journal.c.price_version).distinct())}
    assert len(versions) == 2
    identity(close(ledger, "2026-11", _settings("  - {gpu: H100-SXM, usd_per_hour: 7.2, from: 2026-01-01}\n")))
    ledger.close()
