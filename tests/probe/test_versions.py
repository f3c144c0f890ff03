"""The installed probe among the real classes of vLLM from 0.11.2 to 0.33: what a version lacks degrades, never raises.

``inside_vllm.py`` says what is real and what is played. Only texts of the sources are used, with the libraries of
the engine's environment; the environment's own vLLM takes part too, compiled parts and all.
"""

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.probe.conftest import missing
from tests.probe.vllm_sources import VERSIONS, source_of

from farthing.collectors.wire import decode_line
from farthing.domain.records import Started, StepBatch, Usage
from farthing_probe.request_meter import PATHS
from farthing_probe.stat_logger import ITERATION_LOGGER, _NotIterations

pytestmark = pytest.mark.real
PROGRAM = Path(__file__).with_name("inside_vllm.py")
OWN = "installed"
"""The environment's own."""
SECONDS = 240
ALL = (*VERSIONS, OWN)
NOT_BEFORE = {
    "cached_told": "0.16.0", "named": "0.16.0", "identified": "0.26.0", "detailed": "0.26.0", "preemptions": "0.32.0"
}  # fmt: skip
"""The first of VERSIONS with: cached tokens per step, ids of its own beside the caller's, ids in the statistics of
what has ended, the scheduler's details per step, preemptions per request."""


@pytest.fixture(scope="session")
def sources():
    """Version -> the folder of its sources."""
    try:
        return {version: source_of(version) for version in VERSIONS}
    except (httpx.HTTPError, OSError, ValueError) as error:
        missing(f"vLLM's sources cannot be fetched: {error!r}")


@pytest.fixture(scope="session")
def told(sources, installed, engine_python, tmp_path_factory):
    """Version -> what the probe made of it."""
    folder = tmp_path_factory.mktemp("inside")

    def run(version):
        path = [str(installed)] if version == OWN else [str(sources[version]), str(installed)]
        done = subprocess.run(
            [engine_python, PROGRAM],
            env={
                **os.environ, "PYTHONPATH": os.pathsep.join(path), "VLLM_LOGGING_LEVEL": "ERROR",
                "FARTHING_PROBE_SPOOL": "", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
            },
            cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{version}: {done.stderr[-3000:]}"
        return json.loads(done.stdout.rpartition("RESULT")[2])

    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        return dict(zip(ALL, pool.map(run, ALL), strict=True))


def has(version, feature):
    """Whether a version is one of those with a feature."""
    version = "0.32.0" if version == OWN else version
    return VERSIONS.index(version) >= VERSIONS.index(NOT_BEFORE[feature])


def decoded(records):
    """As intake takes them."""
    return [decode_line(json.dumps(record).encode()) for record in records]


def usages(told):
    """Usage records of the served requests by request id."""
    found = [record for record in decoded(told["served"]) if isinstance(record, Usage)]
    by_id = {usage.request_id: usage for usage in found}
    assert len(by_id) == len(found)
    return by_id


@pytest.mark.parametrize("version", ALL)
def test_it_is_the_version_and_the_probe_that_are_meant(version, told, sources, installed):
    """And that only what is named was stubbed."""
    result = told[version]
    if version == OWN:
        assert result["version"].startswith("0.32.0")
    else:
        assert result["version"] == version
        assert Path(result["vllm"]).is_relative_to(sources[version])
    assert Path(result["probe"]).is_relative_to(installed)
    assert result["stubbed"] in ([], ["gguf"])
    assert {name: result[name] for name in NOT_BEFORE} == {name: has(version, name) for name in NOT_BEFORE}


@pytest.mark.parametrize("version", ALL)
def test_vllm_takes_the_plugin_and_keeps_none_of_its_own_methods(version, told):
    """By its own loader and base class; aggregate loggers are built with all indexes at once, ours for each."""
    result = told[version]
    assert (result["derived"], result["aggregate"], result["not_ours"]) == (True, False, [])
    assert result["keeps_config"] is False


@pytest.mark.parametrize("version", ALL)
def test_nothing_that_a_version_lacks_is_an_error(version, told):
    """Nor is anything kept of requests that are over."""
    assert (told[version]["errors"], told[version]["unreported"]) == ([0, 0], [0, 0])


@pytest.mark.parametrize("version", ALL)
def test_intake_takes_every_record_and_none_is_missing(version, told):
    """In each of the two boots."""
    for records in (told[version]["served"], told[version]["offline"]):
        assert [record.key.sequence for record in decoded(records)] == list(range(len(records)))
        assert {record["boot"] for record in records} == {records[0]["boot"]}
        assert [record.get("event") for record in records if record["kind"] == "lifecycle"] == ["ready", "stop"]


@pytest.mark.parametrize("version", ALL)
def test_a_start_says_which_engine_it_is(version, told):
    """Details only where they reach the loggers: the flag is older (0.16)."""
    started = decoded(told[version]["served"])[0]
    assert isinstance(started, Started)
    assert (started.version, started.model) == (told[version]["version"], "llama")
    assert (started.details, started.processes, started.gpu_count) == (has(version, "detailed"), 1, 1)


CASES = {
    "finished": ("finished", [(7, 4, 3)], "length"),
    "choices": ("finished", [(6, 0, 2), (6, 4, 3)], "stop"),
    "aborted_early": ("aborted", [], ""),
    "aborted_late": ("aborted", [(8, 3, 2)], ""),
    "pooled": ("finished", [(4, 0, 0)], "stop"),
    "seeing": ("finished", [(12, 0, 1)], "stop"),
    "given_up": ("finished", [], "abort"),
    "twins": ("finished", [(3, 0, 3), (3, 0, 2)], "stop"),
}
"""Outcome, (prompt, cached, output) tokens of each sequence, finish reason."""


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("case", CASES)
def test_each_request_has_the_engines_exact_counts(version, case, told):
    """Finished and aborted; where a version says less it is the reason that is missing, not a token."""
    outcome, counts, reason = CASES[case]
    if case == "twins" and not has(version, "named"):
        counts = counts[:1]  # a second request of the same id is refused
    usage = usages(told[version])[case]
    assert (usage.outcome, usage.tenant, usage.seen_by) == (outcome, "acme", "both" if counts else "client")
    assert [(each.prompt_tokens, each.cached_tokens, each.output_tokens) for each in usage.sequences] == counts
    assert usage.finish_reason == (reason if has(version, "identified") else "")
    assert usage.model == ("adapter-7" if case == "seeing" else "llama")
    assert usage.image_tokens == (6 if case == "seeing" else 0)
    for each in usage.sequences:
        assert usage.arrived_ns <= each.last_ns <= usage.ended_ns + 50_000_000
        assert each.scheduled_ns < (each.first_ns or each.last_ns)
        assert abs(each.queued_ns - 2_000_000) < 1000
        assert each.preemptions == has(version, "preemptions")
    if not counts:
        assert usage.prompt_tokens == (5 if case == "aborted_early" else 9)


@pytest.mark.parametrize("version", ALL)
def test_what_no_request_of_the_middleware_asked_for_is_its_own_record(version, told):
    """Where statistics have no id it cannot be told from the middleware's."""
    found = usages(told[version])
    assert set(found) == set(CASES) | ({"elsewhere"} if has(version, "identified") else set())
    if "elsewhere" in found:
        alone = found["elsewhere"]
        assert (alone.seen_by, alone.tenant, alone.sequences[0].output_tokens) == ("engine", "unknown", 2)


@pytest.mark.parametrize("version", ALL)
def test_steps_have_what_the_version_tells(version, told):
    """Every token once; what the scheduler did where it says so, else inferred."""
    (batch,) = [record for record in decoded(told[version]["served"]) if isinstance(record, StepBatch)]
    marks, twins = batch.marks, has(version, "named")
    assert sum(marks.generated) == 3 + 5 + 3 - 1 + 0 + 1 + 0 + (5 if twins else 3) + 2
    prompts = 7 + 12 + 8 + 4 + 12 + (6 if twins else 3) + 2
    # until 0.16 the whole prompt of what was given up counts as prefilled
    given_up = 0 if has(version, "identified") else 9
    assert sum(marks.prompt_computed) + sum(marks.prompt_cached) == prompts + given_up
    assert sum(marks.prompt_cached) == (11 if has(version, "cached_told") else 0)
    assert sum(marks.preempted) == (9 if twins else 8)
    if has(version, "detailed"):
        assert (marks.prefill_requests[:2], marks.prefill_tokens[:2]) == ((1, 0), (3, 0))
        assert (marks.decode_requests[:2], marks.decode_tokens[:2]) == ((0, 1), (0, 2))
        assert set(marks.encoder_tokens) == {19}
        assert not any(marks.prefill_tokens[2:]), "as the scheduler said, not as could be inferred"
    else:
        assert (marks.prefill_requests[:2], marks.decode_tokens[:2]) == ((1, 0), (0, 2))
        assert marks.prefill_tokens[:2] == ((3, 0) if has(version, "cached_told") else (7, 0))
        assert not any(marks.encoder_tokens)


@pytest.mark.parametrize("version", ALL)
def test_an_offline_job_is_metered_through_vllms_own_adapter(version, told):
    """Without an id too: there is no middleware that could hold its requests."""
    (usage,) = [record for record in decoded(told[version]["offline"]) if isinstance(record, Usage)]
    assert (usage.workload, usage.seen_by, usage.outcome, usage.finish_reason) == (
        "nightly", "engine", "finished", "length",
    )  # fmt: skip
    (sequence,) = usage.sequences
    assert (sequence.prompt_tokens, sequence.output_tokens) == (5, 4)
    # until 0.13 only the request's state knew
    assert sequence.cached_tokens == (2 if has(version, "cached_told") else 0)


@pytest.mark.parametrize("version", ALL)
def test_nothing_of_a_prompt_is_in_any_record(version, told):
    """vLLM's request states hold the text."""
    assert "canary" not in json.dumps([told[version]["served"], told[version]["offline"]])


# ---- what the classes alone do not show ---------------------------------------------------------

ELSEWHERE = {
    "/abort_requests", "/inference/v1/abort_requests", "/collective_rpc", "/detokenize", "/fault_tolerance/apply",
    "/finish_weight_update",
    "/init_weight_transfer_engine", "/is_scaling_elastic_ep", "/pause", "/ping", "/release_kv_cache_memory",
    "/reset_encoder_cache", "/reset_mm_cache", "/reset_prefix_cache", "/resume", "/scale_elastic_ep",
    "/shutdown_weight_transfer_engine", "/sleep", "/start_draft_weight_update", "/start_profile",
    "/start_weight_update", "/stop_profile", "/tokenize", "/update_weight_version", "/update_weights", "/wake_up",
    "/weight_checker", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/messages/count_tokens",
    "/v1/responses/{response_id}/cancel", "/cohere/v2/chat/render", "/v1/chat/completions/render",
    "/v1/completions/render", "/v1/messages/render", "/v1/responses/render", "/v1/chat/completions/derender",
    "/v1/completions/derender",
}  # fmt: skip
"""Routes that ask nothing of the engine that anybody should pay for."""
ROUTE = re.compile(r'(?:@\w+\.post|\w+\.add_api_route)\(\s*"([^"]+)"')


def texts(folder):
    """The server's modules; vllm/entrypoints/api_server.py is a demonstration that loads no middleware."""
    entrypoints = folder / "vllm/entrypoints"
    return [path.read_text("utf-8") for path in entrypoints.rglob("*.py") if path != entrypoints / "api_server.py"]


def test_every_route_that_generates_is_known(sources):
    """A route of a new version is either metered or named here as one that costs nothing."""
    routes = {version: {route for text in texts(folder) for route in ROUTE.findall(text)}
              for version, folder in sources.items()}  # fmt: skip
    assert all(len(found) > 20 for found in routes.values())
    assert {version: found - PATHS - ELSEWHERE for version, found in routes.items()} == {v: set() for v in VERSIONS}
    assert set().union(*routes.values()) == PATHS | ELSEWHERE, "nothing that no version has"
    assert not PATHS & ELSEWHERE


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_keeps_its_parts_where_the_probe_looks(version, sources):
    """The names that are read, in the text that sets them."""
    folder = sources[version] / "vllm"
    assert any("state.engine_client = engine_client" in text for text in texts(sources[version]))
    assert any("add_middleware(imported)" in text for text in texts(sources[version]))
    front = (folder / "v1/engine/async_llm.py").read_text("utf-8")
    for name in (".output_processor = OutputProcessor(", ".output_processor.add_request(", "self.engine_core ="):
        assert name in front
    core = (folder / "v1/engine/core_client.py").read_text("utf-8")
    assert "EngineIdentity = bytes" in core
    assert "self.reqs_in_flight: dict[str, EngineIdentity] = {}" in core
    parallel = (folder / "config/parallel.py").read_text("utf-8")
    for name in ("_api_process_count: int", "_api_process_rank: int", "world_size: int", "data_parallel_size: int"):
        assert name in parallel
    for name in ("data_parallel_size_local: int", "data_parallel_external_lb: bool", "data_parallel_hybrid_lb: bool"):
        assert name in parallel


@pytest.mark.parametrize("version", [version for version in VERSIONS if has(version, "detailed")])
def test_the_line_for_every_step_is_the_one_that_is_dropped(version, sources):
    """By the logger's name and the beginning of its format."""
    logger = sources[version] / f"vllm/{ITERATION_LOGGER.removeprefix('vllm.').replace('.', '/')}.py"
    text = logger.read_text("utf-8")
    (line,) = re.findall(r'logger\.info\(\s*"([^"]*Iteration\([^"]*)"', text)
    record = type("Record", (), {"msg": line})()
    assert not _NotIterations().filter(record)
    assert "logger = init_logger(__name__)" in text
