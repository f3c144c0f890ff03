"""Who reports, as far as a configuration of any version says."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from farthing_probe import identity
from farthing_probe.identity import Identity
from farthing_probe.settings import Settings

SETTINGS = Settings(engine="llama-8b", gpu="H100")


def config(*, served="llama", details=False, **parallel):
    """What of VllmConfig is read."""
    return SimpleNamespace(
        model_config=SimpleNamespace(served_model_name=served, model="org/llama"),
        parallel_config=SimpleNamespace(**parallel),
        observability_config=SimpleNamespace(enable_logging_iteration_details=details),
    )


def test_an_instance_of_one_process():
    """Named by its settings, its model as vLLM's metrics label it."""
    who = Identity.of(config(world_size=1), SETTINGS)
    assert (who.engine, who.model, who.gpu, who.gpu_count) == ("llama-8b", "llama", "H100", 1)
    assert (who.proc, who.processes, who.details) == (0, 1, False)


@pytest.mark.parametrize(
    ("flag", "statistics", "details"),
    [
        (True, SimpleNamespace(iteration_details=None), True),
        (False, SimpleNamespace(iteration_details=None), False),
        (True, SimpleNamespace(), False),
        (True, None, False),
    ],
    ids=["on", "off", "0.16 to 0.25", "no such class"],
)
def test_details_are_those_that_reach_the_loggers(flag, statistics, details, monkeypatch):
    """The flag is older than the statistics: until 0.26 the engine core wrote them to its own log only."""
    for name in ("vllm", "vllm.v1", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__="0.32.0"))
    module = SimpleNamespace(SchedulerStats=statistics) if statistics is not None else None
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.stats", module)
    assert Identity.of(config(details=flag), SETTINGS).details is details


@pytest.mark.parametrize("given", [None, object(), SimpleNamespace(parallel_config=None, model_config=None)])
def test_a_configuration_that_says_nothing_gives_the_most_modest_values(given):
    """Never an exception, and never a GPU more than one."""
    who = Identity.of(given, SETTINGS)
    assert (who.model, who.gpu_count, who.proc, who.processes, who.details) == ("unknown", 1, 0, 1, False)


@pytest.mark.parametrize(
    ("parallel", "count"),
    [
        ({"world_size": 4}, 4),
        ({"world_size": 2, "data_parallel_size": 4}, 8),
        ({"world_size": 2, "data_parallel_size": 4, "data_parallel_external_lb": True}, 2),
        ({"world_size": 2, "data_parallel_size": 8, "data_parallel_size_local": 4, "data_parallel_hybrid_lb": True}, 8),
        ({"world_size": None}, 1),
    ],
)
def test_all_gpus_of_an_instance_are_billed(parallel, count):
    """Tensor and pipeline ranks, times the data-parallel replicas that report here."""
    assert Identity.of(config(**parallel), SETTINGS).gpu_count == count
    assert Identity.of(config(**parallel), Settings(engine="e", gpu_count=3)).gpu_count == 3


@pytest.mark.parametrize(
    ("served", "model"), [(["a", "b"], "a"), (("a",), "a"), ([], "org/llama"), (None, "org/llama"), ("a", "a")]
)
def test_the_first_served_name_is_the_models(served, model):
    """As vLLM's own metrics label it."""
    assert Identity.of(config(served=served), SETTINGS).model == model


def test_names_are_made_to_fit():
    """Intake would refuse the start, and with it the boot."""
    who = Identity.of(config(served="m\n" * 400), Settings(engine="e\x00" * 400, gpu="g\x7f" * 400))
    assert (len(who.engine), len(who.model), len(who.gpu)) == (128, 256, 128)
    assert all(text.isprintable() for text in (who.engine, who.model, who.gpu, who.version))


BOOT = """
import sys
from types import SimpleNamespace
from farthing_probe.identity import Identity
from farthing_probe.settings import Settings
parallel = SimpleNamespace(_api_process_count=2, _api_process_rank=int(sys.argv[1]))
who = Identity.of(SimpleNamespace(parallel_config=parallel), Settings(engine="e"))
print(who.boot, who.proc, who.processes, who.started_ns)
"""


def test_the_processes_of_an_instance_agree_on_the_boot_and_no_two_instances_do():
    """By their leader's start; which is when the bill begins."""
    root = Path(identity.__file__).parents[1]
    told = [
        subprocess.run(
            [sys.executable, "-c", BOOT, str(rank)],
            env={**os.environ, "PYTHONPATH": str(root)}, check=True, capture_output=True, text=True,
        ).stdout.split()
        for rank in (0, 1)
    ]  # fmt: skip
    assert told[0][0] == told[1][0] == identity._boot(os.getpid())
    assert [each[1:3] for each in told] == [["0", "2"], ["1", "2"]]
    began = [int(each[3]) for each in told]
    assert abs(began[0] - began[1]) < 50_000_000, "the kernel's ticks are a hundredth of a second"
    assert identity._boot(os.getpid()) != identity._boot(os.getppid())


def test_a_start_is_when_the_process_began():
    """On the monotonic clock."""
    before = time.monotonic_ns()
    with subprocess.Popen([sys.executable, "-c", "input()"]) as process:
        began = identity._process_start_ns(process.pid)
        process.kill()
    assert before - 30_000_000 <= began <= time.monotonic_ns()


def test_a_process_that_cannot_be_looked_at_began_now(monkeypatch):
    """No /proc, or not ours to read."""
    monkeypatch.setattr(identity, "_start_ticks", lambda _: 0)
    before = time.monotonic_ns()
    assert before <= identity._process_start_ns(1) <= time.monotonic_ns()
    assert identity._start_ticks(2**30) == 0


class Platform:
    """vllm.platforms.current_platform; the second device cannot be read."""

    def __init__(self, known):
        self.known = known

    def get_device_name(self):
        """Of the first."""
        return "NVIDIA H100 80GB HBM3"

    def get_device_uuid(self, number):
        """Of each."""
        if number >= self.known:
            raise NotImplementedError
        return f"GPU-{number}"


@pytest.mark.parametrize(("known", "uuids"), [(2, ("GPU-0", "GPU-1")), (1, ()), (0, ())])
def test_devices_are_named_by_vllms_platform(known, uuids, monkeypatch):
    """All of them or none: a part would look like the whole."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.32.0"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=Platform(known)))
    who = Identity.of(config(world_size=2), Settings(engine="e"))
    assert (who.version, who.gpu, who.gpu_uuids) == ("0.32.0", "NVIDIA H100 80GB HBM3", uuids)


def test_without_vllm_version_and_device_are_unknown():
    """Half an installation must not stop an engine."""
    assert "vllm" not in sys.modules
    who = Identity.of(config(), Settings(engine="e"))
    assert (who.version, who.gpu, who.gpu_uuids) == ("", "unknown", ())
