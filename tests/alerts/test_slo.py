"""Service levels: promises that can be counted, thresholds that can be reached, ratios of all requests."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.known_metrics import captures, farthing_exposition, known_labels, problems
from tests.alerts.promql import read

from farthing.alerts.inhibitions import INHIBITIONS
from farthing.alerts.rules import RecordingRule
from farthing.alerts.slo import BURNING_FAST, BURNING_SLOWLY, promise, slo, slo_budget
from farthing.alerts.slo_burn import PAIRS, reason, threshold
from farthing.alerts.slo_events import all_requests, good_requests
from farthing.domain import conventions as names
from farthing.domain.errors import ConfigError
from farthing.settings import Settings, parse_settings
from farthing.settings_slo import DEFAULT_SLOS, ENGINE_BOUNDS, SloSettings

ROOT = Path(__file__).parents[2]
OBJECTIVES = st.decimals(Decimal("0.00001"), Decimal("0.99999"), places=5)


def settings(*slos, defaults=False):
    """Settings with these SLOs only."""
    return Settings.model_validate({"slos": slos, "slo_defaults": defaults})


def recorded(group):
    return [rule for rule in group.rules if isinstance(rule, RecordingRule)]


# ---- thresholds ----------------------------------------------------------------------------------------


@given(OBJECTIVES)
def test_no_threshold_is_beyond_what_a_total_failure_burns(objective):
    """An alert above 1 / (1 - objective) never fires; one at 0 or below always would."""
    for pair in PAIRS:
        reached = threshold(pair, objective)
        assert 0 < reached < 1 / (1 - objective)
        assert reached <= pair.factor


@given(OBJECTIVES)
def test_a_threshold_is_lower_than_the_pairs_only_where_that_is_out_of_reach(objective):
    """And then it says so."""
    for pair in PAIRS:
        lowered = threshold(pair, objective) < pair.factor
        assert lowered == (pair.factor * (1 - objective) > Decimal("0.9")) == bool(reason(pair, objective))


@given(st.lists(OBJECTIVES, min_size=1, max_size=4, unique=True))
def test_every_threshold_that_is_rendered_can_be_reached(objectives):
    """As Prometheus reads it: the number in the rule against the error budget beside it."""
    slos = [
        {"name": f"slo-{index}", "signal": "availability", "objective": str(objective)}
        for index, objective in enumerate(objectives)
    ]
    rules = recorded(slo(settings(*slos)))
    numbers = {(rule.record, rule.labels["slo"]): float(rule.expr[7:-1]) for rule in rules if "vector(" in rule.expr}
    for index in range(len(slos)):
        budget = numbers[names.REC_SLO_BUDGET, f"slo-{index}"]
        assert numbers[names.REC_SLO_OBJECTIVE, f"slo-{index}"] + budget == pytest.approx(1)
        for pair in PAIRS:
            assert 0 < numbers[pair.record, f"slo-{index}"] * budget < 1


def test_every_slo_tells_its_window_in_seconds():
    """Dashboards divide what is left of the budget by how fast it burns, which takes the window as a number."""
    week = {"name": "a", "signal": "availability", "window_days": 7}
    rules = recorded(slo(settings(week, {"name": "b", "signal": "availability"})))
    windows = {rule.labels["slo"]: rule.expr for rule in rules if rule.record == names.REC_SLO_WINDOW}
    assert windows == {"a": "vector(604800)", "b": "vector(2592000)"}


def test_the_pairs_are_those_of_the_workbook():
    """14.4, 6, 3 and 1 times: 2 %, 5 %, 10 % and 10 % of a budget of 30 days."""
    hours = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}
    assert [pair.factor * hours[pair.long] / (30 * 24) for pair in PAIRS] == [
        Decimal(share) for share in ("0.02", "0.05", "0.1", "0.1")
    ]
    assert threshold(PAIRS[0], Decimal("0.95")) == Decimal("14.4")
    assert threshold(PAIRS[0], Decimal("0.9")) == 9
    assert reason(PAIRS[0], Decimal("0.9")) == (
        "14.4 times an error budget of 0.1 would be 144 % bad requests; 90 % are told"
    )


def test_a_threshold_that_is_lowered_says_why_where_it_is_defined():
    """In the rule and on its series; one that is not says nothing."""
    rules = recorded(slo(settings({"name": "a", "signal": "availability", "objective": "0.9"})))
    reasons = {rule.record: rule.labels.get("reason") for rule in rules if rule.record in {p.record for p in PAIRS}}
    assert reasons == {
        names.REC_SLO_THRESHOLD_1H: reason(PAIRS[0], Decimal("0.9")),
        names.REC_SLO_THRESHOLD_6H: None,
        names.REC_SLO_THRESHOLD_1D: None,
        names.REC_SLO_THRESHOLD_3D: None,
    }


def test_the_guide_tells_the_thresholds_that_are_rendered():
    """Its table is computed here once more."""
    rows = re.findall(r"^\| ([\d.]+) % \| (\d+) \|(.+)\|$", (ROOT / "docs" / "slo.md").read_text(), re.MULTILINE)
    assert len(rows) == 6
    for share, highest, told in rows:
        objective = Decimal(share) / 100
        assert Decimal(highest) == 1 / (1 - objective)
        assert [Decimal(cell) for cell in told.split("|")] == [threshold(pair, objective) for pair in PAIRS]


# ---- settings ------------------------------------------------------------------------------------------


def test_the_tiers_of_the_brief_are_promised_by_default():
    """95 % within: chat 0.5 s and 5 s, documents 1 s and 10 s, batch 60 s, tokens 50 ms."""
    assert {(s.tier, s.signal, s.bound_seconds, str(s.objective)) for s in Settings().objectives} == {
        ("interactive", "ttft", 0.5, "0.95"),
        ("interactive", "e2e", 5.0, "0.95"),
        ("interactive", "itl", 0.05, "0.95"),
        ("documents", "ttft", 1.0, "0.95"),
        ("documents", "e2e", 10.0, "0.95"),
        ("batch", "e2e", 60.0, "0.95"),
    }


def test_the_guide_lists_the_defaults():
    """By name."""
    text = (ROOT / "docs" / "slo.md").read_text()
    for each in DEFAULT_SLOS:
        assert f"| `{each.name}` | `{each.tier}` |" in text


def test_the_guides_examples_are_valid():
    """People copy them."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "slo.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert parse_settings(block, "x").slos


def test_defaults_can_be_replaced_one_by_one_or_switched_off():
    """By their names, or altogether."""
    stricter = {"name": "chat-total", "tier": "interactive", "signal": "e2e", "bound_seconds": 3}
    off = {"name": "batch-total", "signal": "e2e", "enabled": False}
    chosen = {one.name: one for one in settings(stricter, off, defaults=True).objectives}
    assert set(chosen) == {each.name for each in DEFAULT_SLOS} - {"batch-total"}
    assert chosen["chat-total"].bound_seconds == 3
    assert [one.name for one in settings(stricter, off).objectives] == ["chat-total"]
    assert settings().objectives == ()


@pytest.mark.parametrize(
    ("yaml_text", "said"),
    [
        (
            "slos:\n- {name: a, signal: ttft, bound_seconds: 0.6, source: engine}",
            "x:2: slos.0: SLO 'a': vLLM's histogram has no bucket at 0.6 s; nearest are 0.5 and 0.75",
        ),
        (
            "slos:\n- {name: a, signal: itl, bound_seconds: 0.002, source: engine}",
            "x:2: slos.0: SLO 'a': vLLM's histogram has no bucket at 0.002 s; nearest are 0.01",
        ),
        (
            "slos:\n- {name: a, signal: ttft, bound_seconds: 1, source: engine, tier: t}",
            "x:2: slos.0: SLO 'a': an engine's histograms know no tier and no tenant; leave both out, or use the probe "
            "and source requests",
        ),
        (
            "slos:\n- {name: a, signal: availability, source: engine}",
            "x:2: slos.0: SLO 'a': no engine counts every request; availability needs source requests",
        ),
        (
            "slos:\n- {name: a, signal: e2e}",
            "x:2: slos.0: SLO 'a': a bound is missing; enter bound_seconds, for example",
        ),
        (
            "slos:\n- {name: a, signal: availability, bound_seconds: 1}",
            "x:2: slos.0: SLO 'a': availability has no bound",
        ),
        (
            "slos:\n- {name: a, signal: ttft, bound_seconds: 1, tier: other}",
            "x:2: slos.0: SLO 'a': 'other' is what tiers without series of their own share; give it the name",
        ),
        ("slos:\n- {name: a, signal: availability}\n- {name: a, signal: availability}", "two SLOs are called 'a'"),
        (
            "slos:\n- {name: a, signal: ttft, bound_seconds: 1, objective: 1}",
            "x:2: slos.0.objective: Input should be less",
        ),
        ("slos:\n- {name: A b, signal: availability}", "x:2: slos.0.name: String should match pattern"),
        ("slos:\n- {name: a, signal: p95}", "x:2: slos.0.signal: Input should be 'ttft', 'e2e', 'itl', 'queue' or"),
    ],
)
def test_a_promise_that_cannot_be_counted_is_refused_with_what_to_do(yaml_text, said):
    """When farthing.yaml is read, not when the rules stay silent."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_settings(yaml_text, "x")


@pytest.mark.parametrize(
    ("signal", "metric"),
    [
        ("ttft", "vllm:time_to_first_token_seconds"),
        ("itl", "vllm:request_time_per_output_token_seconds"),
        ("e2e", "vllm:e2e_request_latency_seconds"),
        ("queue", "vllm:request_queue_time_seconds"),
    ],
)
def test_the_engines_bounds_are_those_of_its_recorded_exposition(signal, metric):
    """A new vLLM with other buckets must be noticed here."""
    of_engines = [text for text in captures() if "vllm:num_requests_running" in text]
    assert len(of_engines) == 3
    for text in of_engines:
        bounds = {
            float(sample.labels["le"])
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"{metric}_bucket"
        }
        assert bounds - {float("inf")} == set(ENGINE_BOUNDS[signal])


# ---- rules ---------------------------------------------------------------------------------------------

SCOPES = [
    {"signal": signal, "bound_seconds": bound, **scope}
    for signal, bound in (("ttft", 1), ("e2e", 5), ("itl", 0.05), ("queue", 0.5), ("availability", None))
    for scope in (
        {},
        {"tier": "interactive"},
        {"tenant": "acme"},
        {"model": 'a "quoted" \\ model'},
        {"source": "engine"},
        {"source": "engine", "model": "m"},
    )
    if not (signal == "availability" and "source" in scope)
]


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_every_scope_reads_series_that_exist(scope):
    """Of Farthing's exposition, or of the one vocabulary."""
    known = known_labels(captures(), farthing_exposition())
    for name in (names.REC_FAILED_RATE, names.REC_REJECTED_RATE):
        known.setdefault(name, {names.LABEL_INSTANCE, names.LABEL_MODEL})
    one = SloSettings.model_validate({"name": "a", **scope})
    assert problems(good_requests(one), known) == []
    assert problems(all_requests(one), known) == []


@pytest.mark.parametrize("signal", ["ttft", "e2e", "itl", "queue", "availability"])
def test_what_was_refused_failed_or_given_up_is_among_all_requests(signal):
    """vLLM's own histograms leave it out, and overload would improve the ratio."""
    bound = None if signal == "availability" else 1
    every = all_requests(SloSettings(name="a", signal=signal, bound_seconds=bound))
    good = good_requests(SloSettings(name="a", signal=signal, bound_seconds=bound))
    for outcome in (names.REJECTED, names.FAILED_EARLY, names.ABORTED_EARLY):
        assert outcome in every
        assert outcome not in good
    assert names.INVALID not in every


def test_no_absence_is_filled_in():
    """`or vector(0)` would make a service that says nothing look like one without requests."""
    for group in (slo(Settings()), slo_budget(Settings())):
        for rule in group.rules:
            assert "or vector" not in rule.expr
            assert "absent" not in rule.expr


def test_no_rule_reads_days_of_raw_samples():
    """What is longer than five minutes adds up recorded rates."""
    for group in (slo(Settings()), slo_budget(Settings())):
        for rule in recorded(group):
            raw = any(use.metric.startswith("farthing_") for use in read(rule.expr).uses)
            assert set(re.findall(r"\[([^\]]+)\]", rule.expr)) <= ({"5m"} if raw else {
                "30m:1m", "1h:1m", "6h:5m", "2h:5m", "1d:5m", "3d:5m", "30d:5m",
            })  # fmt: skip


def test_the_bucket_of_a_bound_is_written_as_the_exposition_writes_it():
    """Otherwise nothing is ever good."""
    assert 'le="5.0"' in good_requests(SloSettings(name="a", signal="e2e", bound_seconds=5))
    assert 'le="0.05"' in good_requests(SloSettings(name="a", signal="itl", bound_seconds=0.05))
    engine = good_requests(SloSettings(name="a", signal="e2e", bound_seconds=5, source="engine"))
    assert r'le=~"5(\\.0)?"' in engine
    assert r'le=~"0\\.5"' in good_requests(SloSettings(name="a", signal="ttft", bound_seconds=0.5, source="engine"))


def test_windows_of_several_lengths_are_each_their_own():
    """Each rule names its SLOs."""
    group = slo_budget(
        settings(
            {"name": "a", "signal": "availability", "window_days": 7},
            {"name": "b", "signal": "availability"},
            {"name": "c", "signal": "availability", "window_days": 7},
        )
    )
    found = {rule.labels["window"]: rule.expr for rule in recorded(group) if rule.record == names.REC_SLO_ERROR_WINDOW}
    assert set(found) == {"7d", "30d"}
    assert '{slo=~"a|c"}[7d:5m]' in found["7d"]
    assert '{slo=~"b"}[30d:5m]' in found["30d"]


def test_without_service_levels_there_are_no_rules():
    """And nothing that could fail."""
    assert slo(settings()).rules == slo_budget(settings()).rules == ()


def test_series_carry_the_scope_of_their_promise():
    """Routes and dashboards go by tier and tenant."""
    group = slo(settings({"name": "a", "signal": "e2e", "bound_seconds": 2, "tenant": "acme", "tier": "gold"}))
    labels = {rule.record: rule.labels for rule in recorded(group)}
    assert labels[names.REC_SLO_EVENTS] == {"slo": "a", "tier": "gold", "tenant": "acme"}
    assert labels[names.REC_SLO_OBJECTIVE] == {"slo": "a", "promise": "a whole answer within 2 s"}
    assert promise(SloSettings(name="b", signal="availability")) == "an answer"


def test_the_page_of_a_promise_holds_back_its_ticket():
    """One trouble, one message; another model's or another promise's ticket stays."""
    (found,) = [each for each in INHIBITIONS if BURNING_FAST in each.source[0]]
    assert found.target == (f'alertname="{BURNING_SLOWLY}"',)
    assert found.equal == ("slo", "model")


def test_the_committed_rules_are_those_of_the_defaults():
    """64 and 9 rules, as the guide says."""
    counts = []
    for group in (slo(Settings()), slo_budget(Settings())):
        text = (ROOT / "alerts" / "generated" / f"{group.name}.yml").read_text()
        assert yaml.safe_load(text)["groups"] == [group.document()]
        counts.append(len(group.rules))
    assert counts == [64, 9]
