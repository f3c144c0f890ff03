"""What people are shown of prices: every stretch at what it costs in it, and every gap as unpriced."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from tests.books.price_strategies import BEGIN_NS, END_NS, exchanges, moments, price_lists, terms

from farthing.books.capacity import Capacity
from farthing.books.exchange import ExchangeRate, ExchangeTable
from farthing.books.moments import moment_ns
from farthing.books.price_lines import price_lines
from farthing.books.prices import DEFAULT_PRICES, GpuPrice, PriceBook

APRIL, MAY, JUNE, JULY = (date(2026, month, 1) for month in (4, 5, 6, 7))


def shown(lines):
    """What is told apart here: from, to, price per GPU-hour."""
    return [(line.start_ns, line.end_ns, line.nano_per_gpu_hour) for line in lines]


def test_the_default_book_is_its_list_prices():
    """One line each, with its source."""
    lines = price_lines(PriceBook())
    assert {(line.gpu, line.nano_per_gpu_hour, line.source) for line in lines} == {
        (price.gpu, price.nano_per_hour, price.source) for price in DEFAULT_PRICES
    }
    assert not any(line.unpriced for line in lines)


def test_gaps_between_and_after_prices_are_lines_of_their_own():
    """Each says why it is unpriced."""
    book = PriceBook([GpuPrice("X", 5, APRIL, "a", MAY), GpuPrice("X", 7, JUNE, "b", JULY)], defaults=())
    april, may, june, july = (moment_ns(day) for day in (APRIL, MAY, JUNE, JULY))
    lines = price_lines(book)
    assert shown(lines) == [(april, may, 5), (may, june, None), (june, july, 7), (july, None, None)]
    assert [line.source for line in lines if line.unpriced] == ["no entry under prices:"] * 2


def test_a_foreign_price_is_a_line_for_every_exchange_rate():
    """And unpriced before the first one."""
    rates = [ExchangeRate("EUR", Decimal(rate), day, "ECB") for rate, day in (("1.5", MAY), ("2", JUNE))]
    book = PriceBook([GpuPrice("X", 10, APRIL, "a", currency="EUR")], (), exchange=ExchangeTable(rates))
    april, may, june = (moment_ns(day) for day in (APRIL, MAY, JUNE))
    lines = [line for line in price_lines(book) if line.entry == "price"]
    assert shown(lines) == [(april, may, None), (may, june, 15), (june, None, 20)]
    assert lines[0].source == "no exchange rate of EUR"
    assert [line.rate for line in price_lines(book) if line.entry == "exchange"] == [Decimal("1.5"), Decimal(2)]


def test_a_capacity_shows_what_a_gpu_hour_of_it_costs_used_or_not():
    """The amortised part apart, until it is paid off."""
    hours = (moment_ns(JUNE) - moment_ns(MAY)) // (3_600 * 10**9)
    node = Capacity("n", "X", 4, "owned", MAY, JULY, Fraction(40), 8 * hours, JUNE, Decimal("0.25"))
    lines = price_lines(PriceBook((), (), capacities=[node]))
    assert shown(lines) == [
        (moment_ns(MAY), moment_ns(JUNE), 12),
        (moment_ns(JUNE), moment_ns(JULY), 10),
        (moment_ns(JULY), None, None),
    ]
    assert [line.amortised_nano_per_gpu_hour for line in lines] == [2, 0, None]
    assert [line.host_share for line in lines] == [Decimal("0.25"), Decimal("0.25"), None]


@given(price_lists("EUR"), exchanges(), st.data())
def test_lines_follow_one_another_and_say_what_a_tariff_says(prices, table, data):
    """At any moment of any book there is one line of each, and it agrees with what is billed."""
    bought = data.draw(terms(3, Decimal("0.1"), data.draw(st.sampled_from(["EUR", "USD"]))))
    book = PriceBook(prices, (), exchange=table, capacities=bought)
    moment = data.draw(moments.filter(lambda ns: ns < END_NS))
    price, capacity = (line for line in price_lines(book, moment) if line.entry != "exchange")
    (holding,) = book.holdings
    for line, tariff, count in ((price, book.tariff("X", 1), 1), (capacity, holding.tariff, 3)):
        assert line.unpriced is not tariff.priced(moment)
        if not line.unpriced:
            assert line.nano_per_gpu_hour is not None
            assert abs(line.nano_per_gpu_hour * count - tariff.nano_per_hour(moment)) <= count
    whole = [line for line in price_lines(book) if line.entry == "price"]
    assert whole[0].start_ns == BEGIN_NS
    assert [line.end_ns for line in whole[:-1]] == [line.start_ns for line in whole[1:]]


def test_before_its_first_entry_a_price_is_shown_as_unpriced_then():
    """Asked for a moment, nothing is left out because it has no price yet."""
    price = GpuPrice("X", 5, APRIL, "a")
    book = PriceBook([price, replace(price, name="spot", start=JUNE)], defaults=())
    lines = price_lines(book, moment_ns(datetime(2026, 5, 1, 12, tzinfo=UTC)))
    assert [(line.name, line.nano_per_gpu_hour, line.end_ns) for line in lines] == [
        ("", 5, None),
        ("spot", None, moment_ns(JUNE)),
    ]
