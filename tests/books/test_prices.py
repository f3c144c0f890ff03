"""Bills telescope, whatever the cuts; a missing price is an error, never zero."""

import itertools
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.books.prices import GpuPrice, PriceBook, canonical_gpu
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.errors import PriceError

NOVEMBER = 1_795_000_000 * SECOND


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


@pytest.mark.parametrize("fraction", ["0.142857", "0.5", "1"])
def test_a_slice_of_a_gpu_costs_its_part(fraction):
    """A MIG slice is billed as a slice, and telescopes like a whole one."""
    part = Decimal(fraction)
    tariff = PriceBook().tariff("H100-SXM", 2, part)
    assert tariff.nano_per_hour(NOVEMBER) == round(2 * 3_348_000_000 * part)
    cuts = [NOVEMBER, NOVEMBER + 7, NOVEMBER + HOUR // 3, NOVEMBER + HOUR]
    assert sum(tariff.bill(a, b) for a, b in itertools.pairwise(cuts)) == tariff.bill(cuts[0], cuts[-1])
    assert tariff.bill(cuts[0], cuts[-1]) == round(2 * 3_348_000_000 * part)
