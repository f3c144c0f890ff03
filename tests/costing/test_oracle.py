"""The brute-force oracle explains every step of both recordings (test_accuracy.py holds the charges against it)."""

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.costing.oracle import (
    LENGTHS,
    by_launch,
    by_seconds,
    by_step,
    compare,
    difference,
    fit_steps,
    length_of,
    shares_by_phase,
    split,
)
from tests.costing.oracle_model import Schedule, ScheduleError, Served, Share, Step
from tests.costing.oracle_schedule import replay

from farthing.domain import conventions as c
from farthing.replay.recording import Recording, load_recording

TEXT, VISION = "h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"
LAW = {
    "steps": 6e-3,
    "prefill_tokens": 2e-5,
    "prefill_context": 1e-9,
    "decode_tokens": 1e-5,
    "attended_context": 4e-8,
    "encoder_steps": 3e-2,
    "encoder_tokens": 1e-5,
}


@pytest.fixture(scope="module", params=[TEXT, VISION])
def recording(request) -> Recording:
    """Each packaged recording."""
    return load_recording(request.param)


@pytest.fixture(scope="module")
def schedule(recording) -> Schedule:
    """Its schedule, replayed."""
    return replay(recording)


def served(identity, prompt=10, **more):
    """A request that ran for some steps."""
    fields = {"tenant": "t", "load_phase": "p", "computed": prompt, "first_step": 0, "last_step": 0}
    return Served(identity, prompt=prompt, scheduled_s=0.0, finished=True, arrived_s=0.0, **{**fields, **more})


def predicted(shares):
    """Seconds that LAW gives a step, in its textbook form."""
    encoder = sum(share.encoder_tokens for share in shares)
    return (
        LAW["steps"]
        + sum(
            LAW["prefill_tokens"] * share.prefill_tokens
            + LAW["prefill_context"] * share.prefill_context
            + LAW["decode_tokens"] * share.decode_tokens
            + LAW["attended_context"] * share.attended
            for share in shares
        )
        + (LAW["encoder_steps"] if encoder else 0.0)
        + LAW["encoder_tokens"] * encoder
    )


def lawful(schedule):
    """The same schedule, as if every step had taken exactly what LAW says, without idleness."""
    steps, at = [], 0.0
    for step in schedule.steps:
        steps.append(Step(at, at + predicted(step.shares), step.shares))
        at = steps[-1].at_s
    return replace(schedule, steps=tuple(steps))


def test_every_step_is_explained_to_the_request_and_token(recording, schedule):
    """The replay reproduces the scheduler's own counts, step by step: 3.5 and 1.8 M prefill tokens among them."""
    details = [row["d"] for row in recording.steps if row.get("d")]
    for step, (_, prefills, prompt, decodes, output, _, inputs, images) in zip(schedule.steps, details, strict=True):
        assert sum(share.prefill_tokens > 0 for share in step.shares) == prefills
        assert sum(share.prefill_tokens for share in step.shares) == prompt
        assert sum(share.decode_tokens > 0 for share in step.shares) == decodes == output
        assert sum(share.encoder_inputs for share in step.shares) == pytest.approx(inputs)
        assert sum(share.encoder_tokens for share in step.shares) == pytest.approx(images)


def test_every_request_computes_its_prompt_once_and_decodes_its_output(recording, schedule):
    """Chunks of a prompt add up to what was not cached; a decode attends one token more each step."""
    prompts = dict.fromkeys(schedule.requests, 0)
    attended: dict[str, list[int]] = {identity: [] for identity in schedule.requests}
    for step in schedule.steps:
        for share in step.shares:
            prompts[share.request] += share.prefill_tokens
            if share.decode_tokens:
                attended[share.request].append(share.attended)
    for row in recording.requests:
        if row["err"] not in {None, "aborted"}:
            continue
        identity, usage = row["id"], row["usage"]
        assert prompts[identity] == schedule.requests[identity].computed
        assert all(later - earlier == 1 for earlier, later in pairwise(attended[identity]))
        if usage:
            assert 1 + len(attended[identity]) == usage["completion_tokens"]
            assert schedule.requests[identity].prompt == usage["prompt_tokens"]
        else:
            assert 1 + len(attended[identity]) >= row["chunks"] - 2


def test_the_aborted_decode_what_the_counters_say_and_what_was_thrown_away(recording, schedule):
    """The counters' excess is 4,684 and 5,152 output tokens; 117 and 134 more were scheduled for nobody."""
    excess, discarded, count = {TEXT: (4_684, 117, 55), VISION: (5_152, 134, 61)}[recording.name]
    aborted = [request for request in schedule.requests.values() if not request.finished]
    assert len(aborted) == count
    assert sum(r.last_step - r.first_step + 1 for r in aborted) == excess + discarded


def test_a_lost_finish_is_noticed(recording):
    """Without one finished-request record the steps cannot be explained, and the replay says so."""
    steps = list(recording.steps)
    last = next(i for i in range(len(steps) // 2, len(steps)) if steps[i].get("fin"))
    steps[last] = {**steps[last], "fin": steps[last]["fin"][1:]}
    with pytest.raises(ScheduleError):
        replay(replace(recording, steps=tuple(steps)))


def test_the_split_adds_up_to_busy_time_in_every_reading(schedule):
    """Nothing of the measured time is lost or invented, however steps are grouped."""
    for grouping in (by_step, by_launch, by_seconds(0.5)):
        seconds = split(schedule, LAW, grouping)
        assert sum(sum(phases.values()) for phases in seconds.values()) == pytest.approx(schedule.busy_s, rel=1e-9)
        assert all(value >= 0 for phases in seconds.values() for value in phases.values())


def test_the_fit_finds_the_law_again(schedule):
    """Steps that follow a law exactly give back its coefficients, grouped or not."""
    known = lawful(schedule)
    used = [name for name in LAW if not name.startswith("encoder") or any(r.images for r in known.requests.values())]
    for grouping in (by_step, by_seconds(0.5)):
        assert fit_steps(known, grouping) == pytest.approx({name: LAW[name] for name in used}, rel=1e-3)


def test_a_step_is_split_by_its_own_requests_work():
    """By hand: a fixed part of 6 ms shared by three, own tokens and context, and an encoder for one."""
    shares = (
        Share("long", prefill_tokens=1_000, prefill_context=500_500.0),
        Share("image", prefill_tokens=100, prefill_context=5_050.0, encoder_inputs=1, encoder_tokens=90),
        Share("talk", decode_tokens=1, attended=2_000),
    )
    schedule = Schedule((Step(0.0, 1.0, shares),), {name: served(name) for name in ("long", "image", "talk")})
    long, image, vision, talk = 0.002 + 0.02 + 5.005e-4, 0.002 + 0.002 + 5.05e-6, 0.03 + 9e-4, 0.002 + 1e-5 + 8e-5
    total = long + image + vision + talk
    seconds = split(schedule, LAW)
    assert seconds["long"] == pytest.approx({c.PREFILL: long / total, c.DECODE: 0, c.VISION: 0})
    assert seconds["image"] == pytest.approx({c.PREFILL: image / total, c.DECODE: 0, c.VISION: vision / total})
    assert seconds["talk"] == pytest.approx({c.PREFILL: 0, c.DECODE: talk / total, c.VISION: 0})


def test_a_launch_is_shared_with_the_step_that_waited_for_it():
    """A decode whose mark came 20 ms late because a prefill was launched pays for its own step only."""
    decode = (Share("talk", decode_tokens=1, attended=0),)
    prefill = (Share("long", prefill_tokens=1_000),)
    steps = (Step(0.0, 0.026, decode), Step(0.026, 0.032, prefill), Step(0.032, 0.038, decode))
    schedule = Schedule(steps, {name: served(name) for name in ("long", "talk")})
    law = {"steps": 6e-3, "prefill_tokens": 2e-5}
    assert sum(split(schedule, law, by_step)["talk"].values()) == pytest.approx(0.032)
    assert sum(split(schedule, law, by_launch)["talk"].values()) == pytest.approx(0.012)


def test_buckets_of_length_are_those_of_the_promise():
    """299 | 300 … 999 | 1,000 … 4,000 | 4,001."""
    lengths = [length_of(served("r", prompt)) for prompt in (299, 300, 999, 1_000, 4_000, 4_001)]
    assert lengths == [LENGTHS[0], LENGTHS[1], LENGTHS[1], LENGTHS[2], LENGTHS[2], LENGTHS[3]]


def test_equal_charges_compare_as_equal_and_doubled_ones_as_double(schedule):
    """A comparison that cannot fail would prove nothing."""
    oracle = split(schedule, LAW)
    fair = {i: {phase: round(seconds * 1e9) for phase, seconds in phases.items()} for i, phases in oracle.items()}
    unfair = {i: {phase: 2 * nano for phase, nano in phases.items()} for i, phases in fair.items()}
    assert compare(schedule, oracle, fair, 3_600 * 10**9).error < 1e-6
    doubled = compare(schedule, oracle, unfair, 3_600 * 10**9)
    assert doubled.error == pytest.approx(1.0, abs=1e-6)
    assert all(ratio == pytest.approx(2.0, abs=1e-4) for ratio in doubled.by_length.values())
    with pytest.raises(KeyError, match="never ran"):
        compare(schedule, oracle, {"stranger": {c.DECODE: 1}}, 3_600 * 10**9)


def test_the_reading_of_marks_alone_moves_what_requests_cost():
    """Text: charging launches to the step before, as raw marks say, differs by over 4 % from the engine's own order."""
    schedule = replay(load_recording(TEXT))
    law = fit_steps(schedule)
    by_mark, by_engine = split(schedule, law, by_step), split(schedule, law, by_launch)
    assert 0.04 < difference(by_mark, by_engine) < 0.07
    assert shares_by_phase(by_engine)[c.PREFILL] - shares_by_phase(by_mark)[c.PREFILL] > 0.015
