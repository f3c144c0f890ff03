"""What Kubernetes gets has the fields that its kinds document, and asks questions whose answers are right."""

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.alerts.known_metrics import captures, farthing_exposition, known_labels, problems
from tests.alerts.real_parts import program

from farthing.alerts.autoscaling import adapter_rules, horizontal_pod_autoscaler, scaled_object, signals
from farthing.alerts.scale_down import LONGEST_SECONDS, SHORTEST_SECONDS, Start, hold
from farthing.cli.autoscale import example_files
from farthing.domain.money import NANO
from farthing.settings import Settings
from farthing.settings_autoscale import ScaledModelSettings

MODEL = "meta-llama/Llama-3.1-8B"
SCALED = ScaledModelSettings.model_validate(
    {
        "model": MODEL,
        "deployment": "llama",
        "namespace": "llm",
        "prewarm": [{"timezone": "Etc/UTC", "start": "30 7 * * 1-5", "end": "0 19 * * 1-5", "replicas": 2}],
    }
)
SETTINGS = Settings.model_validate({"autoscale": {"models": [SCALED.model_dump()]}})
HOLD = hold(SCALED, ())
HOUR = 3600

BEHAVIOR = {
    side: {
        "stabilizationWindowSeconds": int,
        "selectPolicy": str,
        "policies": [{"type": str, "value": int, "periodSeconds": int}],
    }
    for side in ("scaleUp", "scaleDown")
}
TARGET = {"apiVersion": str, "kind": str, "name": str}
METADATA = {"name": str, "namespace": str}
# Fields of keda.sh/v1alpha1 ScaledObject (KEDA 2.18, "ScaledObject specification") that we use, and their types.
SCALED_OBJECT: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": METADATA,
    "spec": {
        "scaleTargetRef": TARGET,
        "pollingInterval": int,
        "cooldownPeriod": int,
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOR}},
        "triggers": [{"type": str, "name": str, "metricType": str, "metadata": {}}],
    },
}
# Metadata of KEDA's scalers: every value is a string.
SCALERS = {
    "prometheus": {"serverAddress", "query", "threshold", "ignoreNullValues"},
    "cron": {"timezone", "start", "end", "desiredReplicas"},
}
# Fields of autoscaling/v2 HorizontalPodAutoscaler (Kubernetes API reference).
AUTOSCALER: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": METADATA,
    "spec": {
        "scaleTargetRef": TARGET,
        "minReplicas": int,
        "maxReplicas": int,
        "metrics": [
            {
                "type": str,
                "external": {"metric": {"name": str}, "target": {"type": str, "value": str, "averageValue": str}},
            }
        ],
        "behavior": BEHAVIOR,
    },
}
# prometheus-adapter's externalRules (its docs/externalmetrics.md).
ADAPTER: dict[str, Any] = {
    "externalRules": [
        {
            "seriesQuery": str,
            "resources": {"namespaced": bool},
            "name": {"matches": str, "as": str},
            "metricsQuery": str,
        }
    ]
}


def misfits(value: Any, schema: Any, where: str = "") -> list[str]:
    """Every key that the schema does not know, and every value of another type; an empty mapping takes any key."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: not a mapping"]
        unknown = [f"{where}.{key}" for key in value if schema and key not in schema]
        return unknown + [p for k, v in value.items() if k in schema for p in misfits(v, schema[k], f"{where}.{k}")]
    if isinstance(schema, list):
        return [p for index, entry in enumerate(value) for p in misfits(entry, schema[0], f"{where}[{index}]")]
    return [] if type(value) is schema else [f"{where}: {value!r} is no {schema.__name__}"]


def test_a_scaled_object_has_the_fields_that_keda_documents():
    """And its scalers theirs, all of them strings."""
    document = scaled_object(SETTINGS, SCALED, HOLD)
    assert misfits(document, SCALED_OBJECT) == []
    assert (document["apiVersion"], document["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    for trigger in document["spec"]["triggers"]:
        assert set(trigger["metadata"]) == SCALERS[trigger["type"]]
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert trigger["type"] == "cron" or trigger["metricType"] in {"AverageValue", "Value"}
    names = [trigger.get("name") for trigger in document["spec"]["triggers"]]
    assert names == ["queue", "kv-cache", "first-token", None]


def test_an_autoscaler_has_the_fields_that_kubernetes_documents():
    """Each target in the form of its type, and every metric one that the adapter serves."""
    document = horizontal_pod_autoscaler(SETTINGS, SCALED, HOLD)
    assert misfits(document, AUTOSCALER) == []
    assert (document["apiVersion"], document["kind"]) == ("autoscaling/v2", "HorizontalPodAutoscaler")
    targets = [metric["external"]["target"] for metric in document["spec"]["metrics"]]
    assert targets == [
        {"type": "AverageValue", "averageValue": "10"},
        {"type": "Value", "value": "800m"},
        {"type": "Value", "value": "1"},
    ]
    rules = adapter_rules(SETTINGS, [SCALED])
    assert misfits(rules, ADAPTER) == []
    served = [rule["name"]["as"] for rule in rules["externalRules"]]
    assert served == [metric["external"]["metric"]["name"] for metric in document["spec"]["metrics"]]


def test_the_check_of_fields_finds_what_does_not_fit():
    """A check that cannot fail proves nothing."""
    document = scaled_object(SETTINGS, SCALED, HOLD)
    document["spec"]["minReplicas"] = 1
    document["spec"]["cooldownPeriod"] = "60"
    document["spec"]["triggers"][0]["metric"] = {}
    assert misfits(document, SCALED_OBJECT) == [
        ".spec.minReplicas",
        ".spec.cooldownPeriod: '60' is no int",
        ".spec.triggers[0].metric",
    ]


def test_the_committed_files_are_whole_documents():
    """Whoever applies them gets what the tests above have seen."""
    files = example_files(Settings())
    root = Path(__file__).parents[2] / "deploy" / "kubernetes" / "autoscaling"
    schemas = {"keda/scaledobjects.yaml": SCALED_OBJECT, "hpa/horizontalpodautoscalers.yaml": AUTOSCALER}
    schemas["hpa/prometheus-adapter.yaml"] = ADAPTER
    assert {path.as_posix() for path in files} == set(schemas)
    for path, text in files.items():
        assert (root / path).read_text() == text
        for document in yaml.safe_load_all(text):
            assert misfits(document, schemas[path.as_posix()]) == []


def test_no_engine_seen_is_never_taken_for_no_load():
    """KEDA would otherwise read a lost target as 0, and take replicas away from a fleet that it cannot see."""
    for trigger in scaled_object(SETTINGS, SCALED, HOLD)["spec"]["triggers"]:
        assert trigger["metadata"].get("ignoreNullValues", "false") == "false"
        assert "vector(" not in trigger["metadata"].get("query", "")


@pytest.mark.parametrize("signal", signals(SETTINGS, SCALED), ids=lambda signal: signal.name)
def test_every_query_names_series_and_labels_that_exist(signal):
    """Of the vocabulary, the service levels and nothing else."""
    known = known_labels(captures(), farthing_exposition())
    assert problems(signal.query, known) == []
    assert problems(signal.series, known) == []


def test_a_promise_of_another_model_scales_nothing():
    """And without a promise of a first token there is no such signal."""
    other = {"name": "x", "signal": "ttft", "model": "other", "bound_seconds": 1, "tier": "t"}
    own = {**other, "name": "y", "model": MODEL}
    settings = Settings.model_validate({"slo_defaults": False, "slos": [other]})
    assert [signal.name for signal in signals(settings, SCALED)] == ["queue", "kv-cache"]
    settings = Settings.model_validate({"slo_defaults": False, "slos": [other, own]})
    *_, burn = signals(settings, SCALED)
    assert 'slo=~"y",' in burn.query


SERIES = f'model="{MODEL}"'
CASES: list[tuple[str, dict[str, float], dict[str, float | None]]] = [
    (
        "a queue at two replicas is added up, and their caches are averaged",
        {
            f'llm:requests_waiting:sum{{instance="a",{SERIES}}}': 25,
            f'llm:requests_waiting:sum{{instance="b",{SERIES}}}': 5,
            'llm:requests_waiting:sum{instance="a",model="other"}': 100,
            f'llm:kv_cache_utilization:max{{instance="a",{SERIES}}}': 0.9,
            f'llm:kv_cache_utilization:max{{instance="b",{SERIES}}}': 0.5,
            f'llm:requests_running:sum{{instance="a",{SERIES}}}': 8,
        },
        {"queue": 30, "kv-cache": 0.7, "first-token": 0},
    ),
    (
        "a promise that is broken with traffic asks for at most twice the replicas",
        {
            f'slo:burn_rate:ratio5m{{slo="chat-first-token",tier="interactive",{SERIES}}}': 12,
            f'slo:burn_rate:ratio5m{{slo="documents-first-token",tier="documents",{SERIES}}}': 0.5,
            f'slo:events:rate5m{{slo="chat-first-token",tier="interactive",{SERIES}}}': 2,
            f'llm:requests_running:sum{{instance="a",{SERIES}}}': 8,
        },
        {"queue": None, "first-token": 2},
    ),
    (
        "a promise that is nearly broken is told as it is",
        {
            f'slo:burn_rate:ratio5m{{slo="chat-first-token",tier="interactive",{SERIES}}}': 0.75,
            f'slo:events:rate5m{{slo="chat-first-token",tier="interactive",{SERIES}}}': 2,
        },
        {"first-token": 0.75},
    ),
    (
        "a few slow requests at night scale nothing",
        {
            f'slo:burn_rate:ratio5m{{slo="chat-first-token",tier="interactive",{SERIES}}}': 20,
            f'slo:events:rate5m{{slo="chat-first-token",tier="interactive",{SERIES}}}': 0.05,
            f'llm:requests_running:sum{{instance="a",{SERIES}}}': 1,
        },
        {"first-token": 0},
    ),
    (
        "without any engine in sight there is no answer at all",
        {'llm:requests_waiting:sum{instance="a",model="other"}': 100},
        {"queue": None, "kv-cache": None, "first-token": None},
    ),
]


@pytest.mark.real
def test_the_queries_answer_what_they_should(tmp_path):
    """As promtool's own Prometheus evaluates them."""
    asked = {signal.name: signal.query for signal in signals(SETTINGS, SCALED)}
    tests = []
    for name, series, answers in CASES:
        expected = [
            {
                "expr": asked[signal],
                "eval_time": "1m",
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for signal, value in answers.items()
        ]
        inputs = [{"series": key, "values": f"{value}x10"} for key, value in series.items()]
        tests.append({"name": name, "interval": "15s", "input_series": inputs, "promql_expr_test": expected})
    file = tmp_path / "autoscaling.yml"
    file.write_text(json.dumps({"rule_files": [], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_replicas_are_added_no_faster_than_they_start_and_go_one_by_one():
    """What is starting helps nobody yet; what goes has to be paid for again."""
    slow = hold(SCALED.model_copy(update={"cold_start_seconds": 2400}), ())
    behavior = horizontal_pod_autoscaler(SETTINGS, SCALED, slow)["spec"]["behavior"]
    assert {policy["periodSeconds"] for policy in behavior["scaleUp"]["policies"]} == {1800}
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 2400
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_keda_alone_may_go_down_to_none():
    """A HorizontalPodAutoscaler has at least one replica, unless an alpha feature is on."""
    none = SCALED.model_copy(update={"min_replicas": 0})
    assert scaled_object(SETTINGS, none, HOLD)["spec"]["minReplicaCount"] == 0
    assert horizontal_pod_autoscaler(SETTINGS, none, HOLD)["spec"]["minReplicas"] == 1


DOLLAR = 10**9


@pytest.mark.parametrize(
    ("change", "starts", "seconds", "reason"),
    [
        ({}, (), 180, "A start takes 180 s (assumed), at no known price."),
        ({"cold_start_seconds": 300}, (), 300, "A start takes 300 s (as the settings say), at no known price."),
        (
            {},
            (Start(DOLLAR // 10, 3 * DOLLAR), Start(DOLLAR // 4, 3 * DOLLAR), Start(0, 3 * DOLLAR)),
            300,
            "A start takes 300 s (the median of 2 booked) and costs 0.2500; idling costs 3.0000 per hour, as much "
            "after 300 s.",
        ),
        (
            {"cold_start_penalty_usd": Decimal("0.5"), "cold_start_seconds": 120},
            (Start(0, 3 * DOLLAR),),
            720,
            "A start takes 120 s (as the settings say) and costs 0.6000; idling costs 3.0000 per hour, as much after "
            "720 s.",
        ),
        (
            {"cold_start_penalty_usd": Decimal(1)},
            (),
            180,
            "A start takes 180 s (assumed), at no known price; a penalty cannot be compared.",
        ),
        (
            {"cold_start_seconds": 5},
            (),
            SHORTEST_SECONDS,
            "A start takes 5 s (as the settings say), at no known price.",
        ),
        ({"cold_start_penalty_usd": Decimal(900)}, (Start(0, DOLLAR),), LONGEST_SECONDS, "as much after 3240180 s."),
    ],
)
def test_a_replica_is_kept_until_idling_has_cost_as_much_as_a_start(change, starts, seconds, reason):
    """With the figures in one sentence above the document."""
    kept = hold(SCALED.model_copy(update=change), starts)
    assert kept.seconds == seconds
    assert kept.reason.endswith(reason)


@given(
    start=st.integers(1, 10**12),
    rate=st.integers(DOLLAR // 100, 10**12),
    penalty=st.decimals(0, 10_000, places=9),
)
def test_waiting_costs_what_a_start_costs_to_the_second(start, rate, penalty):
    """So nobody pays more than twice what knowing the future would have cost; rounded up, and within the bounds."""
    kept = hold(SCALED.model_copy(update={"cold_start_penalty_usd": penalty}), (Start(start, rate),))
    cost = rate * kept.start_seconds // HOUR + int(penalty * NANO)
    assert start <= rate * kept.start_seconds / HOUR <= start + rate / HOUR + 1
    assert SHORTEST_SECONDS <= kept.seconds <= LONGEST_SECONDS
    if kept.seconds < LONGEST_SECONDS:
        assert kept.seconds * rate >= cost * HOUR
    if kept.seconds > SHORTEST_SECONDS:
        assert (kept.seconds - 1) * rate < cost * HOUR


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_replicas": 5}, "min_replicas 5 is more than max_replicas 4"),
        ({"min_replicas": 0, "prewarm": []}, "with min_replicas 0 nothing starts it"),
        ({"max_replicas": 1}, "prewarm of 2 replicas is more than max_replicas 1"),
        ({"deployment": "Llama 8B"}, "pattern"),
        ({"prewarm": [{"timezone": "Mars", "start": "a", "end": "b", "replicas": 1}]}, "no time zone 'Mars'"),
        (
            {"prewarm": [{"timezone": "Etc/UTC", "start": "7:30", "end": "0 19 * * *", "replicas": 1}]},
            "'7:30' is not a cron expression",
        ),
        (
            {"prewarm": [{"timezone": "Etc/UTC", "start": "0 7 * * *", "end": "0 7 * * *", "replicas": 1}]},
            "start and end are both '0 7",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    """Before Kubernetes takes them and does nothing."""
    with pytest.raises(ValueError, match=message):
        ScaledModelSettings.model_validate({**SCALED.model_dump(), **change})


def test_a_deployment_is_scaled_once():
    """Two autoscalers of one deployment fight."""
    with pytest.raises(ValueError, match="'llama' of namespace 'llm' is there twice"):
        Settings.model_validate({"autoscale": {"models": [SCALED.model_dump()] * 2}})
