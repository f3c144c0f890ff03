"""The records are those that a probe could send: numbered, ordered, and silent about what nobody can see."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from tests.simulation import Observation, Phase, Restart, SimConfig, TenantLoad, simulate
from tests.simulation.cached import preset
from tests.simulation.presets import ABORTS, MIXED, PRESETS, TEXT

from farthing.collectors.wire import decode_line
from farthing.domain.conventions import ABORTED, FAILED, FINISHED, REJECTED
from farthing.domain.records import Lifecycle, Started, StepBatch, Usage, event_ns

EVERY = sorted(PRESETS)


def usages(simulation):
    """The usage records."""
    return [record for record in simulation.records if isinstance(record, Usage)]


def streams(records):
    """Records by boot and process."""
    found = defaultdict(list)
    for record in records:
        found[record.key.boot, record.key.process].append(record)
    return found


@pytest.mark.parametrize("name", EVERY)
def test_sequences_have_no_gaps_and_times_do_not_go_back(name):
    """Each process counts from 0 and sends its start first; event times and marks only rise."""
    for stream in streams(preset(name).records).values():
        assert [record.key.sequence for record in stream] == list(range(len(stream)))
        assert isinstance(stream[0], Started)
        moments = [event_ns(record) for record in stream]
        assert moments == sorted(moments)
        marks = [at for record in stream if isinstance(record, StepBatch) for at in record.marks.at_ns]
        assert marks == sorted(marks)


@pytest.mark.parametrize("name", EVERY)
def test_processes_are_merged_by_event_time(name):
    """The canonical order: by event time and process, without breaking a process's own order."""
    boots = defaultdict(list)
    for record in preset(name).records:
        boots[record.key.boot].append((event_ns(record), record.key.process))
    for order in boots.values():
        assert order == sorted(order)


@pytest.mark.parametrize("name", EVERY)
def test_the_wire_says_the_same(name):
    """Every record passes the wire's validation and comes back equal."""
    simulation = preset(name)
    lines = [json.dumps(record).encode() for record in simulation.wire()]
    assert tuple(decode_line(line) for line in lines) == simulation.records


@pytest.mark.parametrize("name", EVERY)
def test_usage_comes_before_the_batch_that_closes_its_time(name):
    """Once a batch of a process is open since T, no usage follows of a request that arrived before T and ended."""
    for stream in streams(preset(name).records).values():
        opened = 0
        for record in stream:
            if isinstance(record, StepBatch):
                assert opened <= record.open_ns <= record.until_ns
                opened = record.open_ns
            elif isinstance(record, Usage):
                assert record.arrived_ns >= opened


@pytest.mark.parametrize("name", EVERY)
def test_every_request_has_one_record_and_truth_under_its_key(name):
    """Keys of truth and of usage are the same, and say the same of who and how."""
    simulation = preset(name)
    truth = {request.key: request for request in simulation.requests}
    assert len(truth) == len(simulation.requests)
    sent = usages(simulation)
    assert {usage.key for usage in sent} == set(truth)
    for usage in sent:
        request = truth[usage.key]
        assert (usage.request_id, usage.tenant, usage.model, usage.outcome, usage.engine_index) == (
            request.request_id,
            request.tenant,
            request.model,
            request.outcome,
            request.rank,
        )


@pytest.mark.parametrize("name", EVERY)
def test_the_engine_counts_what_its_sequences_say(name):
    """Finished sequences state prompt, cached and output tokens exactly."""
    simulation = preset(name)
    truth = {request.key: request for request in simulation.requests}
    for usage in usages(simulation):
        if usage.outcome == FINISHED:
            request = truth[usage.key]
            assert sorted(s.output_tokens for s in usage.sequences) == sorted(request.output_tokens)
            assert sorted(s.cached_tokens for s in usage.sequences) == sorted(request.cached_tokens)
            assert {s.prompt_tokens for s in usage.sequences} == {request.prompt_tokens}
            assert sum(s.preemptions for s in usage.sequences) == request.preemptions
            for s in usage.sequences:
                assert usage.arrived_ns < s.scheduled_ns < s.first_ns <= s.last_ns <= usage.ended_ns


def test_moments_of_a_sequence_are_those_of_marks():
    """The last token's moment is its mark's; first and scheduled are off by the jitter of delivery only."""
    simulation = preset("text")
    marks = {at for r in simulation.records if isinstance(r, StepBatch) for at in r.marks.at_ns}
    finished = [usage for usage in usages(simulation) if usage.sequences]
    assert all(s.last_ns in marks for usage in finished for s in usage.sequences)
    assert not all(s.first_ns in marks for usage in finished for s in usage.sequences)


def test_of_aborted_requests_only_the_client_side_is_known():
    """No sequences, no prompt; output tokens as chunks, close to what the engine made and never more."""
    simulation = preset("aborts")
    truth = {request.key: request for request in simulation.requests}
    aborted = [usage for usage in usages(simulation) if usage.outcome == ABORTED]
    assert len(aborted) > 50
    delivered = made = 0
    for usage in aborted:
        assert not usage.sequences
        assert (usage.prompt_tokens, usage.output_tokens, usage.seen_by) == (None, None, "client")
        assert usage.status == 499
        assert (usage.first_ns is None) == (usage.delivered_tokens == 0)
        delivered += usage.delivered_tokens
        made += sum(truth[usage.key].output_tokens)
    assert 0.98 * made < delivered <= made


def test_a_snapshot_tells_the_prompt_of_who_hung_up():
    """With it the prompt is known exactly, and its cached part once there was output."""
    config = replace(ABORTS.scaled(0.3), observation=Observation(snapshot=True))
    simulation = simulate(config)
    truth = {request.key: request for request in simulation.requests}
    for usage in usages(simulation):
        if usage.outcome == ABORTED:
            assert usage.prompt_tokens == truth[usage.key].prompt_tokens
            assert usage.cached_tokens is None or usage.cached_tokens in truth[usage.key].cached_tokens


def test_statistics_of_a_step_reach_one_server():
    """With two servers every step is told once in all, by both of them over time, while outputs reach each."""
    simulation = preset("two_servers")
    told: defaultdict[int, int] = defaultdict(int)
    generated: defaultdict[int, int] = defaultdict(int)
    for record in simulation.records:
        if isinstance(record, StepBatch):
            marks = record.marks
            requests = zip(marks.prefill_requests, marks.decode_requests, strict=True)
            told[record.key.process] += sum(prefills + decodes > 0 for prefills, decodes in requests)
            generated[record.key.process] += sum(marks.generated)
    assert sum(told.values()) == sum(row.marked for steps in simulation.boots[0].steps for row in steps)
    assert min(told.values()) > 0
    assert min(generated.values()) > 0.2 * sum(generated.values())


def test_recomputed_tokens_count_as_generation_in_the_marks():
    """vLLM calls a resumed sequence's chunk generation: decode tokens exceed what decodes by that."""
    simulation = preset("kv_pressure")
    decoded = sum(sum(record.marks.decode_tokens) for record in simulation.records if isinstance(record, StepBatch))
    emitted = simulation.counters["engine_output"] - simulation.counters["first_tokens"]
    assert decoded > 1.2 * emitted


def test_marks_after_the_last_request_report_state_only():
    """vLLM reports once or twice more when it has drained: nothing ran in such a mark."""
    marks = [record.marks for record in preset("text").records if isinstance(record, StepBatch)]
    blank = sum(p + d == 0 for m in marks for p, d in zip(m.prefill_requests, m.decode_requests, strict=True))
    assert 0 < blank < 200


def test_a_kill_takes_what_was_not_sent():
    """The old boot ends without a word, and its last batch is the last of it; truth knows what nobody will hear."""
    config = replace(
        TEXT, phases=(Phase("closed", 40, 8),), starting_seconds=5.0, restarts=(Restart(23.0, 4.0, "kill"),)
    )
    simulation = simulate(config)
    first = simulation.boots[0].boot
    told = [record for record in simulation.records if record.key.boot == first]
    assert isinstance(told[-1], StepBatch)
    assert [record.event for record in told if isinstance(record, Lifecycle)] == ["ready"]
    assert simulation.unsent
    assert simulation.unsent.isdisjoint(record.key for record in simulation.records)
    assert simulation.unsent <= set(simulation.truth)


def test_a_crash_is_reported_by_the_servers_that_outlive_it():
    """Requests in flight fail with a 500, then the boot is down and stops."""
    told = [r for r in preset("restart").records if r.key.boot == preset("restart").boots[0].boot]
    events = [record.event for record in told if isinstance(record, Lifecycle)]
    assert events[-2:] == ["down", "stop"]
    assert isinstance(told[-1], Lifecycle)
    assert {usage.status for usage in told if isinstance(usage, Usage) and usage.outcome == FAILED} == {500}


@pytest.mark.parametrize(("stops", "number"), [("last", 1), ("each", 2)])
def test_a_boot_stops_once_or_once_per_process(stops, number):
    """``stop`` is the last record of the boot, or of each of its processes."""
    config = replace(TEXT.scaled(0.1), servers=2, observation=Observation(stops=stops))
    records = simulate(config).records
    assert sum(isinstance(record, Lifecycle) and record.event == "stop" for record in records) == number
    assert all(isinstance(record, Lifecycle) for record in records[-number:])


def test_rejected_requests_cost_nothing():
    """A refusal never reaches the engine."""
    rejected = [request for request in preset("mixed", scale=1.0).requests if request.outcome == REJECTED]
    assert rejected
    assert all(not request.ns and not request.scheduled_ns for request in rejected)


def test_what_a_response_leaves_out_stays_unknown():
    """Clients that are not told their usage leave it to the engine's own counts."""
    simulation = simulate(MIXED.scaled(0.2))
    finished = [usage for usage in usages(simulation) if usage.outcome == FINISHED]
    assert any(usage.prompt_tokens is None for usage in finished)
    assert all(usage.sequences for usage in finished)
    assert any(usage.model.startswith("lora-") for usage in finished)


def test_without_details_the_marks_know_no_schedule():
    """Then only emitted tokens and finished prompts are told."""
    config = SimConfig(tenants=(TenantLoad("one"),), phases=(Phase("closed", 10, 4),))
    simulation = simulate(replace(config, observation=Observation(details=False)))
    for record in simulation.records:
        if isinstance(record, StepBatch):
            assert not any(record.marks.prefill_tokens)
            assert not any(record.marks.decode_requests)
    assert simulation.counters["prompt_computed"] > 0
