"""Integer nano-dollars and splits that add up."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.domain.money import from_nano, split, to_nano


@given(st.integers(-(10**24), 10**24), st.lists(st.integers(0, 10**18), min_size=1).filter(any))
def test_shares_add_up_and_lie_within_one_unit_of_their_quota(total, weights):
    """The largest remainder neither loses nor invents a nano-dollar."""
    shares = split(total, weights)
    whole = sum(weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share * whole - total * weight) < whole
        assert share * total >= 0


def test_nothing_splits_over_nothing():
    """Zero over zero weights is zero; anything else is refused."""
    assert split(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="all zero"):
        split(1, [0, 0])
    with pytest.raises(ValueError, match="negative"):
        split(1, [2, -1])


@given(st.integers(-(10**20), 10**20))
def test_dollars_round_trip(nano):
    """Decimal dollars hold every nano-dollar."""
    assert to_nano(from_nano(nano)) == nano


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "0.0000000001"])
def test_amounts_that_are_no_nano_dollars_are_refused(amount):
    """Finer than a nano-dollar, or no number at all."""
    with pytest.raises(ValueError, match="amount"):
        to_nano(Decimal(amount))
