"""Unit costs, parts of the bill, and why it changed: exact, with unknown as unknown and unpriced as unpriced."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.books.kpis import Measures, shares, unit_costs
from farthing.books.variance import variance
from farthing.domain import conventions as c

MEASURES = Measures(
    accounts_nano={c.CHARGED: 600, c.ABORTED: 100, c.IDLE: 250, c.UNATTRIBUTED: 50, c.UNALLOCATED: 0},
    phases_nano={c.PREFILL: 200, c.DECODE: 450, c.VISION: 50},
    named_nano=650,
    requests={c.FINISHED: 3, c.ABORTED: 1},
    tokens={c.TOKEN_PROMPT_COMPUTED: 4_000_000, c.TOKEN_OUTPUT: 1_000_000, c.TOKEN_IMAGE: 0},
    uncounted=1,
    saved_nano=300,
)
UNPRICED = Measures({}, {}, 0, {}, {}, 0, 0, unpriced=("lab",))

amounts = st.integers(min_value=0, max_value=10**18)
units = st.one_of(st.none(), st.integers(min_value=0, max_value=10**12))
periods = st.dictionaries(
    st.sampled_from([("a", "p"), ("a", "d"), ("b", "p"), ("idle", "")]), st.tuples(units, amounts)
)


def by_key(found):
    return {one.key: one for one in found}


def test_a_request_costs_its_work_and_with_the_whole_bill_its_idle_time_too():
    """Cost per inference: cost by finished requests, rounded once, half to even."""
    request = by_key(unit_costs(MEASURES))["request"]
    assert (request.units, request.direct_nano, request.loaded_nano) == (
        3,
        round(Fraction(700, 3)),
        round(Fraction(1000, 3)),
    )


def test_a_million_tokens_cost_what_their_phase_did():
    """Prompt tokens that were computed bear prefill, output tokens decode; blended is all work by both."""
    found = by_key(unit_costs(MEASURES))
    assert found["prompt_tokens"].direct_nano == 50
    assert found["output_tokens"].direct_nano == 450
    assert (found["tokens"].units, found["tokens"].direct_nano, found["tokens"].loaded_nano) == (5_000_000, 140, 200)


def test_what_nobody_counted_is_unknown_and_not_zero():
    """No images, no documents: no cost of one."""
    found = by_key(unit_costs(MEASURES))
    for key in ("image", "document", "image_request"):
        assert (found[key].units, found[key].direct_nano) == (None, None)
    assert (found["image_tokens"].units, found["image_tokens"].direct_nano) == (0, None)
    counted = by_key(unit_costs(replace(MEASURES, documents=(4, 700), image_requests=(0, 0))))
    assert (counted["document"].units, counted["document"].direct_nano) == (4, 175)
    assert counted["image_request"].direct_nano is None


def test_the_parts_of_the_bill_are_by_account_and_by_who_has_a_name():
    """Allocated, unnamed and every other account that has anything add up to the bill; savings stand beside it."""
    found = by_key(shares(MEASURES))
    assert found["allocated"].value == 0.65
    assert found["unnamed"].value == 0.05
    assert found["idle"].value == 0.25
    assert found["saved"].value == 0.3
    assert "unallocated" not in found
    parts = ("allocated", "unnamed", "idle", "unattributed")
    assert sum(found[key].nano for key in parts) == MEASURES.bill_nano


def test_an_account_of_capacity_has_a_part_once_there_is_anything_in_it():
    """GPUs that no engine has are part of the bill like any other account."""
    accounts = {**MEASURES.accounts_nano, c.UNALLOCATED: 1000, c.DRAINING: 1}
    found = by_key(shares(replace(MEASURES, accounts_nano=accounts)))
    assert found[c.UNALLOCATED].nano == 1000
    assert found[c.DRAINING].nano == 1


def test_a_period_of_which_nothing_is_priced_is_unpriced_and_not_zero():
    """Every amount and every part says so."""
    assert {unit.direct_nano for unit in unit_costs(UNPRICED)} == {c.UNPRICED}
    assert {share.value for share in shares(UNPRICED)} == {share.nano for share in shares(UNPRICED)} == {c.UNPRICED}


def test_a_period_without_a_bill_has_no_shares():
    """Nothing by nothing is unknown."""
    empty = Measures({}, {}, 0, {}, {}, 0, 0)
    assert {share.value for share in shares(empty)} == {None}
    assert {unit.direct_nano for unit in unit_costs(empty)} == {None}


@pytest.mark.parametrize(
    ("old", "new", "usage", "rate"),
    [
        ((10, 100), (20, 200), 100, 0),
        ((10, 100), (10, 150), 0, 50),
        ((10, 100), (20, 300), 100, 100),
        ((10, 100), (5, 25), -50, -25),
        ((0, 0), (5, 25), 25, 0),
        ((10, 100), (0, 0), -100, 0),
    ],
    ids=["more used", "dearer", "both", "less and cheaper", "new", "gone"],
)
def test_a_change_is_usage_at_the_old_rate_and_rate_at_the_new_usage(old, new, usage, rate):
    """Price-volume analysis as in any textbook of management accounting."""
    (line,) = variance({("k",): old}, {("k",): new}).lines
    assert (line.usage_nano, line.rate_nano, line.other_nano, line.rounding_nano) == (usage, rate, 0, 0)


def test_a_cost_without_a_unit_changes_as_a_whole():
    """Idle time has no tokens: its change is neither usage nor rate."""
    (line,) = variance({("idle", ""): (None, 7)}, {("idle", ""): (None, 10)}).lines
    assert (line.usage_nano, line.rate_nano, line.other_nano) == (0, 0, 3)


@given(periods, periods)
def test_the_parts_of_a_change_add_up_to_it_exactly(old, new):
    """Usage, rate, what has no unit and one rounding line are the change of the bill, to the nano-dollar."""
    found = variance(old, new)
    bill = sum(nano for _, nano in new.values()) - sum(nano for _, nano in old.values())
    assert found.usage_nano + found.rate_nano + found.other_nano + found.rounding_nano == found.change_nano == bill
    assert all(abs(line.rounding_nano) <= 1 for line in found.lines)
    assert {line.key for line in found.lines} == {*old, *new}


@given(amounts, st.integers(min_value=1, max_value=10**12))
def test_a_unit_cost_is_the_nearest_nano_dollar(nano, requests):
    """Rounded once from the exact quotient."""
    measures = replace(MEASURES, accounts_nano={c.CHARGED: nano}, requests={c.FINISHED: requests})
    cost = by_key(unit_costs(measures))["request"].direct_nano
    assert abs(cost - Fraction(nano, requests)) <= Fraction(1, 2)
