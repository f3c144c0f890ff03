"""The recording rules read each engine rightly, for both kinds of Prometheus, and cost what is said of them."""

import re
import subprocess
from pathlib import Path

import pytest
from tests.alerts.one_case import only
from tests.alerts.real_parts import program

from farthing.alerts.engine_facts import ENGINE_FACTS
from farthing.alerts.selectors import TARGETS, for_target, in_seconds, named, selector, with_decimals
from farthing.alerts.signals import BUCKETS, DETAILS, FACTS, RATES, SCALARS, record_details, record_vocabulary
from farthing.alerts.targets import groups_for, render_rules_for
from farthing.domain import conventions
from farthing.settings import Settings

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "promtool" / "llm-vocabulary.yml"


def passes(folder: Path, rules: dict[str, str], cases: str) -> bool:
    """Whether promtool finds that the rules do what the cases say."""
    generated, where = folder / "alerts" / "generated", folder / "tests" / "promtool"
    generated.mkdir(parents=True)
    where.mkdir(parents=True)
    for name, text in rules.items():
        (generated / name).write_text(text)
    (where / "cases.yml").write_text(cases)
    done = subprocess.run([program("promtool"), "test", "rules", where / "cases.yml"], capture_output=True, check=False)
    return done.returncode == 0


def as_current_keeps_them(cases: str) -> str:
    """The cases' series with bounds as Prometheus 3.x spells them when it scrapes."""
    return re.sub(r'\ble="([0-9]+)"', r'le="\1.0"', cases)


@pytest.mark.real
def test_both_kinds_of_prometheus_record_the_same(tmp_path):
    """Each over bounds spelt as it keeps them."""
    cases = CASES.read_text()
    assert as_current_keeps_them(cases) != cases
    assert passes(tmp_path / "debian", render_rules_for(Settings(), "debian"), cases)
    assert passes(tmp_path / "current", render_rules_for(Settings(), "current"), as_current_keeps_them(cases))


@pytest.mark.real
@pytest.mark.parametrize(
    ("case", "part", "replacement"),
    [
        (
            "SGLang",
            "max by (instance, model_name, dp_rank)",  # ranks that repeat
            "sum by (instance, model_name, dp_rank)",
        ),
        ("SGLang", "max by (instance, model_name, dp_rank)", "max by (instance, model_name)"),  # ranks that add up
        ("llm-d's endpoint picker", " or on (instance) ", " or "),  # a name and its successor
        ("what a router sees", "or on (model) (", "or ("),  # a router beside its engines
        ("vLLM v0", '!~"error|abort"', '!~"error"'),
        ("neither the engine nor its target", '"model", "unknown"', '"model", "nameless"'),
        ("Text Generation Inference", '"le", "$1.0"', '"le", "$1.00"'),  # bounds spelt otherwise
        ("Triton with TensorRT-LLM", "([0-9]{3})", "([0-9]{2})"),  # milliseconds
        ("Triton with TensorRT-LLM", ', request_type="scheduled"', ""),  # meanings of one metric
        ("an engine is awake", ', sleep_state="awake"', ""),
        (
            "ranks of an instance add up",
            "max by (instance, model) (label_replace(vllm:kv",
            "sum by (instance, model) (label_replace(vllm:kv",
        ),
        ("Text Generation Inference", "tgi_batch_current_max_tokens", "tgi_batch_max_total_tokens"),
        ("trtllm-serve", 'http_code=~"5.."', 'http_code=~".*"'),
        ("SGLang", ', cache_source=~"host|storage.*"', ""),
        ("vLLM v1, over two", '"reason", "$1", "finished_reason"', '"why", "$1", "finished_reason"'),
        ("vLLM v1, over two", "sum by (instance, model, reason)", "max by (instance, model, reason)"),
        ("names and their successors", '{job="llm-engines", transfer_type="CPU_to_GPU"}', '{job="llm-engines"}'),
        ("an engine is down", "or on (instance) (max by (instance) (llm:engine_awake:max) == 0) + 1", ""),
        ("an engine is down", "> 0) * 0 + 3", "> 0) * 0 + 2"),
        ("facts told as labels", "group by (instance, kv_tokens", "group by (instance, engine, kv_tokens"),
        ("facts told as labels", " == on (instance) group_left () max by", " <= on (instance) group_left () max by"),
    ],
)
def test_the_cases_notice_a_rule_that_misreads_an_engine(tmp_path, case, part, replacement):
    """Cases that cannot fail prove nothing: it is the named one that does."""
    groups = (conventions.GROUP_VOCABULARY, conventions.GROUP_DETAILS)
    rendered = render_rules_for(Settings(), "debian")
    rules = {f"{group}.yml": rendered[f"{group}.yml"] for group in groups}
    assert any(part in text for text in rules.values())
    cases = only(case, CASES.read_text())
    assert passes(tmp_path / "whole", rules, cases)
    broken = {name: text.replace(part, replacement) for name, text in rules.items()}
    assert not passes(tmp_path / "broken", broken, cases)


@pytest.mark.parametrize("target", TARGETS)
def test_every_record_is_made_once_and_in_order(target):
    """A quantile reads buckets of its own evaluation, not of the one before."""
    groups = (record_vocabulary(Settings(), target), record_details(Settings(), target))
    records = [rule.record for group in groups for rule in group.recordings]
    quantiles = [name for _, median, high in BUCKETS.values() for name in (median, high)]
    assert sorted(records) == sorted([*SCALARS, *RATES, *BUCKETS, *quantiles, *FACTS, *ENGINE_FACTS])
    assert {rule.record for rule in groups[1].recordings} >= DETAILS
    for bucket, (_, median, high) in BUCKETS.items():
        assert records.index(bucket) < records.index(median) < records.index(high)


@pytest.mark.parametrize("target", TARGETS)
def test_absence_is_never_hidden(target):
    """A signal that an engine does not tell gives no series: a 0 would say that nothing happened."""
    groups = (record_vocabulary(Settings(), target), record_details(Settings(), target))
    for rule in (rule for group in groups for rule in group.recordings):
        assert "vector(" not in rule.expr
        assert "absent(" not in rule.expr


def test_the_series_of_an_engine_and_of_a_model_are_as_few_as_documented():
    """docs/engines.md says what a rule evaluation adds; labels that would multiply it are not kept."""
    page = (ROOT / "docs" / "engines.md").read_text()
    numbers = {*SCALARS, *RATES}
    assert f"at most {len(numbers - DETAILS)} series by instance and model" in page
    assert f"at most {len(numbers & DETAILS)} signals more" in page
    histograms = set(BUCKETS) - DETAILS
    assert f"{len(histograms)} histograms and {2 * len(histograms)} quantiles by model" in page
    lengths = set(BUCKETS) & DETAILS
    assert f"{len(lengths)} histograms and {2 * len(lengths)} quantiles by model" in page
    for group in (record_vocabulary(Settings(), "debian"), record_details(Settings(), "debian")):
        for rule in (rule for rule in group.recordings if rule.record not in {*FACTS, *ENGINE_FACTS}):
            kept = set(re.findall(r"(?m)^(?:sum|max|avg) by \(([^)]*)\)", rule.expr))
            assert kept <= {"instance, model", "instance, model, reason", "model, le"}
            assert kept or rule.expr.startswith("histogram_quantile(")


def test_every_other_group_is_the_same_but_for_bounds():
    """A target changes spelling, not what is watched."""
    for mine, other in zip(groups_for(Settings(), "debian"), groups_for(Settings(), "current"), strict=True):
        assert mine.name == other.name
        if mine.name in {conventions.GROUP_VOCABULARY, conventions.GROUP_DETAILS}:
            continue
        for rule, spelt in zip(mine.rules, other.rules, strict=True):
            assert for_target(rule.expr, "current") == spelt.expr


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ('x{le="1"}', 'x{le="1.0"}'),
        ('x{job="a", le!="10", b="2"}', 'x{job="a", le!="10.0", b="2"}'),
        ('x{le="+Inf"}', 'x{le="+Inf"}'),
        ('x{le="0.5"}', 'x{le="0.5"}'),
        ('x{le=~"1(\\\\.0)?"}', 'x{le=~"1(\\\\.0)?"}'),
        ('x{handle="1"}', 'x{handle="1"}'),
    ],
)
def test_a_bound_is_compared_as_the_target_keeps_it(expr, expected):
    """3.x has 1.0 alone; a pattern that allows both stays."""
    assert for_target(expr, "current") == expected
    assert for_target(expr, "debian") == expr


def test_a_selector_says_what_must_and_must_not_match():
    """In the order of equality, pattern, exclusion, after the job."""
    assert selector("x", "j", {"a": "1"}, {"b": "2|3"}, {"c": "4"}) == 'x{job="j", a="1", b=~"2|3", c!~"4"}'
    assert selector("x", "j") == 'x{job="j"}'


def test_a_model_is_named_by_the_engine_else_by_the_target_else_unknown():
    """An engine's label wins only where it is there: Triton passes on vLLM's metrics with a label of its own."""
    assert named("x", "model") == "x"
    assert named("x", "model_name") == 'label_replace(x, "model", "$1", "model_name", "(.+)")'
    assert named("x", "") == 'label_replace(x, "model", "unknown", "model", "")'
    assert with_decimals("x", "current") == "x"


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        ("1", "0.001"),
        ("50", "0.05"),
        ("100", "0.1"),
        ("500", "0.5"),
        ("2000", "2.0"),
        ("2500", "2.5"),
        ("10000", "10.0"),
        ("100.0", "0.1"),
        ("5000.0", "5.0"),
        ("+Inf", "+Inf"),
    ],
)
def test_whole_milliseconds_become_seconds(milliseconds, seconds):
    """By the patterns of the rule itself, as label_replace applies them: to the whole value, or not at all."""
    bound = milliseconds
    for replacement, pattern in re.findall(r'"le", "([^"]*)", "le", "([^"]*)"', in_seconds("x")):
        match = re.fullmatch(pattern, bound)
        if match:
            bound = match.expand(replacement.replace("$", "\\"))
    assert bound == seconds
