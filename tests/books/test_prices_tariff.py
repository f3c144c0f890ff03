"""A tariff's content is enough to bill again, and a price that is entered late changes nothing that is booked."""

import itertools
import json
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.books.price_strategies import BEGIN, BEGIN_NS, END_NS, claims, cuts, fractions, moments, price_lists, terms

from farthing.books.capacity import hold
from farthing.books.exchange import ExchangeTable
from farthing.books.prices import DEFAULT_PRICES, GpuPrice, PriceBook
from farthing.books.tariff import VERSION_LENGTH, Tariff, parse_tariff, splice
from farthing.domain.clock import HOUR
from farthing.domain.errors import PriceError

NAMES = st.text(min_size=1, max_size=128)


@st.composite
def of_prices(draw):
    """A tariff from the price table."""
    return PriceBook(draw(price_lists())).tariff("X", draw(st.integers(1, 16)), draw(fractions))


@st.composite
def of_capacities(draw):
    """An engine's or a pool's tariff, or a whole capacity's."""
    gpus = draw(st.integers(1, 9))
    bought = draw(terms(gpus, draw(st.decimals("0", "1", places=9))))
    (holding,) = hold(bought, draw(claims(gpus)), ExchangeTable())
    pools = [pool.tariff for pool in holding.pools if pool.start_ns == BEGIN_NS and pool.end_ns == END_NS]
    return draw(st.sampled_from([holding.tariff, *holding.engines.values(), *pools]))


tariffs = st.one_of(of_prices(), of_capacities())


@given(tariffs, cuts())
def test_a_tariff_read_back_from_its_content_bills_the_same(tariff, moments):
    """Offline, from evidence alone."""
    again = parse_tariff(tariff.content)
    assert (again, again.version, again.content) == (tariff, tariff.version, tariff.content)
    assert (again.gpu, again.count, again.fraction) == (tariff.gpu, tariff.count, tariff.fraction)
    for a, b in itertools.pairwise(moments):
        assert again.bill(a, b) == tariff.bill(a, b)
    assert again.nano_per_hour(BEGIN_NS) == tariff.nano_per_hour(BEGIN_NS)


@given(NAMES, tariffs)
def test_a_version_is_short_and_names_its_content(gpu, tariff):
    """It fits the ledger's column whatever the GPU is called, and differs where the content does."""
    named = Tariff(gpu, tariff.count, tariff.function, tariff.fraction)
    assert len(named.version) <= VERSION_LENGTH
    assert named.version.startswith(gpu[:40])
    assert (named.version == tariff.version) == (named.content == tariff.content)


def test_versions_do_not_change_from_one_release_to_the_next():
    """What the books cite has to be found again."""
    assert PriceBook().tariff("H100-SXM", 1).content == (
        '{"cost":{"rates":[[1767225600000000000,null,"3348000000"]]},"count":1,"fraction":"1","gpu":"H100-SXM"}'
    )
    assert PriceBook().tariff("H100-SXM", 1).version == "H100-SXM:a772930e72f4"


def test_versions_depend_on_what_costs_and_on_nothing_else():
    """A new source or a price that is entered once more costs nothing; an hour earlier does."""
    price = DEFAULT_PRICES[0]

    def version(*prices, count=1, fraction=Decimal(1)):
        return PriceBook(prices).tariff(price.gpu, count, fraction).version

    again = replace(price, start=date(2026, 5, 1))
    assert version(price) == version(replace(price, source="other")) == version(price, again)
    assert version(price, fraction=Decimal("0.50")) == version(price, fraction=Decimal("0.5"))
    changed = {
        version(price),
        version(replace(price, nano_per_hour=price.nano_per_hour + 1)),
        version(replace(price, start=date(2026, 1, 2))),
        version(replace(price, end=date(2026, 5, 1))),
        version(price, count=2),
        version(price, fraction=Decimal("0.5")),
    }
    assert len(changed) == 6


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"cost":{},"count":1,"fraction":"1","gpu":"X"}',
        '{"cost":{"rates":[[0,null,"x"]]},"count":1,"fraction":"1","gpu":"X"}',
        '{"cost":{"rates":[[0,null,"-1"]]},"count":1,"fraction":"1","gpu":"X"}',
        '{"cost":{"rates":[[0,null,"1"],[1,null,"2"]]},"count":1,"fraction":"1","gpu":"X"}',
        '{"cost":{"rates":[[0,null,"1"]]},"count":1,"fraction":"1","gpu":"X","more":1}',
        '{"cost":{"count":2,"of":{"rates":[]},"slots":[[2,[]]]},"count":1,"fraction":"1","gpu":"X"}',
        '{"cost":{"splice":[[{"rates":[]},null],[{"rates":[]},null]]},"count":1,"fraction":"1","gpu":"X"}',
        '{"cost":{"of":{"rates":[]},"share":["most","1/2"]},"count":1,"fraction":"1","gpu":"X"}',
    ],
)
def test_what_is_no_content_of_a_tariff_is_refused(content):
    """Damaged evidence gives no bill."""
    with pytest.raises(PriceError, match="cannot be read"):
        parse_tariff(content)


@given(tariffs, tariffs, moments, cuts())
def test_a_spliced_tariff_is_the_old_one_up_to_the_moment_and_the_new_one_after(old, new, until, moments):
    """Whatever is booked stays, to the nano, and a bill across the moment is both parts of it."""
    spliced = splice(old, until, new)
    for a, b in itertools.pairwise(moments):
        before = old.bill(min(a, until), min(b, until))
        after = new.bill(max(a, until), max(b, until))
        assert spliced.bill(a, b) == before + after
    assert spliced.bill(BEGIN_NS, END_NS) == sum(spliced.bill(a, b) for a, b in itertools.pairwise(moments))
    assert (spliced.gpu, spliced.count, spliced.fraction) == (new.gpu, new.count, new.fraction)


@given(st.tuples(tariffs, tariffs, tariffs), moments, moments, cuts())
def test_splices_of_splices_are_read_back_and_add_up(three_of_them, first, second, moments):
    """A price is corrected more than once, and an earlier correction may come later."""
    one, two, three = three_of_them
    once = splice(one, first, two)
    twice = splice(once, second, three)
    again = parse_tariff(twice.content)
    assert again == twice
    for a, b in itertools.pairwise(moments):
        expected = once.bill(min(a, second), min(b, second)) + three.bill(max(a, second), max(b, second))
        assert again.bill(a, b) == twice.bill(a, b) == expected


@given(tariffs, tariffs, moments, moments)
def test_what_was_booked_stands_when_the_new_tariff_is_spliced_itself(old, new, first, second):
    """The new side may have a history."""
    history = splice(new, first, old)
    spliced = splice(old, second, history)
    assert spliced.bill(BEGIN_NS, second) == old.bill(BEGIN_NS, second)
    assert spliced.bill(second, END_NS) == history.bill(second, END_NS)
    assert parse_tariff(spliced.content) == spliced


def test_a_price_that_begins_after_what_is_booked_needs_no_splice():
    """Entering next month's price in time is the ordinary case: the tariff is the plain new one."""
    price = GpuPrice("X", 2_000_000_000, date(2026, 1, 1), "a")
    later = replace(price, nano_per_hour=3_000_000_000, start=date(2026, 12, 1))
    old, new = PriceBook([price]).tariff("X", 1), PriceBook([price, later]).tariff("X", 1)
    booked = BEGIN_NS + 300 * 24 * HOUR
    assert splice(old, booked, new) is new
    assert splice(new, booked, old) is old
    late = splice(old, later.start_ns + HOUR, new)
    assert late != new
    assert splice(late, later.start_ns + 2 * HOUR, new) == late
    assert splice(late, later.start_ns + HOUR, late) is late


def test_what_an_old_price_said_of_later_times_is_not_kept():
    """Contents do not grow with prices that never came to apply."""
    price = GpuPrice("X", 2_000_000_000, date(2026, 1, 1), "a")
    planned = [replace(price, nano_per_hour=day, start=date(2026, 6, day)) for day in range(1, 31)]
    old = PriceBook([price, *planned]).tariff("X", 1)
    new = PriceBook([replace(price, nano_per_hour=3_000_000_000)]).tariff("X", 1)
    spliced = splice(old, BEGIN_NS + HOUR, new)
    assert spliced == splice(PriceBook([price]).tariff("X", 1), BEGIN_NS + HOUR, new)
    again = splice(spliced, BEGIN_NS + 2 * HOUR, old)
    assert splice(again, BEGIN_NS + 3 * HOUR, splice(new, BEGIN_NS + 2 * HOUR, old)) == again


def test_a_gap_that_was_booked_around_stays_a_gap():
    """A splice fills no gap before the moment and makes none after it."""
    short = GpuPrice("X", 1_000_000_000, BEGIN, "a", BEGIN + timedelta(hours=1))
    old = PriceBook([short]).tariff("X", 1)
    new = PriceBook([replace(short, end=None, nano_per_hour=5)]).tariff("X", 1)
    spliced = splice(old, BEGIN_NS + 2 * HOUR, new)
    assert spliced.bill(BEGIN_NS, BEGIN_NS + HOUR) == 1_000_000_000
    assert spliced.bill(BEGIN_NS + 2 * HOUR, BEGIN_NS + 3 * HOUR) == 5
    with pytest.raises(PriceError, match="from 2026-01-01T01:00:00Z until 2026-01-01T02:00:00Z"):
        spliced.bill(BEGIN_NS, BEGIN_NS + 3 * HOUR)


def test_the_content_is_plain_json_that_other_programs_read():
    """Rates are exact: a fraction where a decimal would be rounded."""
    content = json.loads(PriceBook([GpuPrice("X", 10, BEGIN, "a")]).tariff("X", 1, Decimal("0.33")).content)
    assert content["cost"] == {"rates": [[BEGIN_NS, None, "33/10"]]}
