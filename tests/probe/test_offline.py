"""Jobs of vLLM's offline ``LLM``: metered inside the block, and never disturbed by it."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tests.probe.rig import rigged

import farthing_probe
from farthing_probe import offline, stat_logger
from farthing_probe.stat_logger import StepLog


class Adapter:
    """vllm.v1.metrics.loggers.PerEngineStatLoggerAdapter, as far as it is used."""

    def __init__(self, config, engine_indexes, factory):
        self.loggers = [factory(config, index) for index in engine_indexes]

    def record(self, *arguments, **named):
        """Hand on."""
        for logger in self.loggers:
            logger.record(*arguments, **named)

    def log_engine_initialized(self):
        """Hand on."""
        for logger in self.loggers:
            logger.log_engine_initialized()


@pytest.fixture
def job(monkeypatch):
    """A rig whose engine is an LLM's, with ``generate`` to run prompts through it."""
    loggers = SimpleNamespace(PerEngineStatLoggerAdapter=Adapter, StatLoggerBase=object)
    for name in ("vllm", "vllm.v1", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__="0.32.0"))
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.loggers", loggers)
    monkeypatch.setattr(offline, "FarthingStatLogger", StepLog)
    with rigged() as made:
        rig: Any = made
        rig.manager = SimpleNamespace(stat_loggers=[])
        rig.llm = SimpleNamespace(llm_engine=SimpleNamespace(logger_manager=rig.manager, vllm_config=object()))

        def generate(tokens, name="0"):
            """One prompt, its statistics to whoever is attached."""
            rig.clock.pass_(1)
            (sequence,) = rig.engine.add(name)
            rig.clock.pass_(1)
            iteration = rig.engine.step({sequence: tokens}, {sequence: "length"})
            for logger in rig.manager.stat_loggers:
                logger.record(rig.engine.state(), iteration)

        rig.generate = generate
        yield rig


def test_a_block_is_metered_and_booked_to_its_job(job):
    """Every prompt a record of the engine's side; nothing stays attached."""
    with farthing_probe.meter(job.llm, job="nightly", tenant="acme", project="p1"):
        job.generate(3)
        job.generate(4, "1")
        assert job.probe.on
    job.generate(5)
    assert job.manager.stat_loggers == []
    assert [(usage.workload, usage.tenant, usage.project) for usage in job.usages] == [("nightly", "acme", "p1")] * 2
    assert [usage.sequences[0].output_tokens for usage in job.usages] == [3, 4]
    assert [usage.seen_by for usage in job.usages] == ["engine"] * 2
    assert job.events == ["started", "ready", "stop"]
    assert sum(sum(batch.marks.generated) for batch in job.batches) == 7
    assert job.probe.errors == 0


def test_blocks_one_after_another_are_metered_each(job):
    """Two jobs of one process: nothing of the second is lost, and no record has the first's key."""
    for name in ("first", "second"):
        with farthing_probe.meter(job.llm, job=name):
            job.generate(3)
    assert [usage.workload for usage in job.usages] == ["first", "second"]
    keys = [record.key for record in job.records]
    assert len(set(keys)) == len(keys)
    assert job.events == ["started", "ready", "stop"] * 2
    assert job.delivery.closed == [], "the process goes on, and with it the delivery"


def test_what_the_block_raises_is_what_comes_out(job):
    """And the boot has its end."""
    with pytest.raises(ZeroDivisionError), farthing_probe.meter(job.llm, job="nightly"):
        raise ZeroDivisionError
    assert (job.manager.stat_loggers, job.events) == ([], ["started", "ready", "stop"])


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        (SimpleNamespace(llm_engine=SimpleNamespace(logger_manager=None)), "disable_log_stats=False"),
        (SimpleNamespace(llm_engine=SimpleNamespace()), "disable_log_stats=False"),
        (object(), "AttributeError while attaching"),
    ],
    ids=["no statistics", "none of this version", "no LLM"],
)
def test_what_cannot_be_metered_runs_all_the_same(job, llm, words, caplog):
    """One line says so, and what to do."""
    ran = []
    with farthing_probe.meter(llm, job="nightly"):
        ran.append(True)
    assert ran
    (line,) = caplog.messages
    assert words in line
    assert job.records == []


def test_a_logger_that_somebody_has_detached_is_no_error(job):
    """The block's own work may change the engine."""
    with farthing_probe.meter(job.llm, job="nightly"):
        job.manager.stat_loggers.clear()
    assert job.events == ["started", "ready", "stop"]


def test_without_settings_that_can_be_used_nothing_is_attached(job, monkeypatch):
    """obtain has said why."""
    monkeypatch.setattr(offline, "obtain", lambda _: None)
    monkeypatch.setattr(stat_logger, "obtain", lambda _: None)
    with farthing_probe.meter(job.llm, job="nightly"):
        assert job.manager.stat_loggers == []
