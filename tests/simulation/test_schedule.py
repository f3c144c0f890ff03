"""The scheduler keeps its limits and its order, and loses no token."""

from collections import Counter

import pytest
from tests.simulation import Lengths, Limits, Phase, Prefix, SimConfig, TenantLoad, simulate
from tests.simulation.cached import preset
from tests.simulation.presets import PRESETS
from tests.simulation.requests import Request, Sequence, Spec
from tests.simulation.run import run
from tests.simulation.scheduler import Scheduler

from farthing.domain.conventions import FINISHED
from farthing.domain.records import StepBatch

EVERY = sorted(PRESETS)


def sequence_of(name, prompt):
    """A sequence of a request with this prompt and ten tokens of output."""
    spec = Spec(
        request_id=name,
        tenant="one",
        tier="",
        model="",
        prompt_tokens=prompt,
        segments=(),
        images=(),
        outputs=(10,),
        stops=(False,),
        patience_ns=None,
        abort_after=None,
        streamed=True,
        told=True,
        rejected=False,
    )
    return Sequence(Request(spec, process=0, rank=0, arrived_ns=0, queued_ns=0), 0)


def mark_totals(simulation):
    """Sums of the step marks' columns."""
    totals: Counter[str] = Counter()
    for record in simulation.records:
        if isinstance(record, StepBatch):
            for column in ("prefill_tokens", "decode_tokens", "encoder_tokens", "generated", "preempted"):
                totals[column] += sum(getattr(record.marks, column))
            totals["computed"] += sum(record.marks.prompt_computed)
            totals["cached"] += sum(record.marks.prompt_cached)
    return totals


@pytest.mark.parametrize("name", EVERY)
def test_memory_and_budgets_are_never_exceeded(name):
    """Blocks, tokens per step and sequences stay within their limits at every step."""
    simulation = preset(name)
    limits = simulation.config.limits
    for boot in simulation.boots:
        for steps in boot.steps:
            assert max(row.kv_blocks for row in steps) <= limits.kv_blocks
            # an overrun of a stop is in a step that was scheduled before: it comes on top
            spare = (1 + limits.draft_tokens) * limits.sequences
            assert max(row.prefill_tokens + row.decode_tokens for row in steps) <= limits.step_tokens + spare
            assert max(row.encoder_tokens for row in steps) <= limits.encoder_tokens


@pytest.mark.parametrize("name", EVERY)
def test_an_empty_engine_holds_nothing(name):
    """When the last request is gone, no block is in use and no image is held."""
    for boot in run(PRESETS[name].scaled(0.2)):
        for rank in boot.ranks:
            scheduler = rank.scheduler
            assert scheduler.kv.pinned == 0
            assert scheduler.encoder.used == scheduler.encoder.idle_tokens
            assert not scheduler.running
            assert not scheduler.waiting
            assert not len(scheduler.slots)


@pytest.mark.parametrize("name", EVERY)
def test_first_come_is_first_served(name):
    """Sequences are admitted in the order in which they reached the queue of their rank."""
    simulation = preset(name)
    for boot in simulation.boots:
        for rank in range(simulation.config.ranks):
            admitted = [
                (request.queued_ns, scheduled)
                for request in simulation.requests
                if request.key.boot == boot.boot and request.rank == rank
                for scheduled in request.scheduled_ns
                if scheduled is not None
            ]
            admitted.sort()
            moments = [scheduled for _, scheduled in admitted]
            assert moments == sorted(moments)
            assert all(queued <= scheduled for queued, scheduled in admitted)


@pytest.mark.parametrize("name", EVERY)
def test_tokens_of_steps_are_tokens_of_requests(name):
    """What the marks say was scheduled, encoded and emitted is what the requests had, aborted ones included."""
    simulation = preset(name)
    marks, requests = mark_totals(simulation), simulation.requests
    assert marks["prefill_tokens"] == sum(request.prefill_tokens for request in requests)
    assert marks["decode_tokens"] == sum(request.decode_tokens for request in requests)
    assert marks["encoder_tokens"] == sum(request.encoder_tokens for request in requests)
    assert marks["generated"] == sum(sum(request.output_tokens) for request in requests)
    assert marks["generated"] == simulation.counters["engine_output"]
    assert marks["computed"] == simulation.counters["prompt_computed"]
    assert marks["cached"] == simulation.counters["prompt_cached"]


@pytest.mark.parametrize("name", EVERY)
def test_a_finished_request_was_computed_whole(name):
    """Its prompt less what was cached, once; its output, in full."""
    for request in preset(name).requests:
        if request.outcome == FINISHED and not request.preemptions:
            computed = sum(request.prompt_tokens - cached for cached in request.cached_tokens)
            assert request.prefill_tokens == computed
            assert request.recomputed_tokens == 0
            assert request.decode_tokens >= sum(output - 1 for output in request.output_tokens) / (
                1 + preset(name).config.limits.draft_tokens
            )


def test_pressure_preempts_and_nobody_starves():
    """The latest give way when memory is short, and finish all the same."""
    simulation = preset("kv_pressure")
    assert sum(request.preemptions for request in simulation.requests) > 50
    assert {request.outcome for request in simulation.requests} == {FINISHED}
    peak = max(row.kv_blocks for row in simulation.boots[0].steps[0])
    assert peak > 0.95 * simulation.config.limits.kv_blocks


def test_the_latest_admitted_gives_way_and_is_first_to_come_back():
    """A preempted sequence loses everything, and waits before those that were never admitted."""
    scheduler = Scheduler(Limits(kv_blocks=4, block_tokens=16, step_tokens=64, sequences=8))
    old, young, new = (sequence_of(f"r{i}", prompt=32) for i in range(3))
    for sequence in (old, young):
        scheduler.enqueue(sequence)
    plan = scheduler.plan(0)
    assert plan is not None
    for chunk in plan.chunks:
        scheduler.computed(chunk)
        chunk.sequence.generated += 1
        scheduler.promote(chunk.sequence, chunk.sequence.limit)
    scheduler.enqueue(new)
    plan = scheduler.plan(1)
    # both need a third block for their next token; there are four in all
    assert plan is not None
    assert scheduler.running == [old]
    assert list(scheduler.waiting) == [young, new]
    assert (young.preemptions, young.computed, young.high) == (1, 0, 32)


def test_a_shared_prefix_is_computed_by_its_first_filler():
    """Whole blocks of it, once; whoever comes later finds them."""
    prefix = Prefix(1.0, groups=1, tokens=1_000)
    tenant = TenantLoad("one", prompt=Lengths(100), output=Lengths(10), prefix=prefix)
    simulation = simulate(SimConfig(tenants=(tenant,), phases=(Phase("closed", 5, 1),)))
    first, *others = simulation.requests
    assert first.cached_tokens == (0,)
    assert len(others) > 10
    assert {request.cached_tokens for request in others} == {(1_000 // 16 * 16,)}


def test_siblings_share_their_prompt():
    """Of n sequences the first computes the prompt; the others recompute no more than its last block."""
    tenant = TenantLoad("one", prompt=Lengths(500), output=Lengths(10), several=1.0)
    simulation = simulate(SimConfig(tenants=(tenant,), phases=(Phase("closed", 5, 1),)))
    for request in simulation.requests:
        first, *others = request.cached_tokens
        assert (first, set(others)) == (0, {496})


def test_images_seen_lately_are_not_encoded_again():
    """Repeated images come out of the encoder's cache: fewer tokens are encoded than images hold."""
    simulation = preset("vision")
    images = sum(request.image_tokens for request in simulation.requests)
    encoded = sum(request.encoder_tokens for request in simulation.requests)
    assert 0.3 * images < encoded < 0.9 * images
    assert any(request.image_tokens and not request.encoder_tokens for request in simulation.requests)


def test_speculation_emits_between_one_token_and_all_drafts():
    """Steps schedule one token and the drafts for each sequence; acceptance says how many come out."""
    limits = Limits(draft_tokens=4, acceptance=0.65)
    tenant = TenantLoad("one", prompt=Lengths(100), output=Lengths(400), stopping=0.0)
    simulation = simulate(SimConfig(limits=limits, tenants=(tenant,), phases=(Phase("closed", 20, 4),)))
    steps = sum(request.decode_tokens for request in simulation.requests) / 5
    emitted = sum(sum(request.output_tokens) - 1 for request in simulation.requests)
    expected = sum(0.65**k for k in range(5))
    assert emitted / steps == pytest.approx(expected, rel=0.05)


def test_what_cannot_fit_is_refused_before_it_blocks_the_queue_for_ever():
    """A tenant whose longest sequence exceeds the KV cache is an error of the configuration."""
    with pytest.raises(ValueError, match=r"tenant one: .* do not fit into limits.kv_blocks"):
        SimConfig(limits=Limits(kv_blocks=100))
