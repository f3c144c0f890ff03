"""Every series and label that a rule, an annotation or a runbook names exists where we did not make it up."""

import re
from functools import cache
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.known_metrics import (
    OF_THE_SCRAPE,
    captured_metrics,
    captures,
    farthing_exposition,
    known_labels,
    problems,
)
from tests.alerts.promql import annotation_queries, read, result_labels

from farthing.alerts.render import alert_rules, rule_groups
from farthing.domain import conventions
from farthing.domain.metric_reference import METRICS
from farthing.settings import Settings

RUNBOOKS = Path(__file__).parents[2] / "alerts" / "runbooks"


@pytest.fixture(scope="module")
def known():
    return known_labels(captures(), farthing_exposition())


@cache
def queries() -> tuple[tuple[str, str], ...]:
    """Where -> expression, for everything that Prometheus runs or a person pastes."""
    found = []
    for group in rule_groups(Settings()):
        found += [(rule.record, rule.expr) for rule in group.recordings]
        for alert in group.alerts:
            found.append((alert.name, alert.expr))
            for text in (alert.summary, alert.description, alert.dashboard):
                found += [(f"{alert.name}'s annotation", query) for query in annotation_queries(text)]
    for runbook in sorted(RUNBOOKS.glob("*.md")):
        blocks = re.findall(r"```promql\n(.*?)```", runbook.read_text(), re.DOTALL)
        found += [(f"{runbook.name} block {index}", block) for index, block in enumerate(blocks, 1)]
    return tuple(found)


@pytest.mark.parametrize(("where", "expr"), queries(), ids=[where for where, _ in queries()])
def test_every_series_and_label_exists(known, where, expr):
    """Otherwise the query is silently empty for ever."""
    assert problems(expr, known) == [], where


def test_the_walk_reaches_every_alert_and_its_annotations():
    """A walk that misses a place would pass whatever is written there."""
    places = [where for where, _ in queries()]
    for alert in alert_rules(Settings()):
        assert alert.name in places
        assert f"{alert.name}'s annotation" in places
        assert f"{alert.name}.md block 1" in places


def engine_metrics() -> list[str]:
    """Every series of vLLM that the vocabulary reads and that was seen."""
    reads = [read(rule.expr).uses for group in rule_groups(Settings()) for rule in group.recordings]
    used = {use.metric for uses in reads for use in uses if use.metric.startswith("vllm:")}
    return sorted(used & captured_metrics() | used & {f"{metric}_bucket" for metric in captured_metrics()})


@pytest.mark.parametrize("metric", engine_metrics())
def test_a_metric_renamed_by_the_engine_is_noticed(metric):
    """vLLM has renamed metrics before: the rules must then fail here, not go silent in production."""
    renamed = [re.sub(rf"^{metric}(?=[{{ ])", f"{metric}_v2", text, flags=re.MULTILINE) for text in captures()]
    assert renamed != captures()
    known = known_labels(renamed, farthing_exposition())
    found = [problem for _, expr in queries() for problem in problems(expr, known)]
    assert f"no series {metric}" in found


def test_a_label_renamed_by_the_engine_is_noticed():
    """The model's label is the engine's own choice."""
    renamed = [text.replace("model_name=", "served_model=") for text in captures()]
    known = known_labels(renamed, "")
    found = [problem for _, expr in queries() for problem in problems(expr, known)]
    assert "no label model_name on vllm:num_requests_running" in found


def test_a_renamed_metric_of_farthing_is_noticed():
    """Annotations tell the cost at stake from Farthing's own series."""
    text = farthing_exposition().replace(conventions.METRIC_SPEND_RATE, "farthing_hourly_usd")
    known = known_labels(captures(), text)
    found = [problem for _, expr in queries() for problem in problems(expr, known)]
    assert f"no series {conventions.METRIC_SPEND_RATE}" in found


def test_annotations_use_only_labels_that_the_alert_has(known):
    """A template that names another label shows an empty text."""
    for alert in alert_rules(Settings()):
        texts = f"{alert.summary} {alert.description} {alert.dashboard}"
        used = set(re.findall(r"\$labels\.(\w+)", texts))
        first = read(alert.expr).uses[0]
        # Only what is said of the whole fleet, or of no series at all, has no label of its own.
        fleet = re.match(r"(sum|min|count|absent)\s?\(", alert.expr) or known[first.metric] <= OF_THE_SCRAPE
        assert used or fleet, alert.name
        assert used <= known[first.metric], alert.name


def reference_labels() -> dict[str, set[str]]:
    """The label names of each series, as the reference states them."""
    labels = {}
    for entry in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if entry.type == "histogram" else ("",)
        for suffix in suffixes:
            extra = {conventions.LABEL_LE} if suffix == "_bucket" else set()
            labels[entry.name + suffix] = set(entry.labels) | extra
    return labels


def test_the_metric_reference_is_what_the_exporter_exports():
    """Names and labels of the documentation are those of a real exposition, both ways."""
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(farthing_exposition()):
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    assert exported == reference_labels()


def test_the_metric_reference_states_the_types_that_the_exporter_gives():
    """Counters are counters: `rate` of a gauge is nonsense."""
    types = {family.name: family.type for family in text_string_to_metric_families(farthing_exposition())}
    for entry in METRICS:
        if entry.type == "info":  # text 0.0.4 has no type info: it is a gauge of value 1 there
            assert types[entry.name] == "gauge"
        else:
            assert types[entry.name.removesuffix("_total")] == entry.type


def test_the_metric_reference_knows_every_name_of_the_conventions():
    """A new METRIC_ constant needs a meaning."""
    constants = {value for name, value in vars(conventions).items() if name.startswith("METRIC_")}
    assert {entry.name for entry in METRICS} == constants
    assert len(METRICS) == len(constants)


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("sum by (a, b) (x)", {"a", "b"}),
        ("histogram_quantile(0.9, x)", {"model"}),
    ],
)
def test_the_labels_of_a_recorded_series_follow_from_its_rule(expr, labels):
    """The walk must know what a recording rule leaves."""
    assert result_labels(expr, {"x": {"model", "le"}}) == labels


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ('rate(x{job="a", le!~"b"}[5m])', {"x": {"job", "le"}}),
        ("sum by (a) (rate(x[5m])) / count(y) by (b)", {"x": {"a"}, "y": {"b"}}),
        ('sum by (m) (label_replace(x, "m", "$1", "n", "(.*)"))', {"x": {"n"}}),
        ("x > 0.5\nand on (m)\ny * 60 >= 20", {"x": {"m"}, "y": {"m"}}),
        ("sum(x offset $__range) + 1e6", {"x": set()}),
        ('x unless on (e) y{m!~"$model"}', {"x": {"e"}, "y": {"e", "m"}}),
    ],
)
def test_the_walk_reads_promql(expr, expected):
    """Its findings are only as good as its reading."""
    assert {use.metric: use.labels for use in read(expr).uses} == expected


def test_a_label_kept_over_a_join_may_come_from_either_side():
    """One side of a many-to-one match brings it."""
    reading = read("sum by (m) (x * on (e) group_right group by (e, m) (y))")
    assert reading.either == (("m", ("x", "y")),)
    assert problems("sum by (m) (x * on (e) y)", {"x": {"e"}, "y": {"e"}}) == ["no label m on any of x, y"]


@pytest.mark.parametrize("expr", ['{__name__=~"x.*"}', "sum(x", "x ? y"])
def test_what_the_walk_cannot_judge_is_refused(expr):
    """A hidden name must not pass as a known one."""
    with pytest.raises(ValueError, match=r"selector|brackets|read"):
        read(expr)


def test_what_is_only_compared_needs_no_label_of_the_result():
    """unless keeps its left side's labels alone; what it compares by, both sides must still have."""
    expr = "(x * on (slo) group_left () y) * on (slo) (a unless on (model) (b unless on (kind) c))"
    assert [(use.metric, use.labels) for use in read(expr).uses] == [
        ("x", {"slo"}),
        ("y", {"slo"}),
        ("a", {"slo", "model"}),
        ("b", {"model", "kind"}),
        ("c", {"kind"}),
    ]
