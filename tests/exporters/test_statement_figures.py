"""Figures of a statement: what finance reads is never 0 for what is not, and never more exact than it is."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.domain import conventions as c
from farthing.domain.money import NANO, from_nano
from farthing.exporters.statement import figures, plots

NANOS = st.integers(-(10**21), 10**21)
START = datetime(2026, 11, 1, tzinfo=UTC)


def ns(moment):
    return int(moment.timestamp()) * NANO


def value(shown):
    return Decimal(shown.replace(",", "").replace("\u2212", "-"))


@given(NANOS, st.integers(0, 9))
def test_an_amount_is_within_half_its_last_digit_or_says_that_it_is_smaller(nano, places):
    """Only 0 is shown as 0."""
    shown = figures.money(nano, places)
    unit = Decimal(1).scaleb(-places)
    if shown.startswith("<"):
        assert 0 < from_nano(nano) <= unit / 2
    elif shown.startswith(">"):
        assert -unit / 2 <= from_nano(nano) < 0
    else:
        assert abs(value(shown) - from_nano(nano)) <= unit / 2
        assert (value(shown) == 0) == (nano == 0)
        assert "-" not in shown


@given(NANOS)
def test_the_exact_form_loses_nothing(nano):
    """Nine decimals, whatever the size."""
    assert value(figures.exact(nano)) == from_nano(nano)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.integers(10**6, 10**12))
def test_decimals_of_a_table_show_each_line_that_matters(parts, scale):
    """Down to a millionth of the sum, unless it is less than a millionth of the currency."""
    amounts = [part * scale for part in parts]
    places = figures.amount_places(amounts, 2)
    assert places in (2, 4, 6)
    for nano in amounts:
        if nano * 1_000_000 >= sum(amounts) and nano >= 1_000:
            assert not figures.money(nano, places).startswith("<")


@pytest.mark.parametrize(
    ("amounts", "places"),
    [
        ([], 2),
        ([None, 0], 2),
        ([796_855_502_950, 10**7], 2),
        ([796_855_502_950, 9_999_999], 4),
        ([21_808_126, 49_329_304], 2),
        ([21_808_126, 717_188], 4),
        ([36_081], 6),
        ([10**15, 1], 2),
        ([3], 6),
    ],
)
def test_decimals_grow_only_where_cents_hide_an_amount(amounts, places):
    """Not for a line of a millionth of the statement; never beyond six."""
    assert figures.amount_places(amounts, 2) == places


@pytest.mark.parametrize(
    ("prices", "places"),
    [
        ([], 2),
        ([1_000_000_000], 2),
        ([340_000_000, 25_000_000, 2_500_000], 4),
        ([306_790_751, 22_401_806], 4),
        ([2_487_331], 6),
        ([1], 6),
    ],
)
def test_unit_prices_are_exact_or_have_three_digits(prices, places):
    """A published price is shown as it was published."""
    assert figures.price_places(prices, 2) == places


def test_a_span_of_whole_days_names_its_first_and_last_day():
    """As a period is spoken of; anything else is told to the minute."""
    day = timedelta(days=1)
    assert figures.span(ns(START), ns(START + 30 * day)) == "1 to 30 November 2026 (UTC)"
    assert figures.span(ns(START), ns(START + 31 * day)) == "1 November 2026 to 1 December 2026 (UTC)"
    assert figures.span(ns(START), ns(START + day)) == "1 November 2026 (UTC)"
    half = ns(START + timedelta(hours=1, minutes=5))
    assert figures.span(ns(START), half) == "1 November 2026, 00:00 UTC to 1 November 2026, 01:05 UTC"


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (1, 3, "33.3%"),
        (-1, 3, "\u221233.3%"),
        (0, 5, "0.0%"),
        (1, 10**6, "<0.1%"),
        (-1, 10**6, ">\u22120.1%"),
        (5, 0, "—"),
    ],
)
def test_a_share_is_never_0_for_what_is_not(part, whole, shown):
    """And a dash where there is nothing to share."""
    assert figures.percent(part, whole) == shown


def test_units_of_a_price_read_as_in_a_price_list():
    """Per million tokens, per GPU-hour, per thousand requests."""
    assert figures.per_units(1_000_000, "tokens") == "1M tokens"
    assert figures.per_units(1_000, "requests") == "1,000 requests"
    assert figures.per_units(1, "GPU-hours") == "GPU-hours"


def test_characters_that_move_or_reorder_text_are_replaced():
    """Control characters, bidirectional overrides, line ends."""
    assert figures.printable("ac\u202eme\x1b[31m\n") == "ac\ufffdme\ufffd[31m\ufffd"
    assert figures.printable("Łódź 東京") == "Łódź 東京"


DAYS = [("2026-11-01", c.CHARGED, 3 * NANO), ("2026-11-01", c.IDLE, NANO), ("2026-11-03", c.CHARGED, 2 * NANO)]


def bars(svg):
    """(class, y, height) of the bars."""
    found = re.findall(r'<rect class="([^"]+)" x="[^"]+" y="([^"]+)" width="[^"]+" height="([^"]+)">', svg)
    return [(name, Decimal(y), Decimal(height)) for name, y, height in found]


def test_bars_are_in_proportion_and_stand_on_each_other():
    """In the order of the accounts; a day without cost has none."""
    drawn = bars(plots.daily_plot(DAYS, "2026-11-01", "2026-11-30", "USD"))
    assert [name for name, _, _ in drawn] == ["of-charged", "of-idle", "of-charged"]
    (_, low, charged), (_, high, idle), (_, _, later) = drawn
    assert (charged / idle, charged / later) == (3, Decimal("1.5"))
    assert high + idle == low


def test_a_negative_day_hangs_below_the_line():
    """A correction that is larger than the day's cost."""
    drawn = bars(plots.daily_plot([*DAYS, ("2026-11-02", c.CHARGED, -NANO)], "2026-11-01", "2026-11-03", "USD"))
    (_, low, charged), _, (_, below, height), _ = drawn
    assert below == low + charged
    assert abs(height * 3 - charged) < Decimal("0.01")


@pytest.mark.parametrize("days", [[], [("2026-11-01", c.IDLE, 0)]])
def test_there_is_no_plot_of_nothing(days):
    """Rather than an empty one with a scale."""
    assert plots.daily_plot(days, "2026-11-01", "2026-11-30", "USD") == ""


@given(st.lists(st.tuples(st.sampled_from(["2026-11-01", "2026-11-30"]), st.sampled_from(c.ACCOUNTS), NANOS)))
def test_any_amounts_are_drawn_inside_the_plot(days):
    """Of any size and sign."""
    for _, y, height in bars(plots.daily_plot(days, "2026-11-01", "2026-11-30", "USD")):
        assert y >= plots.TOP - 1
        assert height >= 0
        assert y + height <= plots.HEIGHT - plots.BOTTOM + 1
