"""What is bought is divided to the nano: host, engines' GPUs, slices and what nobody has are its cost together."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.books.price_strategies import BEGIN_NS, END_NS, claims, cuts, exact, exchanges, moments, terms

from farthing.books.capacity import Capacity, Claim, hold, running_energy
from farthing.books.exchange import ExchangeTable
from farthing.books.moments import add_months, moment_ns
from farthing.books.prices import PriceBook
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.domain.errors import PriceError

USD = ExchangeTable()
YEAR = Capacity(
    "node", "X", 8, "reserved", date(2026, 1, 1), date(2027, 1, 1), Fraction(0), 100_000_000_000_001, source="invoice 7"
)
YEAR_END_NS = moment_ns(date(2027, 1, 1))
RENTED = Capacity("node", "X", 8, "on_demand", date(2026, 1, 1), None, Fraction(27_000_000_000))
NOVEMBER = moment_ns(date(2026, 11, 1))


def held(capacities, engines=(), exchange=USD):
    """The one capacity, divided."""
    (found,) = hold(capacities, list(engines), exchange)
    return found


def parts(holding, start, end):
    """What engines and pools of a capacity pay for [start, end)."""
    engines = [tariff.bill(start, end) for tariff in holding.engines.values()]
    pools = []
    for pool in holding.pools:
        first = max(start, pool.start_ns)
        last = end if pool.end_ns is None else min(end, pool.end_ns)
        if first < last:
            pools.append(pool.tariff.bill(first, last))
    return [*engines, *pools]


@given(st.data())
def test_engines_pools_and_host_are_the_capacitys_cost_to_the_nano(data):
    """Over any cut of any terms, whoever has how much of it; and nobody's part is ever negative."""
    gpus = data.draw(st.integers(1, 9))
    share = data.draw(st.decimals("0", "1", places=9))
    holding = held(data.draw(terms(gpus, share)), data.draw(claims(gpus)))
    for a, b in itertools.pairwise(data.draw(cuts())):
        shares = parts(holding, a, b)
        assert sum(shares) == holding.tariff.bill(a, b)
        assert min(shares, default=0) >= 0


@given(st.data())
def test_the_same_holds_for_a_capacity_that_is_paid_in_another_currency(data):
    """Exchange rates change within terms; where one is missing all of it is unpriced."""
    gpus = data.draw(st.integers(1, 4))
    table = data.draw(exchanges())
    holding = held(data.draw(terms(gpus, Decimal("0.15"), "EUR")), data.draw(claims(gpus)), table)
    for a, b in itertools.pairwise(data.draw(cuts())):
        try:
            whole = holding.tariff.bill(a, b)
        except PriceError:
            for tariff in holding.engines.values():
                with pytest.raises(PriceError):
                    tariff.bill(a, b)
        else:
            assert sum(parts(holding, a, b)) == whole


@given(st.data())
def test_every_gpu_pays_its_part_within_a_nano_of_the_exact_one(data):
    """Equal slots: none is favoured by more than rounding."""
    gpus = data.draw(st.integers(1, 8))
    bought = data.draw(terms(gpus, Decimal(0)))
    engines = [Claim(f"e{i}", "node", 1) for i in range(gpus)]
    holding = held(bought, engines)
    whole = [stretch for term in bought for stretch in term.stretches(USD)]
    a, b = sorted((data.draw(moments), data.draw(moments)))
    for tariff in holding.engines.values():
        assert abs(tariff.bill(a, b) - exact(whole, a, b) / gpus) <= 1


@given(st.data())
def test_a_capacitys_cost_is_its_exact_cost_rounded_down_once(data):
    """Amortised and running parts of all terms."""
    bought = data.draw(terms(3, Decimal("0.2")))
    whole = [stretch for term in bought for stretch in term.stretches(USD)]
    assert held(bought).tariff.bill(BEGIN_NS, END_NS) == exact(whole, BEGIN_NS, END_NS) // 1


@given(cuts(YEAR.start_ns, YEAR_END_NS), st.integers(1, 10**18))
def test_a_term_paid_upfront_amortises_to_what_was_paid(moments, paid):
    """Straight line: half after half of the term, and exactly all of it at its end."""
    tariff = held([replace(YEAR, amortised_nano=paid)]).tariff
    assert sum(tariff.bill(a, b) for a, b in itertools.pairwise(moments)) == paid
    middle = (YEAR.start_ns + YEAR_END_NS) // 2
    assert tariff.bill(YEAR.start_ns, middle) == paid // 2


def test_a_payment_upfront_may_recur_by_the_hour():
    """Partly upfront: both are in the price."""
    tariff = held([replace(YEAR, running=Fraction(1_000_000_000))]).tariff
    hours = (YEAR_END_NS - YEAR.start_ns) // HOUR
    assert tariff.bill(YEAR.start_ns, YEAR_END_NS) == YEAR.amortised_nano + hours * 1_000_000_000


def test_after_its_term_a_capacity_is_unpriced():
    """Whoever still runs there is told to enter the next term."""
    engine = held([YEAR], [Claim("chat", "node", 2)]).engines["chat"]
    with pytest.raises(
        PriceError, match=r"capacity 'node' has no price from 2027-01-01 on, .*; extend its term or add the next one"
    ):
        engine.bill(YEAR_END_NS - HOUR, YEAR_END_NS + 1)


def test_owned_equipment_costs_depreciation_electricity_and_its_place():
    """10 kW at PUE 1.3 and 12 cents: 1.56 an hour; 300,000 less 30,000 over three years; 2 an hour for the place."""
    energy = running_energy(Decimal(10_000), Decimal("1.3"), 120_000_000)
    assert energy == 1_560_000_000
    start, end = date(2026, 1, 31), add_months(date(2026, 1, 31), 36)
    assert end == date(2029, 1, 31)
    owned = Capacity("node", "X", 8, "owned", start, end, energy + 2_000_000_000, 270_000 * 10**9)
    end_ns = owned.end_ns
    assert end_ns is not None
    hours = (end_ns - owned.start_ns) // HOUR
    assert held([owned]).tariff.bill(owned.start_ns, end_ns) == 270_000 * 10**9 + hours * 3_560_000_000


def test_equipment_in_service_beyond_its_depreciation_costs_what_runs():
    """And what leaves service earlier is not depreciated faster."""
    start, lifetime = date(2026, 1, 1), date(2026, 7, 1)
    owned = Capacity("n", "X", 1, "owned", start, date(2027, 1, 1), Fraction(10**9), 181 * 24 * 10**9, lifetime)
    tariff = held([owned]).tariff
    july = moment_ns(lifetime)
    assert tariff.bill(july - HOUR, july) == 2_000_000_000
    assert tariff.bill(july - HOUR, july + HOUR) == 3_000_000_000
    assert tariff.bill(july, july + HOUR) == 1_000_000_000
    early = held([replace(owned, end=date(2026, 2, 1))]).tariff
    assert early.bill(owned.start_ns, moment_ns(date(2026, 2, 1))) == 31 * 24 * 2_000_000_000


@pytest.mark.parametrize(
    ("day", "months", "later"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2028, 2, 29), 12, date(2029, 2, 28)),
        (date(2026, 11, 15), 2, date(2027, 1, 15)),
        (date(2026, 12, 1), 36, date(2029, 12, 1)),
        (datetime(2026, 12, 1, 6, tzinfo=UTC), 12, datetime(2027, 12, 1, 6, tzinfo=UTC)),
    ],
)
def test_months_are_those_of_the_calendar(day, months, later):
    """The last day of a shorter month stands for those it has not."""
    assert add_months(day, months) == later


@pytest.mark.parametrize(
    ("kind", "account"),
    [
        ("on_demand", c.UNALLOCATED),
        ("spot", c.UNALLOCATED),
        ("owned", c.UNALLOCATED),
        ("reserved", c.UNUSED_COMMITMENT),
        ("committed", c.UNUSED_COMMITMENT),
    ],
)
def test_gpus_that_nobody_has_are_idle_or_an_unused_commitment(kind, account):
    """By what they are; the host's part is shared in any case."""
    node = replace(RENTED, kind=kind, host_share=Decimal("0.25"))
    holding = held([node], [Claim("chat", "node", 6), Claim("small", "node", 1, Decimal("0.25"))])
    found = {(pool.account, pool.reason): pool.tariff.bill(NOVEMBER, NOVEMBER + 8 * HOUR) for pool in holding.pools}
    gpu = 27 * 10**9 * 3 // 4
    assert found == {
        (c.SHARED, c.POOL_HOST): 27 * 10**9 * 2,
        (account, c.POOL_UNASSIGNED): gpu,
        (account, c.POOL_UNSOLD_SLICE): pytest.approx(gpu * 3 // 4, abs=1),
    }
    assert holding.engines["chat"].bill(NOVEMBER, NOVEMBER + 8 * HOUR) == 6 * gpu


def test_pools_of_terms_of_different_kinds_are_booked_apart_and_leave_no_gap():
    """A node that was rented and is then reserved: the same GPUs, another account."""
    june = date(2026, 6, 1)
    rented, reserved = replace(RENTED, end=june), replace(YEAR, start=june)
    holding = held([reserved, rented], [Claim("chat", "node", 5)])
    one, two = holding.pools
    assert (one.account, one.start_ns, one.end_ns) == (c.UNALLOCATED, rented.start_ns, moment_ns(june))
    assert (two.account, two.start_ns, two.end_ns) == (c.UNUSED_COMMITMENT, moment_ns(june), YEAR_END_NS)
    with pytest.raises(PriceError, match="no price from 2026-06-01 on"):
        one.tariff.bill(moment_ns(june), moment_ns(june) + HOUR)


def test_slices_share_gpus_and_seven_sevenths_leave_next_to_nothing():
    """MIG: seven engines on one GPU, and the eighth on the next."""
    slices = [Claim(f"e{i}", "node", 1, Decimal("0.142857")) for i in range(8)]
    holding = held([replace(RENTED, gpus=2)], slices)
    bills = [tariff.bill(NOVEMBER, NOVEMBER + HOUR) for tariff in holding.engines.values()]
    assert bills == pytest.approx([13_500_000_000 * 0.142857] * 8, abs=2)
    (unsold,) = holding.pools
    assert unsold.reason == c.POOL_UNSOLD_SLICE
    assert sum(bills) + unsold.tariff.bill(NOVEMBER, NOVEMBER + HOUR) == 27_000_000_000


def test_engines_take_their_gpus_in_the_order_of_the_settings():
    """Whole ones are not shared; fractions fill up what earlier fractions left."""
    engines = [
        Claim("a", "node", 2),
        Claim("b", "node", 2, Decimal("0.5")),
        Claim("c", "node", 1),
        Claim("d", "node", 3, Decimal("0.25")),
    ]
    holding = held([replace(RENTED, gpus=6)], engines)
    slots = {name: [index for index, _ in tariff.function.taken] for name, tariff in holding.engines.items()}
    assert slots == {"a": [0, 1], "b": [2, 3], "c": [4], "d": [2, 3, 5]}
    assert not [pool for pool in holding.pools if pool.reason == c.POOL_UNASSIGNED]


def test_more_gpus_than_there_are_are_refused():
    """With who wants them."""
    with pytest.raises(PriceError, match=r"capacity 'node' has gpus: 8, and its engines take 9 of them \(a, b\)"):
        held([RENTED], [Claim("a", "node", 6), Claim("b", "node", 3)])
    with pytest.raises(PriceError, match="engines take 2 of them"):
        held([replace(RENTED, gpus=1)], [Claim("a", "node", 1, Decimal("0.6")), Claim("b", "node", 1, Decimal("0.5"))])


def test_a_capacity_that_is_not_there_is_refused():
    """With those that are."""
    with pytest.raises(PriceError, match=r"engine 'a': no capacity 'nod'; add it under capacity: \(known: node\)"):
        hold([RENTED], [Claim("a", "nod", 1)], USD)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (replace(YEAR, start=date(2026, 12, 31), end=date(2028, 1, 1)), "has two terms at once: from 2026-01-01 until"),
        (replace(YEAR, start=date(2027, 1, 1), end=date(2028, 1, 1), gpus=4), "differs in gpu, gpus or host_share"),
    ],
)
def test_terms_that_contradict_one_another_are_refused_and_both_are_named(second, message):
    """One name is one capacity."""
    with pytest.raises(PriceError, match=message) as caught:
        hold([YEAR, second], [], USD)
    assert "from 2026-01-01 until 2027-01-01 (reserved, invoice 7)" in str(caught.value)


def test_an_engine_of_a_capacity_gets_its_tariff_whatever_its_gpu_is_called():
    """The book knows who has what; others are billed by their GPU's price."""
    book = PriceBook(capacities=[RENTED], claims=[Claim("chat", "node", 2)])
    assert book.tariff("NVIDIA H100 80GB HBM3", 1, engine="chat").nano_per_hour(NOVEMBER) == 27_000_000_000 // 4
    assert book.tariff("NVIDIA H100 80GB HBM3", 1, engine="docs").nano_per_hour(NOVEMBER) == 3_348_000_000
    assert [pool.reason for pool in book.pools] == [c.POOL_UNASSIGNED]
