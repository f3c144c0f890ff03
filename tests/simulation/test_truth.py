"""The truth adds up, and is the law's."""

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.simulation import (
    RECOMPUTE,
    Lengths,
    Limits,
    Observation,
    Phase,
    Restart,
    SimConfig,
    StepLaw,
    TenantLoad,
    simulate,
)
from tests.simulation.cached import preset
from tests.simulation.presets import KV_PRESSURE, PRESETS, TEXT

from farthing.domain.clock import SECOND
from farthing.domain.conventions import ABORTED, DECODE, PREFILL

EVERY = sorted(PRESETS)
QUIET = StepLaw(noise=0.0)


@pytest.mark.parametrize("name", EVERY)
def test_shares_of_requests_add_up_to_the_busy_time_exactly(name):
    """No nanosecond of a step is nobody's, and none is charged twice, rank by rank and boot by boot."""
    simulation = preset(name)
    for number, boot in enumerate(simulation.boots):
        mine = [request for request in simulation.requests if request.key.boot == boot.boot]
        for rank, steps in enumerate(boot.steps):
            charged = sum(sum(request.ns.values()) for request in mine if request.rank == rank)
            assert charged == sum(row.end_ns - row.start_ns for row in steps) == boot.states[rank]["busy"], number
    assert sum(simulation.phase_ns.values()) == simulation.busy_ns
    assert sum(sum(phases.values()) for phases in simulation.tenant_truth().values()) == simulation.busy_ns
    assert all(ns > 0 for request in simulation.requests for ns in request.ns.values())


@pytest.mark.parametrize("name", EVERY)
def test_states_tile_the_span(name):
    """Starting, busy, idle, asleep and down together are the whole time, and none is negative."""
    simulation = preset(name)
    start, stop = simulation.span
    states = ("starting", "busy", "idle", "asleep")
    whole = sum(simulation.state_ns(state) for state in states) + simulation.down_ns
    assert whole == (stop - start) * simulation.config.ranks
    for boot in simulation.boots:
        for by_state in boot.states:
            assert sum(by_state.values()) == boot.stop_ns - boot.start_ns
            assert min(by_state.values()) >= 0


@pytest.mark.parametrize("name", EVERY)
def test_steps_follow_each_other_and_their_phases_are_their_duration(name):
    """A rank computes one step at a time; prefill, decode, vision and rework make up each."""
    for boot in preset(name).boots:
        for steps in boot.steps:
            for row in steps:
                phases = row.prefill_ns + row.decode_ns + row.vision_ns + row.again_ns
                assert phases == pytest.approx(row.end_ns - row.start_ns, abs=0.01)
            for before, after in pairwise(steps):
                assert before.end_ns <= after.start_ns


def test_a_request_alone_costs_what_the_law_says():
    """Without noise and company the truth can be written down: two chunks, then one token a step."""
    prompt, output, chunk = 3_000, 5, 2_048
    tenant = TenantLoad("one", prompt=Lengths(prompt), output=Lengths(output), stopping=0.0)
    simulation = simulate(
        SimConfig(
            law=QUIET,
            limits=Limits(step_tokens=chunk),
            tenants=(tenant,),
            phases=(Phase("closed", 0.5, 1, think_seconds=1e4),),
        )
    )
    (request,) = simulation.requests
    law = simulation.config.law
    prefill = 2 * law.step_ns + law.prefill_token_ns * prompt + law.prefill_context_ns * prompt * (prompt + 1) / 2
    # the step that decodes the n-th token reads the prompt and the n - 1 tokens before it
    attended = sum(prompt + n for n in range(1, output))
    decode = (output - 1) * (law.step_ns + law.decode_token_ns) + law.attended_token_ns * attended
    assert request.ns[PREFILL] == pytest.approx(prefill, abs=5)
    assert request.ns[DECODE] == pytest.approx(decode, abs=5)
    assert simulation.busy_ns == request.ns[PREFILL] + request.ns[DECODE]


def test_a_stop_token_costs_one_step_more_when_scheduling_runs_ahead():
    """The overrun is the sequence's own decoding; under synchronous scheduling there is none."""
    tenant = TenantLoad("one", prompt=Lengths(100), output=Lengths(4), stopping=1.0)
    config = SimConfig(law=QUIET, tenants=(tenant,), phases=(Phase("closed", 0.5, 1, think_seconds=1e4),))
    ahead = simulate(config)
    behind = simulate(replace(config, limits=Limits(asynchronous=False)))
    law = config.law
    overrun = law.step_ns + law.decode_token_ns + law.attended_token_ns * 104
    assert ahead.busy_ns - behind.busy_ns == pytest.approx(overrun, abs=5)
    assert ahead.requests[0].decode_tokens == behind.requests[0].decode_tokens + 1
    assert ahead.counters["engine_output"] == behind.counters["engine_output"] == 4


def test_equals_pay_equal_and_the_longer_prompt_pays_more():
    """Marginal work is charged to who causes it; the fixed part does not depend on size."""
    tenants = (
        TenantLoad("short", prompt=Lengths(100), output=Lengths(50)),
        TenantLoad("long", prompt=Lengths(4_000), output=Lengths(50)),
    )
    simulation = simulate(SimConfig(law=QUIET, tenants=tenants, phases=(Phase("closed", 60, 16),)))
    mean = {}
    for tenant in ("short", "long"):
        costs = [request.ns[DECODE] for request in simulation.requests if request.tenant == tenant]
        mean[tenant] = sum(costs) / len(costs)
    # 3,900 tokens of context more in each of 49 steps, at 41 ns, give or take the company they keep
    assert mean["long"] - mean["short"] == pytest.approx(49 * 3_900 * 41, rel=0.15)


def test_work_that_preemption_undid_is_labelled():
    """Recomputed tokens exist exactly where something was preempted, and cost time of their own."""
    pressed, free = preset("kv_pressure"), preset("text")
    assert pressed.phase_ns[RECOMPUTE] > 0.03 * pressed.busy_ns
    assert free.phase_ns[RECOMPUTE] == 0
    for request in pressed.requests:
        assert (request.recomputed_tokens > 0) == (RECOMPUTE in request.ns)
        assert request.preemptions or not request.recomputed_tokens


def test_the_pool_of_undone_work_is_the_same_work_shared_by_who_held_the_memory():
    """Nothing is lost on the way from those who were preempted to those who left no room, who are others."""
    pressed = preset("kv_pressure")
    pooled = {request.key: request.pool_ns for request in pressed.requests}
    assert sum(pooled.values()) == pytest.approx(pressed.phase_ns[RECOMPUTE], rel=1e-6)
    never = [request for request in pressed.requests if not request.preemptions]
    assert sum(pooled[request.key] for request in never) > 0.1 * pressed.phase_ns[RECOMPUTE]
    assert not any(request.pool_ns for request in preset("text").requests)


def test_aborted_requests_have_truth_as_well():
    """Work for clients that hung up is somebody's, also when it was never delivered."""
    simulation = preset("aborts")
    aborted = simulation.tenant_truth([ABORTED])
    assert sum(sum(phases.values()) for phases in aborted.values()) > 0.03 * simulation.busy_ns
    early = [r for r in simulation.requests if r.outcome == ABORTED and not sum(r.output_tokens)]
    assert any(request.ns.get(PREFILL) for request in early)


def test_a_step_that_the_engine_died_in_is_busy_time_without_a_mark():
    """Its work counts for the requests in it, though nothing tells of it."""
    simulation = preset("restart")
    rows = [row for boot in simulation.boots for steps in boot.steps for row in steps if not row.marked]
    assert len(rows) == 1
    assert simulation.unmarked_ns == rows[0].end_ns - rows[0].start_ns > 0
    assert len(simulation.boots) == 3


@pytest.mark.parametrize("kind", ["crash", "kill", "drain"])
def test_after_a_restart_clients_come_back(kind):
    """Closed-loop clients of a phase ask the new boot; a drained engine fails nobody."""
    config = replace(TEXT, phases=(Phase("closed", 40, 8),), starting_seconds=5.0, restarts=(Restart(20.0, 4.0, kind),))
    simulation = simulate(config)
    assert len(simulation.boots) == 2
    assert len({request.key.boot for request in simulation.requests}) == 2
    failed = [request for request in simulation.requests if request.outcome == "failed"]
    assert bool(failed) == (kind != "drain")
    assert simulation.down_ns >= 3 * SECOND


def test_two_ranks_add_up_on_their_own():
    """Data-parallel engines have their own steps; states and truth hold for each."""
    simulation = simulate(replace(KV_PRESSURE.scaled(0.2), ranks=2, servers=2))
    assert {request.rank for request in simulation.requests} == {0, 1}
    for boot in simulation.boots:
        for rank, by_state in enumerate(boot.states):
            charged = sum(sum(request.ns.values()) for request in simulation.requests if request.rank == rank)
            assert charged == by_state["busy"] > 0


def test_equal_seeds_give_equal_simulations():
    """Records and truth are functions of the configuration."""
    config = PRESETS["mixed"].scaled(0.2)
    first, again, other = simulate(config.seeded(5)), simulate(config.seeded(5)), simulate(config.seeded(6))
    assert first.records == again.records
    assert first.requests == again.requests
    assert first.boots == again.boots
    assert first.records != other.records


def test_how_it_is_observed_does_not_change_open_loop_truth():
    """Jitter of marks is in the eye of the beholder: with clients that do not wait, the engine does the same."""
    config = SimConfig(seed=3, tenants=(TenantLoad("one", stopping=0.0),), phases=(Phase("poisson", 30, 4),))
    blurred = replace(config, observation=Observation(delay_ns=2e6, delay_sigma=1.0, hiccup_probability=0.1))
    first, second = simulate(config), simulate(blurred)
    assert [request.ns for request in first.requests] == [request.ns for request in second.requests]
    assert first.records != second.records
