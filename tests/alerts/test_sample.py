"""An alert that is tried out looks like the real one, says that it is a test, and claims no number."""

from dataclasses import replace

import pytest

from farthing.alerts.render import alert_rules
from farthing.alerts.rules import AlertRule
from farthing.alerts.sample import sample_alert, threshold
from farthing.settings import Settings

RULES = alert_rules(Settings())
ALERT = AlertRule(
    name="EngineSlow",
    expr="x > 1",
    for_seconds=5,
    severity="warning",
    team="serving",
    component="latency",
    summary="{{ $labels.model }}: {{ $value | humanizeDuration }}",
    description="d",
    dashboard="http://localhost:3000/d/x?var-model={{ $labels.model | urlquery }}",
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_alert_can_be_tried_out(rule):
    """Its texts are whole, and its labels are the real one's and those that its texts name."""
    sample = sample_alert(rule, "t1")
    assert {"alertname", "severity", "team", "component", "farthing_test"} <= set(sample.labels)
    assert set(sample.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    for text in sample.annotations.values():
        assert "{{" not in text
        assert "}}" not in text
        assert "\0" not in text
    assert sample.annotations["summary"].startswith("TEST: ")
    assert sample.annotations["description"].startswith("This is a test; nothing is wrong.")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ $labels.model }} waits", "m waits"),
        ("{{ $value | humanize }} s", "a test value s"),
        (
            '{{ with query "sum(x{a=\\"}}\\"})" }}{{ . | first }} $ per hour{{ else }}an unknown amount{{ end }}!',
            "an unknown amount!",
        ),
        ("{{ if eq $value 1.0 }}one{{ else }}{{ with x }}a{{ else }}some{{ end }} more{{ end }}.", "some more."),
        ("{{ with $labels.model }}of {{ . }}{{ end }}.", "of a test value."),
        ('{{ printf "count(up{job=%q})" $labels.job | query | first | value }} down', "a test value down"),
    ],
)
def test_templates_are_filled_with_labels_and_with_nothing_that_is_not_known(template, text):
    """A made-up cost might be believed."""
    sample = sample_alert(replace(ALERT, summary=template), "t1", {"model": "m"})
    assert sample.annotations["summary"] == f"TEST: {text}"


def test_labels_that_are_given_replace_made_up_ones():
    """So that every route can be tried; which test it is stays."""
    sample = sample_alert(ALERT, "t1", {"tier": "batch", "severity": "critical", "farthing_test": ""})
    assert sample.labels == {
        "alertname": "EngineSlow",
        "model": "farthing-test-model",
        "severity": "critical",
        "team": "serving",
        "component": "latency",
        "tier": "batch",
        "farthing_test": "t1",
    }
    assert sample.annotations["dashboard_url"] == "http://localhost:3000/d/x?var-model=farthing-test-model"


@pytest.mark.parametrize(
    ("expr", "shown"),
    [
        ("x > 0.5\nand on (m)\ny * 60 >= 20", "> 0.5"),
        ('up{job=~"a|b"} == 0', "== 0"),
        ("x <= bool 1e-05", "<= 1e-05"),
        ('x{a!="b", c=~"}>5"} > on (slo) group_left () y and z > 3', "> y"),
        ("x > bool y", "> y"),
        ("x > sum(y)", None),
        ("x > 1.5 * y", "> 1.5"),
        ("count(x)", None),
    ],
)
def test_a_threshold_is_the_first_comparison(expr, shown):
    """Unknown is shown as such."""
    assert threshold(replace(ALERT, expr=expr)) == shown
