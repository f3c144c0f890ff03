"""Rules say who, how much and where, and render to the same text every time."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from farthing.alerts.documents import HEADER, to_yaml
from farthing.alerts.reference import held_back_by
from farthing.alerts.render import FAMILIES, alert_rules, render_rules, rule_groups
from farthing.alerts.rules import AlertRule, RecordingRule, RuleGroup
from farthing.domain import conventions
from farthing.settings import AlertSettings, Settings, StackSettings

ALERT = AlertRule(
    name="EngineSlow",
    expr="x > 1",
    for_seconds=5,
    severity="warning",
    team="serving",
    component="latency",
    summary="s",
    description="d",
    dashboard="http://localhost:3000/d/x",
)


@pytest.mark.parametrize("record", ["llm_requests", "llm:requests", "LLM:requests:sum", "llm:a:b:c"])
def test_a_recording_rule_is_named_level_metric_operation(record):
    """Prometheus practice; other names are refused when they are written."""
    with pytest.raises(ValueError, match="level:metric:operation"):
        RecordingRule(record, "x")


@pytest.mark.parametrize("name", ["engine_slow", "engineSlow", "Engine Slow", ""])
def test_an_alert_is_named_in_camel_case(name):
    """The name becomes the runbook's file name."""
    with pytest.raises(ValueError, match="CamelCase"):
        replace(ALERT, name=name)


@pytest.mark.parametrize("part", ["expr", "team", "component", "summary", "description", "dashboard"])
def test_an_alert_says_everything(part):
    """Whoever is paged needs all of it."""
    emptied: dict[str, Any] = {part: ""}
    with pytest.raises(ValueError, match="EngineSlow leaves a text empty"):
        replace(ALERT, **emptied)


def test_a_group_defines_nothing_twice():
    """The second would silently win."""
    with pytest.raises(ValueError, match="defines EngineSlow twice"):
        RuleGroup("g", (ALERT, ALERT))


def test_the_runbook_is_computed_from_the_name():
    """So that no alert can point elsewhere."""
    assert ALERT.runbook_url == "https://github.com/farthing/farthing/blob/main/alerts/runbooks/EngineSlow.md"


def test_every_recording_rule_of_the_conventions_is_recorded():
    """Dashboards and alerts use these names without looking whether they exist."""
    promised = {value for name, value in vars(conventions).items() if name.startswith("REC_")}
    recorded = {rule.record for group in rule_groups(Settings()) for rule in group.recordings}
    assert recorded == promised


def test_every_alert_has_owner_severity_and_component():
    """Alertmanager routes by them."""
    for alert in alert_rules(Settings()):
        document = alert.document()
        assert set(document["labels"]) == {"severity", "team", "component"}
        assert document["labels"]["severity"] in {"critical", "warning", "none"}
        assert set(document["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}


def test_every_alert_tells_its_number_and_the_cost_at_stake():
    """A page without them starts with a search."""
    for alert in alert_rules(Settings()):
        assert "$value" in alert.description or "count(" in alert.description, alert.name
        assert conventions.METRIC_SPEND_RATE in alert.description, alert.name
        assert "an unknown amount" in alert.description, f"{alert.name} would show an unknown cost as nothing"


def test_the_names_of_groups_and_alerts_are_unique():
    """Prometheus keys rules by group, people key alerts by name."""
    groups = [group.name for group in rule_groups(Settings())]
    alerts = [alert.name for alert in alert_rules(Settings())]
    assert len(set(groups)) == len(groups) == len(FAMILIES)
    assert len(set(alerts)) == len(alerts)


def test_thresholds_come_from_the_settings():
    """The rule, its wait, its text and its link follow farthing.yaml."""
    settings = Settings(
        alerts=AlertSettings(ttft_p95_seconds=2, for_seconds=90), stack=StackSettings(grafana_port=3001)
    )
    text = render_rules(settings)["farthing-latency.yml"]
    rule = yaml.safe_load(text)["groups"][0]["rules"][0]
    assert rule["expr"].startswith("llm:time_to_first_token_seconds:p95_1m > 2.0\n")
    assert rule["for"] == "90s"
    assert "promised are 2 s." in rule["annotations"]["description"]
    assert rule["annotations"]["dashboard_url"].startswith("http://localhost:3001/d/farthing-latency?")


def test_what_inhibits_slow_answers_outlasts_them():
    """An answer ends after its first token: at an incident's end the alert of answers would be told by itself."""
    alerts = {alert.name: alert for alert in alert_rules(Settings())}
    held_back = held_back_by("LLMEndToEndLatencyHigh")
    assert held_back
    assert all(alerts[name].document()["keep_firing_for"] == "120s" for name in held_back)
    assert not any("keep_firing_for" in alert.document() for alert in alerts.values() if alert.name not in held_back)


def test_rendering_is_deterministic_and_says_where_it_comes_from():
    """Committed files must not change by themselves."""
    first, second = render_rules(Settings()), render_rules(Settings())
    assert first == second
    assert list(first) == [f"{family(Settings()).name}.yml" for family in FAMILIES]
    assert len(first) == len(FAMILIES)
    assert all(text.startswith(HEADER) for text in first.values())


def test_yaml_keeps_key_order_and_shows_long_queries_as_blocks():
    """People read diffs of it."""
    text = to_yaml({"b": "x\ny", "a": [{"c": 1}]})
    assert text == HEADER + "b: |-\n  x\n  y\na:\n  - c: 1\n"
    assert yaml.safe_load(text) == {"b": "x\ny", "a": [{"c": 1}]}
