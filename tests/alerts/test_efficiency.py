"""MFU and memory-bandwidth utilisation: right on a recorded H100, and by rules whose cases notice a slip."""

from pathlib import Path

import pytest
from benchmarks.gpu.report_data import phases_of
from tests.alerts.test_vocabulary_rules import passes

from farthing.alerts.render import render_rules
from farthing.alerts.signals import RATES
from farthing.collectors.engines.exposition import parse_exposition
from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.replay.recording import PACKAGED, load_recording
from farthing.settings import Settings
from farthing.vocabulary.loading import load_catalogue
from farthing.vocabulary.peaks import peaks_of

CASES = Path(__file__).parents[1] / "promtool" / "llm-efficiency.yml"
RECORDING = "h100-llama8b-vllm0.26"
WEIGHTS = 8.03e9
"""Parameters of the recorded shape (Llama-3.1-8B)."""
EDGES_NS = 2 * SECOND
"""At a phase's begin, where the scrape before it still counts work of the phase before."""


def per_second(phase: str, record: str) -> float:
    """Mean rate, over a phase of the recording, of what a record is the rate of: from its first scrape to its last."""
    source = load_catalogue("vllm").signals[RATES[record]].sources[0]
    begun = phases_of(PACKAGED / RECORDING / "phases.txt")
    number = [name for name, _ in begun].index(phase)
    begin, end = begun[number][1] + EDGES_NS, begun[number + 1][1]
    points = []
    for scrape in load_recording(RECORDING).scrapes:
        if begin <= scrape.wall_ns <= end:
            exposition = parse_exposition(scrape.body.encode(), "text/plain; version=0.0.4", RECORDING)
            total = sum(sample.value for metric in source.metrics for sample in exposition.find(metric))
            points.append((scrape.wall_ns, total))
    (first, before), (last, after) = points[0], points[-1]
    return (after - before) / (last - first) * SECOND


@pytest.fixture(scope="module")
def peaks():
    """Of the device that the recording's driver named."""
    found = peaks_of(str(load_recording(RECORDING).gpu["name"]))
    assert found is not None
    return found


def test_prompts_alone_use_most_of_the_matrix_units(peaks):
    """MFU of the prefill phase is 0.55 to 0.80: above it no published kernel runs, below it prefill would be slow."""
    assert 0.55 < per_second("prefill", names.REC_FLOPS) / peaks.bf16 < 0.80


def test_the_estimate_of_prompts_is_two_operations_per_weight_and_token_and_attention(peaks):
    """From tokens alone: 2 x 8.03 G per token; attention over prompts of 4,000 to 8,000 words adds 5 to 20 %."""
    operations = 2 * WEIGHTS * per_second("prefill", names.REC_PROMPT_RATE)
    assert 1.05 < per_second("prefill", names.REC_FLOPS) / operations < 1.20


def test_one_client_waits_for_the_memory(peaks):
    """Decoding alone reads the weights once a token: 0.55 to 0.80 of the bandwidth, and hardly any matrix unit."""
    assert 0.55 < per_second("c1", names.REC_MEMORY_BYTES) / peaks.memory_bytes_per_second < 0.80
    assert per_second("c1", names.REC_FLOPS) / peaks.bf16 < 0.05


def test_the_estimate_of_one_client_is_the_weights_once_a_token():
    """2 bytes a weight and token, and up to 5 % of KV cache and of prompts."""
    read = 2 * WEIGHTS * per_second("c1", names.REC_GENERATION_RATE)
    assert 0.95 < per_second("c1", names.REC_MEMORY_BYTES) / read < 1.05


def test_without_work_nothing_is_used(peaks):
    """The engine has estimated before, so 0 is known."""
    begun = phases_of(PACKAGED / RECORDING / "phases.txt")
    idle = begun[-1][1]
    assert begun[-1][0] == "idle"
    values = set()
    for scrape in load_recording(RECORDING).scrapes:
        if scrape.body and scrape.wall_ns > idle + EDGES_NS:
            exposition = parse_exposition(scrape.body.encode(), "text/plain; version=0.0.4", RECORDING)
            values.add(sum(sample.value for sample in exposition.find("vllm:estimated_flops_per_gpu_total")))
    assert len(values) == 1
    assert values.pop() > 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("group", "part", "replacement"),
    [
        (names.GROUP_EFFICIENCY, "max by (instance)", "sum by (instance)"),
        (names.GROUP_EFFICIENCY, names.METRIC_PEAK_FLOPS, names.METRIC_PEAK_BANDWIDTH),
        (names.GROUP_EFFICIENCY, '"engine", "(.*)"', '"gpu", "(.*)"'),
        (names.GROUP_VOCABULARY, "avg by (instance, model)", "sum by (instance, model)"),
        (names.GROUP_VOCABULARY, 'and vllm:estimated_flops_per_gpu_total{job="llm-engines"} > 0', ""),
        (names.GROUP_VOCABULARY, "vllm:estimated_write_bytes_per_gpu_total", "vllm:estimated_read_bytes_per_gpu_total"),
    ],
)
def test_the_cases_notice_a_wrong_ratio(tmp_path, group, part, replacement):
    """Cases that cannot fail prove nothing."""
    rules = {
        f"{name}.yml": render_rules(Settings())[f"{name}.yml"]
        for name in (names.GROUP_EFFICIENCY, names.GROUP_VOCABULARY)
    }
    assert part in rules[f"{group}.yml"]
    broken = {**rules, f"{group}.yml": rules[f"{group}.yml"].replace(part, replacement)}
    assert not passes(tmp_path, broken, CASES.read_text())
