"""The catalogue is data that names only metrics seen in a live exposition, and is read into signals."""

import re
from pathlib import Path

import pytest
import yaml

from farthing.collectors.engines.catalogue import load_catalogue, read_signals
from farthing.collectors.engines.exposition import parse_exposition
from farthing.domain import conventions
from farthing.domain.errors import ConfigError, ExpositionError
from farthing.vocabulary.loading import parse_catalogue

ROOT = Path(__file__).parents[3]
VLM = ROOT / "tests/fixtures/vllm-0.32-cpu/metrics-vlm.txt"
CAPTURES = sorted(
    [
        *(ROOT / "tests/fixtures/vllm-0.32-cpu").glob("*.txt"),
        *ROOT.glob("app/farthing/replay/recordings/*/metrics_final.txt"),
    ]
)
SHIPPED = ROOT / "core/farthing/vocabulary/engines"
URL = "http://engine:8000/metrics"


def read(text, catalogue=None):
    """Signals of an exposition's text."""
    return read_signals(catalogue or load_catalogue("vllm"), parse_exposition(text.encode(), "", URL), URL)


def edited(change):
    """vLLM's catalogue as YAML text after ``change`` has been made to its data."""
    data = yaml.safe_load((SHIPPED / "vllm.yaml").read_text())
    change(data)
    return yaml.safe_dump(data)


def test_every_signal_that_costing_reads_is_in_the_catalogue():
    """The names in conventions.py and in the data are one vocabulary."""
    named = {value for name, value in vars(conventions).items() if name.startswith("SIGNAL_")}
    assert named - {conventions.SIGNAL_STARTUP} <= set(load_catalogue("vllm").scraped)


def test_every_label_filter_selects_a_series_of_a_capture():
    """A filter on a label value that does not exist would read nothing for ever."""
    expositions = [parse_exposition(path.read_bytes(), "", str(path)) for path in CAPTURES]
    for signal in load_catalogue("vllm").scraped.values():
        for source in signal.sources:
            assert any(exposition.find(source.metric, source.where) for exposition in expositions), source


def test_a_live_capture_reads_as_its_counters_say():
    """Tokens stay whole numbers, seconds become nanoseconds, and nothing is degraded on a current vLLM."""
    reading = read(VLM.read_text())
    assert reading.values == {
        "prompt_tokens_total": 2445,
        "computed_prompt_tokens_total": 1805,
        "cached_prompt_tokens_total": 640,
        "generation_tokens_total": 338,
        "requests_finished_total": 23,
        "first_tokens_total": 25,
        "preemptions_total": 0,
        "mm_cache_queries_total": 8,
        "mm_cache_hits_total": 4,
        "request_prefill_time_sum": 789_006_128,
        "request_decode_time_sum": 1_136_788_321,
    }
    assert reading.gauges["requests_running"] == 0
    assert reading.gauges["engine_awake"] == 1
    assert reading.gauges["startup_seconds"] == pytest.approx(48.18, abs=0.01)
    assert reading.model == "tiny"
    assert reading.start_ns == 1_795_444_804_150_000_000
    assert reading.degraded == ()


def test_data_parallel_ranks_add_up_and_the_fullest_cache_counts():
    """Counters and queues sum over the engine label; KV utilisation is its maximum."""
    text = re.sub(r"(?m)^(vllm:kv_cache_usage_perc\{.*\}) .*", r"\1 0.25", VLM.read_text())
    second = [line.replace('engine="0"', 'engine="1"') for line in text.splitlines() if line.startswith("vllm:")]
    second = [re.sub(r"^(vllm:kv_cache_usage_perc\{.*\}) .*", r"\1 0.5", line) for line in second]
    one, two = read(text), read(text + "\n".join(second) + "\n")
    assert two.values == {name: 2 * value for name, value in one.values.items()}
    assert two.gauges["kv_cache_utilization"] == 0.5
    assert two.model == "tiny"


def test_without_per_source_tokens_the_total_is_used_and_said_to_be_worse():
    """vLLM before 0.16 does not split its prompt tokens; the reading says what that costs."""
    text = "\n".join(line for line in VLM.read_text().splitlines() if "prompt_tokens_by_source" not in line) + "\n"
    reading = read(text)
    assert reading.values["computed_prompt_tokens_total"] == 2445
    assert reading.used["computed_prompt_tokens_total"] == "vllm:prompt_tokens_total"
    assert reading.degraded == (
        "vllm:prompt_tokens_by_source_total is missing: cached prompt tokens are costed as if they had been computed",
    )


def test_a_missing_signal_is_absent_and_never_zero():
    """vLLM's Rust frontend has no image cache metrics and no process metrics."""
    gone = ("mm_cache", "process_start_time", "_created")
    text = "\n".join(line for line in VLM.read_text().splitlines() if not any(word in line for word in gone)) + "\n"
    reading = read(text)
    assert "mm_cache_queries_total" not in reading.values
    assert reading.start_ns is None
    assert "startup_seconds" not in reading.gauges
    # two signals are gone, for one reason, in two sentences that name their metrics
    assert [sentence.split(" is missing: ") for sentence in reading.degraded] == [
        ["vllm:mm_cache_queries_total", "image look-ups are unknown"],
        ["vllm:mm_cache_hits_total", "image look-ups are unknown"],
    ]


def test_without_a_process_start_the_creation_of_the_metrics_identifies_the_boot():
    """The client's _created gauge is as good an identity."""
    text = VLM.read_text().replace("process_start_time_seconds", "other_start_time_seconds")
    assert read(text).start_ns == 1_795_444_852_328_721_800


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1.0"])
def test_a_counter_that_is_no_count_is_absent(value):
    """A value that cannot be a total is not read as one."""
    text = re.sub(r"(vllm:num_preemptions_total\{.*\}) .*", rf"\1 {value}", VLM.read_text())
    reading = read(text)
    assert "preemptions_total" not in reading.values
    assert "vllm:num_preemptions_total is " in reading.degraded[0]


def test_another_programs_metrics_are_refused_by_what_they_lack():
    """A node exporter at the engine's URL is a mistake in farthing.yaml, not an engine without work."""
    with pytest.raises(
        ExpositionError, match=r"not vLLM.*vllm:num_requests_running is missing.*check engines\[\]\.kind"
    ):
        read("node_load1 0.5\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("model"), "x.yaml: model: Field required"),
        (lambda data: data.pop("boot"), "x.yaml: (top level): an engine that is scraped needs boot and version_path"),
        (lambda data: data.update(extra=1), "x.yaml: extra: unknown key"),
        (
            lambda data: data["signals"]["preemptions_total"].update(kind="summary"),
            "x.yaml: signals.preemptions_total.kind: Input should be 'counter', 'gauge' or 'histogram'",
        ),
        (
            lambda data: data["signals"]["preemptions_total"].update(kind="histogram"),
            "x.yaml: signals.preemptions_total: scraping reads counters and gauges",
        ),
        (
            lambda data: data["signals"]["preemptions_total"].update(aggregate="max"),
            "x.yaml: signals.preemptions_total: a counter's series add up; aggregate must be sum",
        ),
        (
            lambda data: data["signals"]["preemptions_total"].pop("without"),
            "x.yaml: signals.preemptions_total: say in 'without' what is unknown when it is absent",
        ),
        (
            lambda data: data["signals"]["preemptions_total"].update({"from": []}),
            "x.yaml: signals.preemptions_total.from: Tuple should have at least 1 item after validation, not 0",
        ),
        (
            lambda data: data["signals"]["preemptions_total"]["from"][0].update(metric="vllm preemptions"),
            "x.yaml: signals.preemptions_total.from.0.metric: String should match pattern",
        ),
        (
            lambda data: data["signals"]["preemptions_total"]["from"][0].update(since=0.6),
            "x.yaml: signals.preemptions_total.from.0.since: Input should be a valid string",
        ),
    ],
)
def test_a_malformed_catalogue_is_refused_by_file_and_key(change, message):
    """Whoever adds an engine reads which key is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse_catalogue(edited(change), "x.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- a\n", "", "a: \x00"])
def test_text_that_is_no_catalogue_is_refused_in_one_line(text):
    """Broken YAML, a list, and nothing at all."""
    with pytest.raises(ConfigError, match=r"^x\.yaml") as caught:
        parse_catalogue(text, "x.yaml")
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_of_engine_is_refused_with_the_known_ones():
    """The user reads what could be written instead."""
    with pytest.raises(ConfigError, match="engine kind 'vlm' has no catalogue; known kinds: vllm"):
        load_catalogue("vlm")
