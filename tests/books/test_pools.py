"""Drivers share pools over tenants to the nano-dollar, by what they say, and over nobody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.books.policies import EARLIER, PERIOD, cost, facts, policy, used, work

from farthing.books.allocation import allocate
from farthing.books.pools import parts, weights_of
from farthing.books.statement import PLATFORM, SHARED_COST
from farthing.domain import conventions as c

KNOWN = facts(
    [
        work("acme", 300),
        work("acme", 100, c.PREFILL),
        cost(c.ABORTED, 200, tenant="globex", phase=c.DECODE),
        work("initech", 9_999, service_period=EARLIER),
        cost(c.IDLE, 1_000),
    ],
    [
        used("acme", output=30, computed=10, requests=2),
        used("globex", output=20, outcome=c.ABORTED),
        used("globex", output=999, outcome=c.FAILED),
        used("unknown", output=5, requests=7),
        used("initech", output=999, service_period=EARLIER),
    ],
)


def rule(text):
    """The rule of idle time."""
    return policy(f"pools: {{idle: {{{text}}}}}\n").pool(c.IDLE, "")


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("driver: none", {}),
        ("driver: busy", {"acme": 400, "globex": 200}),
        ("driver: busy, exclude: [acme]", {"globex": 200}),
        ("driver: tokens", {"acme": 40, "globex": 20, "unknown": 5}),
        ("driver: tokens, exclude: [unknown]", {"acme": 40, "globex": 20}),
        ("driver: requests", {"acme": 2, "unknown": 7}),
        ("driver: fixed, fixed: {b: 66, a: 34}", {"a": 34, "b": 66}),
        ("driver: fixed, fixed: {b: 66.5, a: 33.5}", {"a": 67, "b": 133}),
        ("driver: reserved, reserved: {b: 2, a: 4, c: 0}", {"a": 4, "b": 2}),
        ("driver: reserved, reserved: {b: 0.5, a: 4}, exclude: [a]", {"b": 1}),
    ],
)
def test_a_driver_weighs_what_it_says(text, weights):
    """Of the period's own work, in order of names, failures and closed periods left out."""
    found = weights_of(rule(text), KNOWN, PERIOD)
    assert found == weights
    assert list(found) == sorted(found)


def test_a_reservation_that_changes_is_weighed_by_how_long_it_held():
    """10 of November's 30 days with 1, 20 with 4, against 3 all month: 90 to 90."""
    dated = rule(
        "driver: reserved, reserved: [{weights: {a: 1, b: 3}}, {from: 2026-11-11, weights: {a: 4, b: 3}}, "
        "{from: 2026-12-01, weights: {a: 9}}]"
    )
    weights = weights_of(dated, KNOWN, PERIOD)
    assert weights["a"] == weights["b"]
    assert weights_of(dated, KNOWN, EARLIER) == {"a": 1, "b": 3}
    assert weights_of(dated, KNOWN, "2026-12") == {"a": 9}


def test_a_reservation_that_has_not_begun_weighs_nothing():
    """Nobody is charged for what is to come."""
    later = rule("driver: reserved, reserved: [{from: 2027-01-01, weights: {a: 1}}]")
    assert weights_of(later, KNOWN, PERIOD) == {}


def test_a_shared_pool_is_a_line_of_each_tenant_that_names_its_driver():
    """With the share in per cent, for people, and the integers, for machines."""
    lines = [line for line in allocate(KNOWN, policy("pools: {idle: {driver: busy}}\n")) if line.account == c.IDLE]
    assert [(line.tenant, line.section, line.amount_nano) for line in lines] == [
        ("acme", SHARED_COST, 667),
        ("globex", SHARED_COST, 333),
    ]
    assert lines[0].description == "Idle engines, 66.67 % by the cost of own work"
    assert lines[0].basis == {
        "rule": "pool",
        "driver": "busy",
        "pool_nano": 1_000,
        "units": 400,
        "total_units": 600,
        "rank": 1,
        "left": 1,
    }


def test_a_pool_of_which_nobody_has_any_driver_stays_with_the_platform_and_says_so():
    """A month without requests still has idle engines."""
    (line,) = allocate(facts([cost(c.IDLE, 7)]), policy("pools: {idle: {driver: requests}}\n"))
    assert (line.tenant, line.section, line.amount_nano) == ("", PLATFORM, 7)
    assert line.description == "Idle engines (shared by requests finished, of which nobody has any)"


def test_a_tenant_with_a_fixed_share_pays_it_without_any_request():
    """It was agreed."""
    known = facts([work("acme", 10), cost(c.SHARED, 100, reason=c.POOL_HOST)])
    lines = allocate(known, policy("pools: {host: {driver: fixed, fixed: {acme: 40, quiet: 60}}}\n"))
    assert {line.tenant: line.amount_nano for line in lines if line.account == c.SHARED} == {"acme": 40, "quiet": 60}


def test_pools_of_one_account_are_kept_apart_by_what_they_are():
    """Each shared cost, and each reason of unattributed work, has its own line."""
    known = facts(
        [
            cost(c.SHARED, 5, reason="host"),
            cost(c.SHARED, 6, reason="gateway"),
            cost(c.UNATTRIBUTED, 1, reason=c.REASON_LOST),
            cost(c.UNATTRIBUTED, 2, reason=c.REASON_UNMETERED),
            cost(c.IDLE, 3, model="a"),
            cost(c.IDLE, 4, model="b"),
        ]
    )
    lines = {(line.account, line.reason): line.amount_nano for line in allocate(known, policy())}
    assert lines == {
        (c.IDLE, ""): 7,
        (c.UNATTRIBUTED, c.REASON_LOST): 1,
        (c.UNATTRIBUTED, c.REASON_UNMETERED): 2,
        (c.SHARED, "gateway"): 6,
        (c.SHARED, "host"): 5,
    }


@given(st.integers(-(10**18), 10**18), st.lists(st.integers(0, 10**15), min_size=1).filter(any))
def test_parts_add_up_and_follow_from_their_ranks(whole, units):
    """Each part can be checked with a pocket calculator, without those of others."""
    found = parts(whole, units)
    assert sum(part.nano for part in found) == whole
    for part, unit in zip(found, units, strict=True):
        extra = int(part.basis["rank"]) <= int(part.basis["left"])
        size = abs(whole) * unit // sum(units) + extra
        assert part.nano == (size if whole >= 0 else -size)
