"""Charges against the known cost of every request of a simulated engine, over many seeds of what is hard about it.

Must hold: 95 of 100 finished requests within 10 % of the truth, every tenant within 2 %, every phase's share of busy
time within 2 points. No constant of the costing is the simulator's: its defaults come from the device's data sheet.

What preemptions made the engine compute once more is nobody's own: truth and charges have it as a pool apart, which
``with_pool`` holds against the tokens that each request had in the KV cache at that very moment.
"""

import functools
from dataclasses import replace

import pytest
from tests.costing.simulated import Accuracy, accuracy, cost
from tests.simulation import SimConfig, simulate
from tests.simulation.presets import PRESETS, TEXT, VISION

from farthing.costing.checks import FIT_GAP_LIMIT
from farthing.costing.stream import CostStream
from farthing.domain.model import Fit
from farthing.domain.records import Started

SEEDS = {"text": 5, "speculation": 4, "aborts": 4, "restart": 4, "kv_pressure": 4, "two_servers": 2}
RUNS = [(name, seed) for name, seeds in SEEDS.items() for seed in range(seeds)]
P95 = 0.10
TENANT = 0.02
SHARE = 0.02
ANY = 0.20
"""No single request may be further off: a claim on a wrong step of a short request shows here, and nowhere else."""


@functools.cache
def of(config: SimConfig) -> Accuracy:
    """The accuracy of one simulation's charges."""
    simulation = simulate(config)
    return accuracy(simulation, cost(simulation))


@pytest.fixture(params=RUNS, ids=[f"{name}-{seed}" for name, seed in RUNS])
def run(request):
    """The name and seed of each simulation in turn, and its accuracy."""
    name, seed = request.param
    return name, seed, of(PRESETS[name].seeded(seed))


def test_there_are_at_least_twenty_seeds():
    """Preemption, speculation, clients that hang up, crashes and drained stops are all among them."""
    assert len(RUNS) >= 20
    assert set(SEEDS) <= set(PRESETS)


def test_requests_pay_what_they_cost(run):
    """The error of finished requests is at most 10 % at the 95th percentile, and 20 % for any of them."""
    *_, found = run
    assert len(found.requests) > 800
    assert found.at(0.95) <= P95
    assert found.requests[-1] <= ANY


def test_tenants_pay_what_they_cost(run):
    """Every tenant within 2 %, recomputed work apart, down to one with 1.5 % of all cost."""
    *_, found = run
    assert found.tenants
    for tenant, error in found.tenants.items():
        assert abs(error) <= TENANT, (tenant, found.tenants)


def test_phases_take_their_share(run):
    """Prefill and decode within 2 points of their true share, and busy time within 0.2 %."""
    *_, found = run
    assert all(abs(points) <= SHARE for points in found.shares.values()), found.shares
    assert abs(found.busy) <= 0.002


@pytest.mark.parametrize("seed", range(SEEDS["kv_pressure"]))
def test_recomputed_work_is_pooled_and_shared_by_who_held_the_memory(seed):
    """As much is pooled as was done again (11 % of all time), and tenants pay within 2 % with it as well.

    The exception: the tenant whose requests are preempted most pays up to 3.5 % too much. While its work is done again
    it holds nothing, but which steps a preempted sequence sat out nobody tells, so it counts as holding its tokens for
    a part of every step.
    """
    found = of(PRESETS["kv_pressure"].seeded(seed))
    pooled, again = found.pool
    assert again > 0.08
    assert pooled == pytest.approx(again, rel=0.03)
    for tenant, error in found.with_pool.items():
        assert abs(error) <= (0.035 if tenant == "documents" else TENANT), found.with_pool


@pytest.mark.parametrize("seed", range(3))
def test_preemptions_do_not_teach_the_fit_a_wrong_price_of_context(seed):
    """Tokens computed again are priced as a prefill's: counted as decoding they made attended context 35 % dearer."""
    config = PRESETS["kv_pressure"].seeded(seed)
    fit = last_fit(config)
    assert fit.coefficients["attended_context"] == pytest.approx(config.law.attended_token_ns / 1e9, rel=0.15)
    assert fit.coefficients["decode_tokens"] == pytest.approx(config.law.decode_token_ns / 1e9, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_who_paid_for_a_repeated_image_is_a_guess_but_tenants_and_phases_are_not(seed):
    """Nobody tells which images came from the encoder's cache: with images that repeat, p95 is about 48 %, not 10 %.

    Half of all requests are within 2 %, tenants within 2 % and phases within 2 points all the same.
    """
    found = of(VISION.seeded(seed))
    assert 0.10 < found.at(0.95) <= 0.60
    assert found.at(0.5) <= 0.02
    assert all(abs(error) <= TENANT for error in found.tenants.values()), found.tenants
    assert all(abs(points) <= SHARE for points in found.shares.values()), found.shares


@pytest.mark.parametrize("seed", range(3))
def test_requests_with_images_that_never_repeat_pay_what_they_cost(seed):
    """The encoder's cache is all that stands between image traffic and the 10 %."""
    tenants = tuple(
        replace(tenant, images=tenant.images and replace(tenant.images, repeated=0.0)) for tenant in VISION.tenants
    )
    found = of(replace(VISION, tenants=tenants).seeded(seed))
    assert found.at(0.95) <= P95
    assert all(abs(error) <= TENANT for error in found.tenants.values()), found.tenants
    assert all(abs(points) <= SHARE for points in found.shares.values()), found.shares


def test_clients_that_hang_up_leave_little_that_nobody_owns():
    """Under 1 % of busy time has no owner: decoding after the client had gone, and of siblings that nobody counts."""
    for seed in range(SEEDS["aborts"]):
        unattributed = of(PRESETS["aborts"].seeded(seed)).unattributed
        assert sum(unattributed.values()) <= 0.01, unattributed


def test_a_fit_that_is_kept_for_some_windows_is_the_best_of_those_it_was_made_of():
    """Later windows are not followed by a new fit each; the check of the fit must not turn red in between."""
    simulation = simulate(TEXT.scaled(2))
    started, *records = simulation.records
    assert isinstance(started, Started)
    stream = CostStream(started, lambda start, end: end - start)
    versions = set()
    for record in records:
        stream.feed(record)
        fit = stream.fit()
        versions.add(fit.version)
        assert fit.method == "assumed" or stream.fit_gap(fit.coefficients) <= FIT_GAP_LIMIT
    assert fit.windows > 60
    assert len(versions) < fit.windows


def last_fit(config: SimConfig) -> Fit:
    """The fit that the last window was settled with."""
    fits = [window.fit for window in cost(simulate(config)) if window.fit is not None]
    return fits[-1]
