"""The families of alerts: thresholds follow farthing.yaml, each alert's text says so, and the list of them is whole."""

import re
from pathlib import Path

import pytest
import yaml
from tests.alerts.known_metrics import labels_in, probe_exposition

from farthing.alerts.inhibitions import INHIBITIONS
from farthing.alerts.reference import alert_reference, held_back_by, plain
from farthing.alerts.render import alert_rules, rule_groups
from farthing.domain import conventions as names
from farthing.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "alerts.md"
CASES = ROOT / "tests" / "promtool"
ALERTS = {alert.name: alert for alert in alert_rules(Settings())}
SAYS = re.compile(r'^alertname=~?"([^"]+)"$')

THRESHOLDS = [
    ("itl_p95_seconds", 0.123, "LLMInterTokenLatencyHigh", "p95_1m > 0.123\n", "promised are 0.123 s"),
    ("e2e_p95_seconds", 61.5, "LLMEndToEndLatencyHigh", "p95_1m > 61.5\n", "promised are 61.5 s"),
    ("failed_ratio", 0.31, "LLMRequestsFailing", "> 0.31\n", "accepted are 31 %"),
    ("failed_ratio", 0.31, "LLMServerErrorsHigh", "> 0.31\n", "accepted are 31 %"),
    ("aborted_ratio", 0.31, "LLMRequestsAborted", "> 0.31\n", "less than 31 %"),
    ("rejected_ratio", 0.31, "LLMRequestsRejected", "> 0.31\n", "accepted are 31 %"),
    ("queue_requests", 77, "LLMQueueBacklog", "> 77", "more than 77"),
    ("kv_cache_ratio", 0.87, "LLMKVCacheFull", "> 0.87\n", "87 %"),
    ("preemptions_per_minute", 33, "LLMPreemptionsHigh", "* 60 > 33", "less than 33"),
    ("spend_jump_ratio", 3.5, "FarthingSpendRateJump", "> 3.5 * avg", "3.5 times"),
    ("unit_cost_jump_ratio", 3.5, "FarthingUnitCostJump", "> 3.5 * (", "3.5 times"),
    ("daily_spend_usd", "12.5", "FarthingDailySpendHigh", "> 12.5", "$12.5 a day"),
    ("monthly_spend_usd", "70000", "FarthingMonthlySpendHigh", "> 70000", "at most $70000"),
    ("monthly_spend_usd", "70000", "FarthingMonthlyForecastHigh", "> 70000", "at most $70000"),
    ("waste_usd", "0.75", "FarthingCostAnomaly", "> 0.75", ""),
    ("waste_usd", "0.75", "FarthingIdleCostHigh", "> 0.75", ""),
    ("idle_cost_ratio", 0.77, "FarthingIdleCostHigh", "> 0.77\n", "from 77 % on"),
    ("asleep_cost_ratio", 0.77, "FarthingAsleepCostHigh", "> 0.77\n", "from 77 % on"),
    ("starting_cost_ratio", 0.77, "FarthingStartingCostHigh", "> 0.77\n", "from 77 % on"),
    ("unattributed_ratio", 0.013, "FarthingUnattributedHigh", "> 0.013", "1.3 %"),
    ("cache_collapse_ratio", 0.25, "LLMPrefixCacheCollapsed", "< 0.25 *", "25 %"),
    ("cache_collapse_ratio", 0.25, "LLMExternalCacheCollapsed", "< 0.25 *", "25 %"),
    ("cache_collapse_ratio", 0.25, "LLMMultimodalCacheCollapsed", "< 0.25 *", "25 %"),
    ("gpu_busy_ratio", 0.21, "LLMGPUIdleWhileQueued", "< 0.21\n", "below 21 %"),
    ("gpu_thermal_ratio", 0.33, "LLMGPUThermalThrottling", "[5m]) > 0.33", "accepted are 33 %"),
    ("gpu_power_clock_ratio", 0.41, "LLMGPUPowerThrottling", "[1d]) < 0.41\n", "more than 41 %"),
    ("gpu_memory_left_ratio", 0.07, "LLMGPUMemoryNearlyFull", "bytes < 0.07", "less than 7 %"),
    ("gpu_working_ratio", 0.77, "LLMGPUTelemetryStuck", "watts * 0.77\n", "Above 77 %"),
    ("watermark_lag_seconds", 911, "FarthingWatermarkStale", "> 911", "less than 911 s"),
    ("watermark_lag_seconds", 911, "FarthingBooksStalled", "> 911", ""),
]
WAITS = [
    ("for_seconds", "LLMTimeToFirstTokenHigh"),
    ("for_seconds", "LLMInterTokenLatencyHigh"),
    ("for_seconds", "LLMEndToEndLatencyHigh"),
    ("stalled_seconds", "LLMEngineStalled"),
    ("gpu_idle_seconds", "LLMGPUAllocatedIdle"),
    ("cold_start_seconds", "LLMEngineStartingLong"),
]


def with_setting(key, value):
    """The alerts by name, when one threshold is set."""
    return {alert.name: alert for alert in alert_rules(Settings.model_validate({"alerts": {key: value}}))}


@pytest.mark.parametrize(("key", "value", "name", "condition", "said"), THRESHOLDS)
def test_a_threshold_reaches_the_condition_and_the_text(key, value, name, condition, said):
    """A text that tells another number than the rule goes by misleads whoever is paged."""
    alert = with_setting(key, value)[name]
    assert condition in alert.expr
    assert condition not in ALERTS[name].expr
    assert said in alert.description
    assert alert.expr.count(condition) == 1


@pytest.mark.parametrize(("key", "name"), WAITS)
def test_a_wait_reaches_the_rule(key, name):
    """How long it must last is a setting where services differ in it."""
    assert with_setting(key, 4321)[name].for_seconds == 4321


def test_every_setting_of_the_section_is_used_by_an_alert_or_tells_when_and_whom():
    """A threshold that nothing reads deceives."""
    unused = set(type(Settings().alerts).model_fields) - {key for key, *_ in THRESHOLDS} - {key for key, _ in WAITS}
    assert unused == {"evaluation_seconds", "ttft_p95_seconds", "webhook_url"}


def test_an_inhibition_names_alerts_that_exist():
    """A renamed alert would silently be told twice, or not at all."""
    named = {
        name
        for rule in INHIBITIONS
        for matcher in (*rule.source, *rule.target)
        if (found := SAYS.match(matcher))
        for name in found[1].split("|")
    }
    assert named <= set(ALERTS)
    assert "LLMEngineStalled" in named


def labels_when_firing(name):
    """The labels that the alert has in its cases, which promtool compares exactly."""
    tests = yaml.safe_load((CASES / f"{name}.yml").read_text())["tests"]
    fired = [alert for test in tests for check in test["alert_rule_test"] for alert in check.get("exp_alerts", ())]
    return {label for alert in fired for label in alert["exp_labels"]}


@pytest.mark.parametrize("rule", INHIBITIONS, ids=lambda rule: rule.why)
def test_an_inhibition_is_of_labels_that_its_alerts_have(rule):
    """A label that only one of them has never equals the other's, and one that both lack makes any two alike."""
    for matcher in (*rule.source, *rule.target):
        found = SAYS.match(matcher)
        for name in found[1].split("|") if found else ():
            # A budget may be of any of its labels, and its cases show two of the three.
            assert set(rule.equal) - labels_when_firing(name) <= {names.LABEL_PROJECT}, name


def test_no_alert_holds_back_one_that_holds_it_back():
    """Two that silence each other would both be silent."""
    for name in ALERTS:
        for source in held_back_by(name):
            assert name not in held_back_by(source), (name, source)


def test_nothing_holds_back_a_page_but_a_page():
    """A warning must not hide what somebody has to get up for."""
    for name, alert in ALERTS.items():
        if alert.severity == "critical":
            assert all(ALERTS[source].severity == "critical" for source in held_back_by(name)), name


def test_the_page_lists_every_alert_with_its_runbook():
    """The committed page is the one that the rules make."""
    page = PAGE.read_text()
    assert page == alert_reference(Settings())
    for name in ALERTS:
        assert f"| [{name}](../alerts/runbooks/{name}.md) |" in page
    assert "{{" not in page


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ $labels.model }}: {{ $value | humanizePercentage }} full", "MODEL: N full"),
        ("The budget{{ with $labels.tenant }} of tenant {{ . }}{{ end }} is spent", "The budget is spent"),
    ],
)
def test_a_template_is_read_without_its_braces(template, shown):
    """The page is for people."""
    assert plain(template) == shown


def test_checks_are_told_once():
    """By the alert of their own, or by the one for all others."""
    (told,) = re.findall(r'check!~"([^"]+)"', ALERTS["FarthingReconciliationRed"].expr)
    assert set(told.split("|")) <= set(names.CHECKS)
    assert {names.CHECK_RESIDUAL, names.CHECK_UNATTRIBUTED, names.CHECK_PRICED} == set(told.split("|"))


def test_what_looks_back_for_hours_is_not_evaluated_every_few_seconds():
    """Each evaluation reads the whole range."""
    for group in rule_groups(Settings()):
        if any(re.search(r"\[\d+[hd]", alert.expr) for alert in group.alerts):
            assert group.interval_seconds >= 30, group.name


def test_the_probes_series_are_those_that_a_probe_showed():
    """On a recorded engine's own exposition."""
    seen = labels_in([probe_exposition()])
    assert {names.PROBE_ON, names.PROBE_SPOOLED, names.PROBE_DROPPED, names.PROBE_ERRORS} <= set(seen)
