"""Bills telescope, whatever the cuts; a missing price is an error, never zero, and never an older price."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.books.price_strategies import BEGIN_NS, END_NS, cuts, exact, fractions, moments, price_lists

from farthing.books.moments import moment_ns
from farthing.books.prices import DEFAULT_PRICES, GpuPrice, PriceBook, canonical_gpu
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.errors import PriceError

NOVEMBER = 1_795_000_000 * SECOND
DAY = 24 * HOUR


def at(text):
    """Nanoseconds of an ISO date or time."""
    return moment_ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


def _book():
    return PriceBook(
        [
            GpuPrice("X", 3_333_333_333, date(2026, 1, 1), "test"),
            GpuPrice("X", 1_777_777_777, date(2026, 11, 20), "test"),
            GpuPrice("X", 2_999_999_999, date(2026, 11, 21), "test"),
        ]
    )


@given(st.lists(st.integers(0, 10 * 24 * HOUR), min_size=2), st.integers(1, 8))
def test_bills_of_adjoining_intervals_add_up_across_price_changes(offsets, count):
    """F(b) - F(a) does not depend on where it was cut."""
    tariff = _book().tariff("X", count)
    cuts = sorted(NOVEMBER + offset for offset in offsets)
    parts = [tariff.bill(a, b) for a, b in itertools.pairwise(cuts)]
    assert sum(parts) == tariff.bill(cuts[0], cuts[-1])
    assert all(part >= 0 for part in parts)


@given(price_lists(), st.integers(1, 16), fractions, cuts())
def test_bills_of_any_cuts_are_the_exact_amount_to_the_nano(prices, count, fraction, moments):
    """Each bill is within a nano of the exact rational amount, and together they are it, rounded down once."""
    book = PriceBook(prices)
    tariff = book.tariff("X", count, fraction)
    stretches = [
        replace(one, rate=one.rate * count * Fraction(fraction)) for price in prices for one in book.stretches(price)
    ]
    total = 0
    for a, b in itertools.pairwise(moments):
        assert abs(tariff.bill(a, b) - exact(stretches, a, b)) < 1
        total += tariff.bill(a, b)
    assert total == exact(stretches, BEGIN_NS, END_NS) // 1


@given(price_lists(), cuts(), st.data())
def test_windows_merged_in_any_order_give_one_bill(prices, moments, data):
    """A window that spans a price change is no exception, and one bill does not depend on those before it."""
    tariff = PriceBook(prices).tariff("X", 3)
    windows = data.draw(st.permutations(list(itertools.pairwise(moments))))
    assert sum(tariff.bill(a, b) for a, b in windows) == tariff.bill(moments[0], moments[-1])


@given(price_lists(), moments, moments)
def test_cost_never_falls(prices, one, two):
    """F is non-decreasing: no bill is negative."""
    tariff = PriceBook(prices).tariff("X", 1)
    assert tariff.cumulative(max(one, two)) >= tariff.cumulative(min(one, two))


def test_an_hour_of_a_default_h100_costs_its_list_price():
    """One hour, one GPU, to the nano-dollar."""
    tariff = PriceBook().tariff("NVIDIA H100 80GB HBM3", 1)
    assert tariff.bill(NOVEMBER, NOVEMBER + HOUR) == 3_348_000_000


def test_a_gpu_without_price_is_an_error_that_says_what_to_add():
    """Unpriced is never free."""
    with pytest.raises(PriceError, match=r"add it under prices: in farthing\.yaml"):
        PriceBook().tariff("Voodoo 2", 1)


def test_a_moment_before_the_first_price_is_an_error():
    """No price is guessed backwards."""
    with pytest.raises(PriceError, match="its first begins 2026-01-01"):
        _book().tariff("X", 1).bill(1, 2)


def test_two_prices_from_one_day_are_refused():
    """Overlap has no right answer."""
    twice = [GpuPrice("X", 1, date(2026, 1, 1), "a"), GpuPrice("X", 2, date(2026, 1, 1), "b")]
    with pytest.raises(PriceError, match="two prices"):
        PriceBook(twice)


def test_prices_that_overlap_are_refused_and_both_are_named():
    """Whoever entered them finds both lines."""
    one = GpuPrice("X", 2_500_000_000, date(2026, 1, 1), "contract 1", date(2026, 6, 2))
    two = GpuPrice("X", 3_000_000_000, date(2026, 6, 1), "contract 2")
    with pytest.raises(PriceError) as caught:
        PriceBook([two, one])
    assert str(caught.value) == (
        "GPU 'X' has two prices at once: 2.5 from 2026-01-01 until 2026-06-02 (on_demand, contract 1) and "
        "3 from 2026-06-01 on (on_demand, contract 2); let them follow one another, or give one of them a name:"
    )


def test_prices_of_different_names_apply_at_once_and_engines_choose():
    """On demand and spot of one GPU, say; whoever chooses none gets the one without a name."""
    list_price = GpuPrice("X", 3_000_000_000, date(2026, 1, 1), "list")
    spot = replace(list_price, nano_per_hour=1_000_000_000, name="cheap", kind="spot")
    book = PriceBook([list_price, spot], chosen={"batch": "cheap", "lost": "gone"})
    assert book.tariff("X", 2).nano_per_hour(NOVEMBER) == 6_000_000_000
    assert book.tariff("X", 2, engine="chat").nano_per_hour(NOVEMBER) == 6_000_000_000
    assert book.tariff("X", 2, engine="batch").nano_per_hour(NOVEMBER) == 2_000_000_000
    with pytest.raises(PriceError, match=r"GPU 'X' \(price 'gone'\).*engines\[\]\.price.*'', 'cheap'"):
        book.tariff("X", 2, engine="lost")


def test_the_names_of_prices_are_found_by_a_drivers_name_of_the_gpu():
    """As those without a name are."""
    spot = GpuPrice("H100-SXM", 1_000_000_000, date(2026, 1, 1), "spot", name="cheap")
    tariff = PriceBook([spot], chosen={"e": "cheap"}).tariff("NVIDIA H100 80GB HBM3", 1, engine="e")
    assert (tariff.gpu, tariff.nano_per_hour(NOVEMBER)) == ("H100-SXM", 1_000_000_000)


GAPPED = PriceBook(
    [
        GpuPrice("X", 1_000_000_000, datetime(2026, 10, 1, 6, tzinfo=UTC), "a", datetime(2026, 10, 1, 8, tzinfo=UTC)),
        GpuPrice("X", 2_000_000_000, datetime(2026, 10, 1, 9, tzinfo=UTC), "b", date(2026, 10, 2)),
    ]
).tariff("X", 1)


def test_up_to_the_last_moment_of_a_price_is_billed_at_it():
    """`to` is exclusive: the hour that ends there is priced, the moment itself is not."""
    assert GAPPED.bill(at("2026-10-01T07:00:00"), at("2026-10-01T08:00:00")) == 1_000_000_000
    assert GAPPED.bill(at("2026-10-01T09:00:00"), at("2026-10-02T00:00:00")) == 30_000_000_000
    assert not GAPPED.priced(at("2026-10-01T08:00:00"))
    assert GAPPED.priced(at("2026-10-01T08:00:00") - 1)
    assert GAPPED.priced(at("2026-10-01T09:00:00"))


@pytest.mark.parametrize(
    ("start", "end", "gap"),
    [
        ("2026-10-01T08:10:00", "2026-10-01T08:20:00", "from 2026-10-01T08:00:00Z until 2026-10-01T09:00:00Z"),
        ("2026-10-01T07:00:00", "2026-10-01T10:00:00", "from 2026-10-01T08:00:00Z until 2026-10-01T09:00:00Z"),
        ("2026-10-01T08:00:00", "2026-10-01T08:00:01", "from 2026-10-01T08:00:00Z until 2026-10-01T09:00:00Z"),
        ("2026-10-01T23:00:00", "2026-10-02T01:00:00", "from 2026-10-02 on"),
        ("2026-10-03T00:00:00", "2026-10-03T00:00:00", "from 2026-10-02 on"),
    ],
)
def test_a_bill_that_touches_a_gap_is_an_error_that_names_the_gap(start, end, gap):
    """It is neither 0 there nor at the price before."""
    with pytest.raises(PriceError) as caught:
        GAPPED.bill(at(start), at(end))
    assert f"GPU 'X' has no price {gap}, so it is unpriced at " in str(caught.value)
    assert str(caught.value).endswith("add an entry for that time under prices: in farthing.yaml")


def test_a_moment_in_a_gap_has_no_rate():
    """What shows a price per hour now shows none."""
    with pytest.raises(PriceError, match="unpriced at 2026-10-01T08:30:00Z"):
        GAPPED.nano_per_hour(at("2026-10-01T08:30:00"))


def test_a_year_of_hourly_spot_prices_is_exact():
    """8,760 prices, each its hour's."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    spot = [
        GpuPrice("X", 1_000_000_000 + 7 * hour, begin + timedelta(hours=hour), "spot", kind="spot")
        for hour in range(8_760)
    ]
    tariff = PriceBook(spot).tariff("X", 1)
    start = moment_ns(begin)
    assert tariff.bill(start, start + 8_760 * HOUR) == sum(price.nano_per_hour for price in spot)
    assert tariff.bill(start + 5_000 * HOUR, start + 5_001 * HOUR) == spot[5_000].nano_per_hour
    assert len(tariff.version) <= 64


def test_entries_of_ones_own_replace_every_default_of_the_gpu():
    """A public list price never comes back beside one's own."""
    own = GpuPrice("L4", 100_000_000, date(2026, 6, 1), "own", name="cheap")
    book = PriceBook([own])
    assert [price for price in book.prices if price.gpu == "L4"] == [own]
    assert len(book.prices) == len(DEFAULT_PRICES)
    with pytest.raises(PriceError, match=r"no price for GPU 'L4'"):
        book.tariff("L4", 1)


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
    ],
)
def test_driver_names_find_their_price(device, key):
    """The price table is found by what NVML calls the device."""
    assert canonical_gpu(device) == key


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e", "NVIDIA GB200", "NVIDIA B200 NVL", "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA H20", "NVIDIA H20-3e", "NVIDIA H800", "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100-PCIE-40GB", "NVIDIA A100X", "GRID A100-10C", "NVIDIA A10", "NVIDIA A800-SXM4-80GB", "NVIDIA L40",
        "NVIDIA L40G", "NVIDIA L20", "NVIDIA L4 Tuned", "NVIDIA B300 SXM6 AC", "AMD Instinct MI300A",
        "AMD Instinct MI325X", "AMD Instinct MI308X", "H100", "A100", "unknown", "",
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_known_is_unpriced_and_never_has_anothers_price(device):
    """A GH200 is no H200, an H100 NVL no H100 SXM, and an A100 may have half of the memory."""
    with pytest.raises(PriceError, match=r"no price for GPU .*add it under prices:"):
        PriceBook().tariff(device, 1)


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100-SXM"),
        ("nvidia a100-sxm4-80gb mig 3g.40gb+me", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("h100-sxm5", "H100-SXM"),
    ],
)
def test_other_spellings_and_slices_of_a_known_gpu_are_that_gpu(device, key):
    """A slice is billed as its part of its GPU, whose name its own begins with."""
    assert canonical_gpu(device) == key


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA L40", "L40"),
    ],
)
def test_a_price_of_ones_own_finds_a_gpu_by_its_key_or_by_its_drivers_name(device, key):
    """Boards without a public price have a key of their own for the day that somebody enters one."""
    for name in (key, device):
        own = GpuPrice(name, 1_000_000_000, date(2026, 1, 1), "own")
        assert PriceBook([own]).tariff(device, 1).nano_per_hour(NOVEMBER) == 1_000_000_000


@pytest.mark.parametrize("fraction", ["0.142857", "0.5", "1"])
def test_a_slice_of_a_gpu_costs_its_part(fraction):
    """A MIG slice is billed as a slice, and telescopes like a whole one."""
    part = Decimal(fraction)
    tariff = PriceBook().tariff("H100-SXM", 2, part)
    assert tariff.nano_per_hour(NOVEMBER) == round(2 * 3_348_000_000 * part)
    cuts = [NOVEMBER, NOVEMBER + 7, NOVEMBER + HOUR // 3, NOVEMBER + HOUR]
    assert sum(tariff.bill(a, b) for a, b in itertools.pairwise(cuts)) == tariff.bill(cuts[0], cuts[-1])
    assert tariff.bill(cuts[0], cuts[-1]) == round(2 * 3_348_000_000 * part)


def test_dates_are_midnights_and_times_are_utc():
    """A naive time is UTC; one of another offset is converted."""
    assert moment_ns(date(1970, 1, 2)) == DAY
    assert moment_ns(datetime(1970, 1, 2)) == DAY  # noqa: DTZ001 - a naive time is what is tested
    assert moment_ns(datetime.fromisoformat("1970-01-02T01:00:00.000001+02:00")) == DAY - HOUR + 1_000
