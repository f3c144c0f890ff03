"""Step marks: what vLLM says of a step, what is inferred where it says less, and nothing that could stop an engine."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
from tests.probe.rig import IDENTITY, SECOND, IterationStats, rigged

from farthing_probe import stat_logger, wire
from farthing_probe.settings import Settings
from farthing_probe.stat_logger import ITERATION_LOGGER, StepLog, silence_iterations

DETAILED = dataclasses.replace(IDENTITY, details=True)
DETAILS = {
    "num_ctx_requests": 2, "num_ctx_tokens": 512, "num_generation_requests": 3, "num_generation_tokens": 9,
    "num_encoder_inputs": 1, "num_encoder_output_tokens": 19, "is_dummy": False,
}  # fmt: skip


def row(rig):
    """The one mark of the next batch, by column, without its time."""
    rig.settle(6)
    (marks,) = [batch.marks for batch in rig.batches[-1:]]
    assert len(marks.at_ns) == 1
    return {name: getattr(marks, name)[0] for name in wire.MARK_COLUMNS[1:] if getattr(marks, name)[0]}


def scheduler(running=4, waiting=1, **more):
    """vllm.v1.metrics.stats.SchedulerStats."""
    return SimpleNamespace(num_running_reqs=running, num_waiting_reqs=waiting, **more)


def iteration(**more):
    """vllm.v1.metrics.stats.IterationStats of a step that ended two prefills and decoded three sequences."""
    return IterationStats(
        num_generation_tokens=8, num_preempted_reqs=1, time_to_first_tokens_iter=[0.1, 0.2],
        inter_token_latencies_iter=[0.01] * 3, prompt_token_stats=SimpleNamespace(computed=500, total=1524), **more,
    )  # fmt: skip


COUNTED = {"generated": 8, "prompt_computed": 500, "prompt_cached": 1024, "preempted": 1}


def test_with_iteration_details_a_mark_says_what_the_scheduler_did():
    """From 0.26, with --enable-logging-iteration-details: chunks of a prompt and images as they are computed."""
    with rigged(identity=DETAILED) as rig:
        rig.begin().log.record(scheduler(iteration_details=SimpleNamespace(**DETAILS)), iteration())
        assert row(rig) == {
            **COUNTED, "running": 4, "waiting": 1, "prefill_requests": 2, "prefill_tokens": 512,
            "decode_requests": 3, "decode_tokens": 9, "encoder_inputs": 1, "encoder_tokens": 19,
        }  # fmt: skip


def test_a_step_of_data_parallel_padding_is_nobodys_work():
    """A rank without requests runs along with the others."""
    with rigged(identity=DETAILED) as rig:
        details = SimpleNamespace(**{**DETAILS, "is_dummy": True})
        rig.begin().log.record(scheduler(0, 0, iteration_details=details), None)
        assert row(rig) == {}


def test_where_details_are_on_a_call_without_them_reports_state_only():
    """Not an inferred step beside a told one."""
    with rigged(identity=DETAILED) as rig:
        rig.begin().log.record(scheduler(iteration_details=None), iteration())
        assert row(rig) == {**COUNTED, "running": 4, "waiting": 1}


def test_details_without_encoder_columns_are_text_only():
    """They were added after the rest."""
    with rigged(identity=DETAILED) as rig:
        details = SimpleNamespace(**{k: v for k, v in DETAILS.items() if "encoder" not in k and k != "is_dummy"})
        rig.begin().log.record(scheduler(iteration_details=details), iteration())
        assert row(rig)["prefill_tokens"] == 512


def test_without_details_a_prefill_counts_where_it_ends(rig):
    """Two first tokens are two prefills; the other six tokens are three sequences' (speculation)."""
    rig.log.record(scheduler(), iteration())
    assert row(rig) == {
        **COUNTED, "running": 4, "waiting": 1, "prefill_requests": 2, "prefill_tokens": 500,
        "decode_requests": 3, "decode_tokens": 6,
    }  # fmt: skip


def test_a_step_without_output_is_a_piece_of_a_long_prompt(rig):
    """Something ran, and nobody says what."""
    rig.log.record(scheduler(1, 0), None)
    assert row(rig) == {"running": 1, "prefill_requests": 1}


def test_idle_state_is_a_mark_of_no_work(rig):
    """As vLLM reports it when all has ended."""
    rig.log.record(scheduler(0, 0), None)
    assert row(rig) == {}


def test_without_scheduler_statistics_the_state_is_unknown(rig):
    """They reach one of several API servers; the others tell the tokens of their own requests."""
    rig.log.record(None, iteration())
    assert row(rig) == {**COUNTED, "running": -1, "waiting": -1}


def test_before_0_16_cached_tokens_are_not_told_apart(rig):
    """IterationStats then has one total."""
    old = SimpleNamespace(
        num_generation_tokens=1, num_prompt_tokens=1524, finished_requests=[], time_to_first_tokens_iter=[0.1],
        inter_token_latencies_iter=[],
    )  # fmt: skip
    rig.log.record(scheduler(), old)
    assert row(rig) == {
        "running": 4, "waiting": 1, "prefill_requests": 1, "prefill_tokens": 1524, "generated": 1,
        "prompt_computed": 1524,
    }  # fmt: skip


# ---- whatever it is called with -----------------------------------------------------------------


class Hostile:
    """Every attribute raises."""

    def __getattr__(self, name):
        raise RuntimeError(f"canary {name}")


@pytest.mark.parametrize(
    "arguments",
    [
        (Hostile(), None),
        (None, Hostile()),
        (Hostile(), Hostile()),
        (object(), object()),
        (scheduler(None, "canary"), None),
        (scheduler(iteration_details=Hostile()), iteration()),
        (None, iteration(finished_requests=[Hostile(), object()])),
        (None, iteration(finished_requests=7)),
    ],
    ids=range(8),
)
def test_statistics_that_are_not_as_expected_are_counted_and_never_raised(rig, arguments, caplog):
    """Logged once a minute by kind and line, without the text, which may quote a request."""
    for _ in range(3):
        rig.log.record(*arguments)
    rig.clock.pass_(61)
    rig.log.record(scheduler(), iteration())
    rig.settle(6)
    assert rig.batches[-1].marks.generated[-1] == 8, "it goes on"
    # what is no number shows when the marks are cut, all else at once
    assert rig.probe.errors >= 3
    (line,) = caplog.messages
    assert "canary" not in line


def test_requests_that_ended_are_reported_even_where_the_step_cannot_be_read(rig):
    """And one that cannot be read does not take the others along."""
    (first,) = rig.engine.add("resp-1")
    (second,) = rig.engine.add("resp-2")
    rig.clock.pass_(1)
    done = rig.engine.step({first: 1, second: 1}, {first: "stop", second: "stop"})
    done.finished_requests.insert(1, Hostile())
    rig.log.record(Hostile(), done)
    assert [usage.request_id for usage in rig.usages] == ["resp-1", "resp-2"]
    assert rig.probe.errors == 2


def test_arguments_that_came_with_later_versions_are_taken(rig):
    """record grew from two to four, and will grow."""
    rig.log.record(scheduler(), iteration(), None, 3, object(), engine_idx=3, later=1)
    rig.log.record(scheduler_stats=None, iteration_stats=None, mm_cache_stats=None, engine_idx=0)
    rig.log.log(1, later=2)
    rig.log.record_admission_rejection("max_num_queued_reqs")
    rig.log.log_engine_initialized(1, later=2)
    assert rig.probe.errors == 0
    rig.settle(6)
    assert len(rig.batches[-1].marks.at_ns) == 2


def test_without_a_probe_the_plugin_does_nothing(monkeypatch):
    """Its settings could not be used; the engine serves on."""
    monkeypatch.setattr(stat_logger, "obtain", lambda _: None)
    log = StepLog(object(), 3)
    log.log_engine_initialized()
    log.record(scheduler(), iteration())
    log.record_sleep_state(1, 0)
    assert log.engine_index == 3


# ---- batches ------------------------------------------------------------------------------------


def test_a_batch_is_cut_every_five_seconds_and_an_empty_one_is_a_heartbeat(rig):
    """Not before, and never twice the same mark."""
    for _ in range(12):
        rig.log.record(scheduler(), iteration())
        rig.clock.pass_(1)
        rig.probe.tick()
    assert [len(batch.marks.at_ns) for batch in rig.batches] == [5, 5]
    rig.settle(5)
    rig.settle(5)
    assert [len(batch.marks.at_ns) for batch in rig.batches] == [5, 5, 2, 0]
    assert [batch.until_ns for batch in rig.batches][-1] == rig.clock.now
    at = [moment for batch in rig.batches for moment in batch.marks.at_ns]
    assert at == sorted(set(at))


def test_a_batch_that_is_too_long_goes_in_parts(rig, monkeypatch):
    """Intake takes 65,536 marks; the part says up to where it is complete."""
    monkeypatch.setattr(stat_logger, "MOST_MARKS", 100)
    for _ in range(250):
        rig.clock.pass_(0.001)
        rig.log.record(scheduler(), iteration())
    assert stat_logger.MOST_MARKS == 100
    for _ in range(3):
        rig.settle(5)
    assert [len(batch.marks.at_ns) for batch in rig.batches] == [100, 100, 50]
    assert [batch.until_ns == batch.marks.at_ns[-1] for batch in rig.batches] == [True, True, False]


def test_nothing_of_the_last_steps_is_left_behind_at_the_end(rig, monkeypatch):
    """However many they are."""
    monkeypatch.setattr(stat_logger, "MOST_MARKS", 100)
    for _ in range(250):
        rig.log.record(scheduler(), iteration())
    rig.probe.stop()
    assert sum(len(batch.marks.at_ns) for batch in rig.batches) == 250


def test_the_limit_is_below_what_intake_takes():
    """The decoder's own."""
    from farthing.collectors.schema import MAX_MARKS  # noqa: PLC0415

    assert MAX_MARKS >= stat_logger.MOST_MARKS


def test_each_engine_index_has_its_steps_numbered_by_rank():
    """Data-parallel indexes of this instance may begin anywhere; records count from 0."""
    with rigged() as rig:
        rig.probe.steps.clear()
        logs = [StepLog(None, index) for index in (5, 4)]
        for log in logs:
            log.log_engine_initialized()
        assert (rig.delivery.started, rig.delivery.records[0]["ranks"]) == (1, 2)
        logs[0].record(scheduler(7, 0), None)
        rig.settle(6)
        assert [(batch.engine_index, batch.marks.running) for batch in rig.batches] == [(0, ()), (1, (7,))]
        (sequence,) = rig.engine.add("a")
        logs[0].record(None, rig.engine.step({sequence: 1}, {sequence: "stop"}))
        assert rig.usages[0].engine_index == 1


def test_sleep_is_reported_once_for_all_indexes():
    """vLLM tells every logger."""
    with rigged() as rig:
        logs = [rig.begin().log, StepLog(None, 1)]
        for asleep in (1, 0):
            for log in logs:
                log.record_sleep_state(asleep, 2)
        assert rig.events == ["started", "ready", "asleep", "awake"]


# ---- the log line of every step -----------------------------------------------------------------


@pytest.mark.parametrize(("keep", "lines"), [(False, 1), (True, 2)])
def test_the_line_for_every_step_is_dropped_unless_wanted(keep, lines, caplog):
    """--enable-logging-iteration-details writes one at INFO; others of that logger stay."""
    logger = logging.getLogger(ITERATION_LOGGER)
    before = list(logger.filters)
    logger.filters.clear()
    try:
        with (
            rigged(Settings(spool=None, iteration_log=keep), DETAILED),
            caplog.at_level(logging.INFO, ITERATION_LOGGER),
        ):
            StepLog(None, 1)
            logger.info("%sIteration(%d): %d context requests", "", 1, 2)
            logger.info("Engine 000: Avg prompt throughput")
        assert len(caplog.records) == lines
        silence_iterations()
        silence_iterations()
        assert len(logger.filters) == 1
    finally:
        logger.filters[:] = before


def test_the_mark_of_a_step_is_when_its_statistics_came(rig):
    """On the monotonic clock of the boot."""
    rig.clock.pass_(1.5)
    at = rig.clock.now
    rig.log.record(scheduler(), iteration())
    rig.settle(6)
    assert rig.batches[-1].marks.at_ns == (at,)
    assert at > IDENTITY.started_ns + SECOND
