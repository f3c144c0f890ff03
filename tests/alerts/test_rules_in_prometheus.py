"""The rules, loaded into a real Prometheus that scrapes recorded engines, record what the engines did."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.live_prometheus import ENGINES, prometheus
from tests.alerts.real_parts import wait_for

from farthing.alerts.signals import SCALARS, vocabulary
from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.vocabulary.loading import load_catalogue

LACKING = {record for record, signal in SCALARS.items() if signal in load_catalogue("vllm").lacking}
RECORDS = [rule.record for rule in vocabulary(Settings()).recordings if rule.record not in LACKING]
"""The vocabulary as far as vLLM has it; service levels need tiers and hours."""


def quantile(metric: str, share: float) -> float:
    """The quantile of both engines' recorded histograms together, interpolated in its bucket."""
    counts: dict[float, float] = {}
    for path in ENGINES.values():
        for family in text_string_to_metric_families(path.read_text()):
            for sample in family.samples:
                if sample.name == f"{metric}_bucket":
                    bound = float(sample.labels["le"])
                    counts[bound] = counts.get(bound, 0) + sample.value
    wanted = share * counts[math.inf]
    below_bound, below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            return below_bound + (bound - below_bound) * (wanted - below) / (count - below)
        below_bound, below = bound, count
    raise AssertionError(metric)


@pytest.mark.real
def test_the_rules_record_what_recorded_engines_did(tmp_path):
    """Every series appears for every instance or model, finite, and the quantiles are those of the recordings."""
    with prometheus(tmp_path) as server:

        def settled():
            # Ten seconds of scrapes, so that the two instances' rates weigh alike.
            return all(server.query(record) for record in RECORDS) and server.query(
                f'count_over_time(up{{job="{names.JOB_ENGINES}"}}[1m]) > 10'
            )

        wait_for(settled, 60, "every recording rule has a value")
        unhealthy = [
            rule for group in server.get("rules")["groups"] for rule in group["rules"] if rule["health"] == "err"
        ]
        values = {record: server.query(record) for record in RECORDS}
        unknown = [record for record in LACKING if server.query(record)]
    assert unhealthy == []
    assert LACKING
    assert unknown == []
    for record, samples in values.items():
        assert all(math.isfinite(float(sample["value"][1])) for sample in samples), record
        assert {sample["metric"]["model"] for sample in samples} == {"tiny"}, record
    for record in (names.REC_RUNNING, names.REC_WAITING, names.REC_KV, names.REC_GENERATION_RATE):
        assert {sample["metric"]["instance"] for sample in values[record]} == set(ENGINES), record
    for record, metric, share in (
        (names.REC_TTFT_P50, "vllm:time_to_first_token_seconds", 0.5),
        (names.REC_TTFT_P95, "vllm:time_to_first_token_seconds", 0.95),
        (names.REC_ITL_P50, "vllm:inter_token_latency_seconds", 0.5),
        (names.REC_ITL_P95, "vllm:inter_token_latency_seconds", 0.95),
    ):
        (sample,) = values[record]
        assert float(sample["value"][1]) == pytest.approx(quantile(metric, share), rel=0.1), record
