"""Whose a sequence is that the engine says has ended, and what is known of one of which it says nothing."""

from types import SimpleNamespace

import pytest
from tests.probe.rig import SECOND, FinishedRequestStats, RequestState, RequestStateStats

from farthing_probe import wire
from farthing_probe.edge_span import estimate_nano
from farthing_probe.sequences import EngineSequence, entries, watch
from farthing_probe.wire import MOST_ENTRIES


def held(rig, *added):
    """The sequences of requests submitted in one metered request's context."""
    mine: list[EngineSequence] = []
    watch(rig.probe, rig.engine, lambda: mine)
    internal = [identity for arguments in added for identity in rig.engine.add(**arguments)]
    return mine, internal


def told(rig, *, named=True, **changes):
    """The statistics of one that ended two seconds after it began and one after its first token."""
    given = FinishedRequestStats("stop", "resp-1" if named else None, 3.0, 10, 0, 5, 0.5, 2.0, 1.0, 4)
    for name, value in changes.items():
        setattr(given, name, value)
    rig.log.record(None, SimpleNamespace(num_generation_tokens=0, finished_requests=[given]))


def test_statistics_go_to_the_state_with_that_id(rig):
    """And not into a record of their own."""
    mine, (sequence,) = held(rig, {"external": "chatcmpl-abc"})
    rig.clock.pass_(1)
    rig.step({sequence: 3}, {sequence: "length"})
    assert (mine[0].reported, mine[0].finish_reason, mine[0].generated) == (True, "length", 3)
    assert rig.usages == []
    assert rig.probe.unreported == {}


def test_of_two_with_one_id_each_gets_its_own(rig):
    """Ids need not be unique: the one that has ended with that many tokens is meant."""
    mine, (first, second, third) = held(rig, *[{"external": "chatcmpl-abc", "prompt": p} for p in (1, 2, 3)])
    rig.step({first: 3, second: 2, third: 1})
    rig.clock.pass_(1)
    rig.step({second: 1}, {second: "stop"})
    assert [each.reported for each in mine] == [False, True, False]
    rig.clock.pass_(1)
    rig.step({first: 5, third: 4}, {third: "length", first: "stop"})
    assert [each.finish_reason for each in mine] == ["stop", "stop", "length"]
    assert [each.entry()["output_tokens"] for each in mine] == [8, 3, 5]
    assert [each.entry()["prompt_tokens"] for each in mine] == [1, 2, 3]


def test_an_aborted_twin_does_not_take_the_statistics_of_the_other(rig):
    """It has fewer tokens, and its client has hung up."""
    mine, (aborted, finished) = held(rig, *[{"external": "chatcmpl-abc"}] * 2)
    rig.step({aborted: 1, finished: 1})
    rig.engine.abort(aborted)
    rig.step({finished: 1}, {finished: "stop"})
    assert [each.reported for each in mine] == [False, True]
    assert [each.entry()["output_tokens"] for each in mine] == [1, 2]


@pytest.mark.parametrize("prompts", [(50, 153), (50, 50)])
def test_an_aborted_twin_of_as_many_tokens_does_not_take_them_either(rig, prompts):
    """Its prompt is another, or its moments are."""
    mine, (aborted, finished) = held(rig, *[{"external": "chatcmpl-abc", "prompt": p} for p in prompts])
    rig.clock.pass_(1)
    rig.step({aborted: 2, finished: 1})
    rig.engine.abort(aborted)
    rig.clock.pass_(1)
    rig.step({finished: 1}, {finished: "stop"})
    assert [each.reported for each in mine] == [False, True]
    assert [each.entry()["prompt_tokens"] for each in mine] == list(prompts)


def test_two_of_one_prompt_are_one_prompt(rig):
    """n = 2: both count what they cost, one counts what was asked."""
    mine, sequences = held(rig, {"external": "chatcmpl-abc", "n": 2, "images": [4]})
    rig.step(dict.fromkeys(sequences, 1))
    rig.step(dict.fromkeys(sequences, 1), dict.fromkeys(sequences, "stop"))
    assert [each.first_of_prompt for each in mine] == [True, False]
    assert [each.image_tokens for each in mine] == [4, 4]
    assert all(each.reported for each in mine)


def test_images_are_counted_by_their_embeddings(rig):
    """vLLM 0.13 and later mask what of a placeholder is none; sounds are no images."""
    image = SimpleNamespace(modality="image", mm_position=SimpleNamespace(length=9, get_num_embeds=lambda: 4))
    plain = SimpleNamespace(modality="image", mm_position=SimpleNamespace(length=3))
    audio = SimpleNamespace(modality="audio", mm_position=SimpleNamespace(length=50))
    state = RequestState("a-1", "a", 60)
    request = SimpleNamespace(mm_features=[image, plain, audio])
    assert EngineSequence.of_state(rig.probe, {}, state, request).image_tokens == 7


def test_a_streamed_input_stays_one_sequence(rig):
    """Each piece is added to the state that is there."""
    mine, _ = held(rig, {"external": "a"})
    request = SimpleNamespace(
        request_id=next(iter(rig.engine.request_states)), external_req_id="a", prompt_len=4, lora_name=None
    )
    rig.engine.output_processor.add_request(request, None)
    assert len(mine) == 1


def test_a_second_watch_changes_nothing(rig):
    """The output processor's method is wrapped once a process."""
    held(rig)
    wrapped = rig.engine.output_processor.add_request
    watch(rig.probe, rig.engine, lambda: None)
    assert rig.engine.output_processor.add_request is wrapped


def test_what_the_engine_raises_is_the_engines(rig):
    """A duplicate id before 0.12, say: the caller gets it, nothing is kept, and it is no error of the probe."""

    def refuse(*_):
        raise ValueError("already running")

    rig.engine.output_processor.add_request = refuse
    mine: list[EngineSequence] = []
    watch(rig.probe, rig.engine, lambda: mine)
    with pytest.raises(ValueError, match="already running"):
        rig.engine.output_processor.add_request(SimpleNamespace(request_id="a"))
    assert (mine, rig.probe.errors) == ([], 0)


# ---- nobody's over HTTP -------------------------------------------------------------------------


def test_a_sequence_of_nobody_is_a_record_of_its_own(rig):
    """Another front end's, or there is no middleware: the engine's side is all there is."""
    rig.clock.pass_(10)
    now = rig.clock.now
    told(rig)
    (usage,) = rig.usages
    assert (usage.seen_by, usage.outcome, usage.status, usage.finish_reason) == ("engine", "finished", 0, "stop")
    assert (usage.arrived_ns, usage.ended_ns) == (now - 3 * SECOND, now)
    assert (usage.request_id, usage.tenant, usage.prompt_tokens) == ("resp-1", "unknown", None)
    (entry,) = usage.sequences
    assert (entry.scheduled_ns, entry.first_ns, entry.last_ns) == (now - 2 * SECOND, now - SECOND, now)
    assert (entry.prompt_tokens, entry.cached_tokens, entry.output_tokens, entry.queued_ns) == (10, 4, 5, SECOND // 2)


def test_the_engines_own_abort_is_one(rig):
    """Its finish reason says so."""
    rig.clock.pass_(10)
    told(rig, finish_reason="abort")
    assert rig.usages[0].outcome == "aborted"


@pytest.mark.parametrize("metered", [False, True])
def test_before_0_20_statistics_without_an_id_are_a_record_only_where_no_middleware_holds_them(rig, metered):
    """It could be any of the middleware's, which knows its own by their states."""
    rig.clock.pass_(10)
    rig.probe.metered_http = metered
    told(rig, named=False)
    assert len(rig.usages) == (not metered)
    assert rig.probe.errors == 0


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"num_generation_tokens": 0, "inference_time": 0.0, "queued_time": 0.0, "decode_time": 0.0}, False),
        ({"num_generation_tokens": 0, "inference_time": 1000.0, "queued_time": -1000.0}, False),
        ({"num_generation_tokens": 0, "inference_time": 2.0, "decode_time": 0.0}, True),
    ],
    ids=["no step", "never scheduled", "pooled"],
)
def test_what_the_engine_gave_up_before_it_ran_is_no_sequence(rig, changes, known):
    """Its moments are zero, and differences with them are the machine's age; a pooled one has run."""
    rig.clock.pass_(10)
    told(rig, finish_reason="error", **changes)
    (usage,) = rig.usages
    assert bool(usage.sequences) is known


def test_a_clock_that_was_set_back_does_not_cost_the_record(rig):
    """vLLM's end-to-end latency is a difference of wall clocks."""
    rig.clock.pass_(10)
    told(rig, e2e_latency=-3600.0)
    (usage,) = rig.usages
    assert usage.arrived_ns == usage.ended_ns
    assert usage.sequences[0].output_tokens == 5


def test_a_request_of_a_boot_that_has_ended_is_not_booked_to_the_next(rig):
    """What ran of it before was said then."""
    rig.probe.began_ns = rig.clock.now - SECOND
    told(rig)
    assert rig.usages == []


def test_an_adapter_and_an_id_that_do_not_fit_are_made_to(rig):
    """Intake would refuse the record."""
    rig.clock.pass_(10)
    told(rig, request_id="\n" * 9999)
    assert rig.usages[0].request_id == "?" * 512


# ---- entries ------------------------------------------------------------------------------------


def state(**stats):
    """A request state of a prompt of 10 tokens."""
    return RequestState("a-1", "a", 10, num_cached_tokens=-1, stats=RequestStateStats(**stats))


def test_a_state_without_output_is_no_entry(rig):
    """The moments that the scheduler took it come with its first output only."""
    assert EngineSequence(rig.probe, {}, state()).entry() is None
    assert EngineSequence(rig.probe, {}, state(queued_ts=1.0, scheduled_ts=2.0)).entry() is None
    assert EngineSequence(rig.probe, {}, SimpleNamespace(stats=None)).entry() is None


def test_a_state_with_output_is_read_on_the_probes_clock(rig):
    """The core's clock reading of an output and the mark that reported it tie the two, per engine."""
    given = state(num_generation_tokens=3, queued_ts=1.0, scheduled_ts=2.0, first_token_ts=4.0, last_token_ts=5.0)
    sequence = EngineSequence(rig.probe, {}, given)
    rig.probe.lag_ns[0] = 7
    assert sequence.entry() == {
        "scheduled_ns": 2 * SECOND + 7, "first_ns": 4 * SECOND + 7, "last_ns": 5 * SECOND + 7, "prompt_tokens": 10,
        "cached_tokens": 0, "output_tokens": 3, "queued_ns": SECOND, "preemptions": 0,
    }  # fmt: skip


def test_the_lag_is_that_of_the_last_report(rig):
    """The core's outputs take a while to the front end."""
    _, (sequence,) = held(rig, {"external": "a"})
    stats = rig.engine.request_states[sequence].stats
    iteration = rig.engine.step({sequence: 1}, {sequence: "stop"})
    rig.clock.pass_(0.25)
    rig.log.record(None, iteration)
    assert rig.probe.lag_ns == {0: rig.clock.now - round(stats.last_token_ts * 1e9)}
    assert rig.probe.lag_ns[0] == SECOND // 4


class Ended(EngineSequence):
    """A sequence of which the entry is known."""

    def __init__(self, entry: wire.Wire) -> None:
        self.told = entry

    def entry(self) -> wire.Wire:
        """As it was given."""
        return self.told


def test_too_many_entries_become_one_with_their_totals():
    """A batch of embeddings may have any number of prompts."""

    def ended(n: int) -> EngineSequence:
        return Ended(
            wire.sequence(
                scheduled_ns=n, first_ns=n + 1, last_ns=n + 2, prompt_tokens=n, cached_tokens=1, output_tokens=2,
                queued_ns=n, preemptions=1,
            )
        )  # fmt: skip

    exact = [ended(n) for n in range(MOST_ENTRIES)]
    assert len(entries(exact)) == MOST_ENTRIES
    assert entries(exact)[-1]["prompt_tokens"] == MOST_ENTRIES - 1
    made = entries([ended(n) for n in range(MOST_ENTRIES + 2)])
    assert len(made) == MOST_ENTRIES
    assert made[-1] == wire.sequence(
        scheduled_ns=1023, first_ns=1024, last_ns=1027, prompt_tokens=1023 + 1024 + 1025, cached_tokens=3,
        output_tokens=6, queued_ns=1025, preemptions=3,
    )  # fmt: skip


@pytest.mark.parametrize("prompts", [MOST_ENTRIES + 1, 2 * MOST_ENTRIES, 2 * MOST_ENTRIES + 1, 5_000])
def test_of_too_many_embeddings_neighbours_become_one(prompts):
    """One long prompt of half a batch, at the moment of its first, would be costed as what never ran."""
    given = [
        wire.sequence(
            scheduled_ns=n, first_ns=n + 5, last_ns=n + 5, prompt_tokens=500, cached_tokens=1, output_tokens=0
        )
        for n in range(prompts)
    ]
    made = entries([Ended(entry) for entry in given])
    most = -(-prompts // MOST_ENTRIES)
    assert len(made) == MOST_ENTRIES
    assert {each["prompt_tokens"] for each in made} <= {500 * most, 500 * (most - 1)}
    assert sum(each["prompt_tokens"] for each in made) == 500 * prompts
    assert sum(each["cached_tokens"] for each in made) == prompts
    assert all(each["last_ns"] - each["scheduled_ns"] <= 5 + most - 1 for each in made)
    assert (made[0]["scheduled_ns"], made[-1]["last_ns"]) == (0, prompts + 4)


@pytest.mark.parametrize("prompts", [MOST_ENTRIES + 1, 2 * MOST_ENTRIES])
def test_an_estimate_does_not_take_merged_prompts_for_one_long_prompt(prompts):
    """A prompt's context grows with its square: what became one entry is estimated by its tokens."""
    one = wire.sequence(scheduled_ns=10, first_ns=20, last_ns=20, prompt_tokens=500, cached_tokens=0, output_tokens=1)
    usage = {"sequences": entries([Ended(one)] * prompts), "image_tokens": 0}
    by_phase = {"prefill": 100_000, "decode": 1_000_000}
    by_work = {"steps": 10**9, "prefill_tokens": 90_000, "prefill_context": 40, "decode_tokens": 0}
    prices = {**by_phase, **by_work, "attended_context": 0}
    assert estimate_nano(prices, usage, 10.0) == estimate_nano(by_phase, usage) == prompts * 51


def test_the_limit_is_the_decoders():
    """Of intake."""
    from farthing.collectors.schema import MAX_SEQUENCES  # noqa: PLC0415

    assert MAX_SEQUENCES == MOST_ENTRIES


# ---- data-parallel engines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "index"),
    [
        (SimpleNamespace(reqs_in_flight={"a-1": b"\x02\x00"}), 2),
        (SimpleNamespace(reqs_in_flight={"b": b"\x02\x00"}), 0),
        (SimpleNamespace(reqs_in_flight={"a-1": 3}), 0),
        (SimpleNamespace(), 0),
    ],
)
def test_the_engine_of_an_aborted_sequence_is_found_while_it_is_in_flight(rig, core, index):
    """vLLM's data-parallel client keeps the engine's identity, two bytes, by internal id."""
    rig.probe.watched = SimpleNamespace(engine_core=core)
    sequence = EngineSequence(rig.probe, {}, state())
    sequence.locate()
    assert sequence.engine_index == index
