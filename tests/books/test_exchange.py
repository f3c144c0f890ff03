"""Foreign prices follow a dated exchange table exactly, and are unpriced where it has no rate."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.books.price_strategies import BEGIN, BEGIN_NS, END_NS, cuts, exact, exchanges, price_lists

from farthing.books.capacity import Capacity
from farthing.books.exchange import ExchangeRate, ExchangeTable
from farthing.books.moments import moment_ns
from farthing.books.prices import GpuPrice, PriceBook
from farthing.domain.clock import HOUR
from farthing.domain.errors import PriceError

OCTOBER = ExchangeRate("EUR", Decimal("1.08"), date(2026, 10, 1), "ECB")
NOON = ExchangeRate("EUR", Decimal("1.123456789"), datetime(2026, 10, 15, 12, tzinfo=UTC), "ECB")
EUROS = GpuPrice("X", 2_000_000_001, date(2026, 9, 1), "contract", currency="EUR")


def test_a_foreign_price_is_worth_what_the_day_says():
    """Nine decimals times nine decimals, rounded once, in the bill."""
    tariff = PriceBook([EUROS], exchange=ExchangeTable([NOON, OCTOBER])).tariff("X", 1)
    first = moment_ns(OCTOBER.start)
    assert tariff.bill(first, first + HOUR) == int(Fraction(2_000_000_001) * Fraction("1.08"))
    noon = moment_ns(NOON.start)
    straddling = Fraction(2_000_000_001) * (Fraction("1.08") + Fraction("1.123456789")) * 24
    assert abs(tariff.bill(noon - 24 * HOUR, noon + 24 * HOUR) - straddling) < 1


def test_before_its_first_rate_a_foreign_price_is_unpriced():
    """No rate is guessed, and 1 least of all."""
    tariff = PriceBook([EUROS], exchange=ExchangeTable([OCTOBER])).tariff("X", 1)
    with pytest.raises(PriceError, match=r"its first begins 2026-10-01.*or its exchange rate under exchange:"):
        tariff.nano_per_hour(moment_ns(date(2026, 9, 30)))


def test_a_price_of_a_currency_that_has_no_rate_at_all_is_unpriced():
    """Reading the settings works; billing says what is missing."""
    tariff = PriceBook([replace(EUROS, currency="CHF")], exchange=ExchangeTable([OCTOBER])).tariff("X", 1)
    with pytest.raises(PriceError, match=r"GPU 'X' has no price at any time; .* exchange rate under exchange:"):
        tariff.bill(BEGIN_NS, END_NS)


def test_a_price_in_the_ledgers_currency_needs_no_rate():
    """Named or not."""
    table = ExchangeTable(ledger_currency="EUR")
    named, plain = (PriceBook([replace(EUROS, currency=code)], exchange=table).tariff("X", 1) for code in ("EUR", ""))
    assert named == plain
    assert named.nano_per_hour(moment_ns(date(2026, 9, 1))) == 2_000_000_001


@given(exchanges(), price_lists("EUR"), st.integers(1, 8), cuts())
def test_foreign_bills_are_exact_over_any_cuts_where_every_moment_has_a_rate(table, prices, count, moments):
    """Against price times rate, worked out hour by hour of either table."""
    rates = table.stretches("EUR")
    known = [moment for moment in moments if moment >= rates[0].start]
    tariff = PriceBook(prices, exchange=table).tariff("X", count)
    total = 0
    for a, b in itertools.pairwise(known):
        edges = sorted({a, b, *(x for x in _edges(prices, rates) if a < x < b)})
        worth = sum(
            Fraction(_last(prices, low).nano_per_hour) * _rate(rates, low) * count * (high - low) / HOUR
            for low, high in itertools.pairwise(edges)
        )
        assert abs(tariff.bill(a, b) - worth) < 1
        total += tariff.bill(a, b)
    assert total == tariff.bill(known[0], known[-1])
    if moments[0] < rates[0].start:
        with pytest.raises(PriceError):
            tariff.bill(moments[0], known[-1])


def _edges(prices, rates):
    return [price.start_ns for price in prices] + [rate.start for rate in rates]


def _last(prices, moment):
    return [price for price in prices if price.start_ns <= moment][-1]


def _rate(rates, moment):
    return [rate.rate for rate in rates if rate.start <= moment][-1]


@given(exchanges(), st.integers(1, 10**15))
def test_what_is_paid_upfront_is_worth_what_it_was_when_it_was_paid(table, euros):
    """A later exchange rate does not change what was spent; without a rate then, it is unpriced."""
    node = Capacity(
        "n", "X", 1, "reserved", BEGIN, datetime(2026, 2, 1, tzinfo=UTC), Fraction(0), euros, currency="EUR"
    )
    rate = table.at("EUR", BEGIN_NS)
    stretches = node.stretches(table)
    if rate is None:
        assert stretches == ()
    else:
        assert exact(stretches, BEGIN_NS, END_NS) == euros * rate


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([OCTOBER, replace(OCTOBER, rate=Decimal(2))], "EUR has two exchange rates from 2026-10-01: 1.08"),
        ([replace(OCTOBER, currency="USD")], "USD is the ledger's currency"),
        ([replace(OCTOBER, rate=Decimal(0))], "the exchange rate 0 of EUR is not above 0"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(rates, message):
    """With what is wrong."""
    with pytest.raises(PriceError, match=message):
        ExchangeTable(rates)
