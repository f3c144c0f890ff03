"""What rules add to a Prometheus grows with engines and models by what docs/scale.md says, and by no more."""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.known_metrics import CAPTURES, PROBED, SGLANG, captures, farthing_exposition, known_labels
from tests.alerts.promql import result_labels
from tests.alerts.real_parts import program

from farthing.alerts.gpu_signals import GPU_BOTH_WAYS, GPU_DEVICE, GPU_SCALARS
from farthing.alerts.render import render_rules, rule_groups
from farthing.alerts.rules import EVALUATION_SECONDS
from farthing.alerts.signals import BUCKETS, FACTS, RATES, SCALARS
from farthing.alerts.targets import groups_for
from farthing.domain import conventions as names
from farthing.domain.gpu import THROTTLE_REASONS
from farthing.settings import Settings
from farthing.vocabulary.loading import load_catalogue

ROOT = Path(__file__).parents[2]
SCALE = (ROOT / "docs" / "scale.md").read_text()
PER_ENGINE: Mapping[Path, int] = {
    CAPTURES / "metrics-text.txt": 37,
    CAPTURES / "metrics-vlm.txt": 37,
    CAPTURES / "metrics-specdecode-lora.txt": 40,
    PROBED: 36,
    SGLANG: 21,
}
"""Exposition -> the series that its engine adds for each model."""
REASONS = 5
"""Series beyond one for each signal: a vLLM waits for two reasons, and its requests end for five."""
PER_SLO = 19
"""Series of each service level and model with requests of its tier."""
KEPT = {
    *(names.LABEL_INSTANCE, names.LABEL_MODEL, names.LABEL_LE, names.LABEL_TIER),
    *(names.LABEL_SLO, names.LABEL_PROMISE, names.LABEL_WINDOW),
    *(*GPU_DEVICE, names.LABEL_REASON),
    *(names.LABEL_ENGINE, names.LABEL_ENGINE_KIND, names.LABEL_KV_TOKENS, names.LABEL_BLOCK_SIZE, names.LABEL_DTYPE),
    *(names.LABEL_RUNNING_ADAPTERS, names.LABEL_WAITING_ADAPTERS, names.LABEL_MAX_ADAPTERS),
}
"""Labels of recorded series. Those of service levels have the values that settings give them; a device has one host,
number and model, and reasons are six. An engine has one kind, one KV cache and, at a time, one set of adapters."""
CUMULATIVE = ("_total", "_bucket", "_count", "_sum")
RECORDED = '__name__=~"[a-z]+:[a-z0-9_]+:[a-z0-9_]+"'
MINUTES = 20
"""Of series; long enough for the steps of all windows of service levels."""


def inputs(text: str, job: str, instance: str, model: str = "") -> Iterable[dict[str, str]]:
    """An exposition as series of promtool, scraped of ``instance``: counters advance, gauges stay."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {**sample.labels, "job": job, "instance": instance}
            if model and "model_name" in labels:
                labels["model_name"] = model
            series = ", ".join(f'{name}="{value}"' for name, value in labels.items())
            step = 3 if sample.name.endswith(CUMULATIVE) else 0
            yield {"series": f"{sample.name}{{{series}}}", "values": f"1+{step}x{MINUTES * 4}"}


def engine(path: Path, instance: str, model: str) -> Iterable[dict[str, str]]:
    return inputs(path.read_text(), names.JOB_ENGINES, instance, model)


def promtool(
    folder: Path, series: Iterable[dict[str, str]], counts: Mapping[str, Mapping[str, int]], minutes: int = 2
) -> None:
    """Minutes of the series under every rule give the counts: expression -> labels -> value."""
    for name, text in render_rules(Settings()).items():
        (folder / name).write_text(text)
    checks: list[dict[str, Any]] = [
        {
            "expr": expr,
            "eval_time": f"{minutes}m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
        }
        for expr, expected in counts.items()
    ]
    cases = {
        "rule_files": ["*.yml"],
        "evaluation_interval": "15s",
        "group_eval_order": [names.GROUP_VOCABULARY, names.GROUP_DETAILS],
        "tests": [{"interval": "15s", "input_series": list(series), "promql_expr_test": checks}],
    }
    (folder / "cases.yaml").write_text(yaml.safe_dump(cases))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(folder / "cases.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def per_model(path: Path, catalogue: str) -> int:
    """The buckets that the exposition has of the histograms in the vocabulary, and two quantiles of each."""
    wanted = {
        source.metric
        for signal, _, _ in BUCKETS.values()
        if signal in load_catalogue(catalogue).signals
        for source in load_catalogue(catalogue).signals[signal].sources
    }
    buckets = {
        (sample.name, sample.labels["le"])
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.name.removesuffix("_bucket") in wanted and "le" in sample.labels
    }
    assert {name.removesuffix("_bucket") for name, _ in buckets} <= wanted
    return len(buckets) + 2 * len({name for name, _ in buckets})


@pytest.mark.real
def test_an_engine_adds_at_most_one_series_for_each_scalar_and_rate(tmp_path):
    """Of each captured engine, with two models on one instance: buckets are not among them."""
    series: list[dict[str, str]] = []
    expected = {}
    for path, count in PER_ENGINE.items():
        assert count <= len(SCALARS) + len(RATES) + len(FACTS) + REASONS
        instance = path.stem if path != PROBED else "probed"
        for model in (f"{path.parent.name}-{path.stem}-a", f"{path.parent.name}-{path.stem}-b"):
            series += (one for one in engine(path, instance, model) if "model_name=" in one["series"])
            expected[f'{{instance="{instance}", model="{model}"}}'] = count
    promtool(
        tmp_path,
        series,
        {f'count by (instance, model) ({{{RECORDED}, job="", instance!="", model!=""}})': expected},
    )


@pytest.mark.real
@pytest.mark.parametrize(("path", "catalogue"), [(PROBED, "vllm"), (SGLANG, "sglang")], ids=["vllm", "sglang"])
def test_histograms_are_added_once_per_model_however_many_engines_serve_it(tmp_path, path, catalogue):
    """Five engines of one model, and one of another, have as many series of buckets and quantiles each."""
    series = [one for number in range(5) for one in engine(path, f"engine-{number}", "shared")]
    series += engine(path, "engine-5", "alone")
    count = per_model(path, catalogue)
    promtool(
        tmp_path,
        series,
        {
            f'count by (model) ({{{RECORDED}, job="", instance="", model!=""}})': {
                '{model="alone"}': count,
                '{model="shared"}': count,
            },
        },
    )


@pytest.mark.real
def test_all_that_rules_record_is_engines_and_models_times_their_share_and_a_constant(tmp_path):
    """Six engines and two models: nothing else grows with an engine, whatever group records it."""
    fleet = [
        one for number in range(6) for one in engine(PROBED, f"engine-{number}", "alone" if number == 5 else "shared")
    ]
    constants = [
        rule for group in rule_groups(Settings()) for rule in group.recordings if rule.expr.startswith("vector(")
    ]
    caches = 6
    total = 6 * PER_ENGINE[PROBED] + caches + 2 * per_model(PROBED, "vllm") + len(constants)
    promtool(tmp_path, fleet, {f'count({{{RECORDED}, job=""}})': {"{}": total}})


@pytest.mark.real
def test_a_service_level_adds_the_same_few_series_for_each_model(tmp_path):
    """Tenants and engines are not in them, however many Farthing tells."""
    series = list(inputs(farthing_exposition(), names.JOB_FARTHING, names.JOB_FARTHING))
    per_slo = f'count by (slo, model) ({{{RECORDED}, job="", slo!="", model!=""}})'
    promtool(tmp_path, series, {f"max({per_slo})": {"{}": PER_SLO}}, MINUTES)


def test_no_series_is_recorded_by_engine_and_bucket_or_by_tenant():
    """Engines times buckets, and tenants, are what would make a Prometheus fall over."""
    known = known_labels(captures(), farthing_exposition())
    for group in rule_groups(Settings()):
        for rule in group.recordings:
            labels = result_labels(rule.expr, known) | set(rule.labels)
            assert not {names.LABEL_INSTANCE, names.LABEL_LE} <= labels, rule.record
            assert labels <= KEPT, rule.record


@pytest.mark.parametrize("target", ["debian", "current"])
def test_groups_that_follow_the_moment_are_evaluated_as_often_as_the_settings_say(target):
    """By default as ever; groups with an interval of their own keep it."""
    default = {group.name: group.interval_seconds for group in groups_for(Settings(), target)}
    slower = groups_for(Settings.model_validate({"alerts": {"evaluation_seconds": 15}}), target)
    assert default[names.GROUP_VOCABULARY] == Settings().alerts.evaluation_seconds == EVALUATION_SECONDS
    assert {group.name: group.interval_seconds for group in slower} == {
        name: 15 if seconds == EVALUATION_SECONDS else seconds for name, seconds in default.items()
    }


def test_the_page_on_scale_says_what_is_bounded_here():
    """The page quotes figures that these tests hold."""
    assert f"at most {len(SCALARS) + len(RATES)} " in SCALE
    assert f"{PER_ENGINE[CAPTURES / 'metrics-text.txt']} for a vLLM without speculation" in SCALE
    assert f"{per_model(PROBED, 'vllm')} for vLLM" in SCALE
    assert f"{per_model(SGLANG, 'sglang')} for SGLang" in SCALE
    assert f"{PER_SLO} for each service level" in SCALE
    of_a_gpu = (len(GPU_SCALARS), len(GPU_BOTH_WAYS), len(THROTTLE_REASONS))
    assert "at most {} ({} quantities, {} throughputs, {} reasons".format(sum(of_a_gpu), *of_a_gpu) in SCALE
    constants = [rule.labels for group in rule_groups(Settings()) for rule in group.recordings if rule.labels]
    levels = {labels[names.LABEL_SLO] for labels in constants if names.LABEL_SLO in labels}
    assert f"With the {len(levels)} service levels of the defaults" in SCALE
    assert f"at most {PER_SLO * len(levels)} more" in SCALE
