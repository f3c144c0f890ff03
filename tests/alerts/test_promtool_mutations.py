"""Cases that cannot fail prove nothing: each alert's own notice when its rule is broken in any of its parts."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.alerts.real_parts import program

from farthing.alerts.documents import to_yaml
from farthing.alerts.render import alert_rules, render_rules, rule_groups
from farthing.settings import Settings

CASES = Path(__file__).parents[1] / "promtool"
ALERTS = {alert.name: alert for alert in alert_rules(Settings())}

PARTS = [
    ("LLMTimeToFirstTokenHigh", "> 0.5", "> 5"),
    ("LLMTimeToFirstTokenHigh", "* 60 >= 20", "* 60 >= 0"),
    ("LLMTimeToFirstTokenHigh", "an unknown amount", "$0.00"),
    ("LLMInterTokenLatencyHigh", "> 0.05", "> 0.04"),
    ("LLMInterTokenLatencyHigh", ">= 600", ">= 500"),
    ("LLMEndToEndLatencyHigh", "> 10.0", "> 9.0"),
    ("LLMEndToEndLatencyHigh", ">= 20", ">= 10"),
    ("LLMRequestsFailing", "> 0.02", "> 0.01"),
    ("LLMRequestsFailing", ">= 5", ">= 3"),
    ("LLMRequestsFailing", "sum by (model)", "sum by (instance, model)"),
    ("LLMRequestsFailing", " or sum by (model) (avg_over_time(llm:requests_failed:rate1m[5m])) * 0", ""),
    ("LLMServerErrorsHigh", "> 0.02", "> 0.01"),
    ("LLMServerErrorsHigh", ">= 5", ">= 0"),
    ("LLMRequestsAborted", "> 0.1", "> 0.01"),
    ("LLMRequestsAborted", "|aborted_before_first_token", ""),
    ("LLMRequestsRejected", "> 0.01", "> 0.001"),
    ("LLMEngineStalled", " or llm:requests_waiting:sum > 0", ""),
    ("LLMEngineStalled", "unless on (instance, model)\nllm:prompt_tokens:rate1m > 0\n", ""),
    ("LLMEngineStalled", "unless on (instance, model)\nllm:engine_awake:max == 0", ""),
    ("LLMEngineStalled", "and on (instance, model)\nllm:generation_tokens:rate1m == 0\n", ""),
    ("LLMQueueBacklog", "> 20", "> 19"),
    ("LLMKVCacheFull", "> 0.95", "> 0.9"),
    ("LLMKVCacheFull", "requests_waiting:sum > 0", "requests_waiting:sum >= 0"),
    ("LLMPreemptionsHigh", "* 60 > 10", "* 60 > 5"),
    ("FarthingSpendRateJump", "> 1.5 *", "> 1.1 *"),
    ("FarthingSpendRateJump", ">= 72", ">= 12"),
    ("FarthingUnitCostJump", "> 2.0 *", "> 1.4 *"),
    ("FarthingUnitCostJump", "> 0.5 / 24", "> 0.2 / 24"),
    ("FarthingUnitCostJump", "offset 6h", "offset 1h"),
    ("FarthingUnitCostJump", 'kind!="image"', 'kind!="none"'),
    ("FarthingDailySpendHigh", "> 1000", "> 999"),
    ("FarthingMonthlySpendHigh", "> 30000", "> 29999"),
    ("FarthingMonthlyForecastHigh", 'bound="low"', 'bound="high"'),
    ("FarthingBudgetThresholdPassed", "- 86400", "- 864000"),
    ("FarthingBudgetThresholdPassed", " < 1", " < 2"),
    ("FarthingBudgetSpent", ">= 1", ">= 0.9"),
    ("FarthingBudgetSpent", ">= 1", "> 1"),
    ("FarthingCostAnomaly", "> 5", "> 4"),
    ("FarthingIdleCostHigh", "> 0.5", "> 0.4"),
    ("FarthingIdleCostHigh", "> 5", "> 1"),
    ("FarthingAsleepCostHigh", '"asleep"', '"idle"'),
    ("FarthingStartingCostHigh", '"starting"', '"idle"'),
    ("FarthingUnattributedHigh", "> 0.005", "> 0.003"),
    ("FarthingUnattributedHigh", '{account=~"charged|aborted|unattributed"}', ""),
    ("FarthingResidualNotZero", "!= 0", "> 0"),
    ("FarthingEngineUnpriced", "== 1", "== 0"),
    ("LLMPrefixCacheCollapsed", "< 0.5 *", "< 0.9 *"),
    ("LLMPrefixCacheCollapsed", "> 0.1", "> 0.01"),
    ("LLMExternalCacheCollapsed", ">= 10000", ">= 1000"),
    ("LLMMultimodalCacheCollapsed", ">= 50", ">= 10"),
    ("LLMGPUIdleWhileQueued", "< 0.5", "< 1"),
    ("LLMGPUIdleWhileQueued", "[5m])) > 1", "[5m])) >= 0"),
    ("LLMGPUIdleWhileQueued", "group by (engine, model)", "sum by (engine, model)"),
    ("LLMGPUAllocatedIdle", "> 0.95", "> 0.85"),
    ("LLMGPUXid", " or gpu:xid:last == 79", ""),
    ("LLMGPUXid", "gpu:xid:last != gpu:xid:last offset 15m or on (uuid) ", ""),
    ("LLMGPUXid", " or on (uuid) gpu:xid_errors:total > gpu:xid_errors:total offset 15m", ""),
    ("LLMGPUApplicationXid", " or gpu:xid:last == 45", ""),
    ("LLMGPUApplicationXid", " or on (uuid) gpu:xid_errors:total * 0", ""),
    ("LLMGPUApplicationXid", "total > gpu:xid_errors:total offset", "total != gpu:xid_errors:total offset"),
    ("LLMGPUECCUncorrected", "> 0", "!= 0"),
    ("LLMGPUECCUncorrected", " - gpu:ecc_uncorrected:total offset 15m", ""),
    ("LLMGPUThermalThrottling", "> 0.1", "> 0.05"),
    ("LLMGPUThermalThrottling", 'reason="thermal"', 'reason=~".*"'),
    ("LLMGPUPowerThrottling", "< 0.6", "< 0.8"),
    ("LLMGPUPowerThrottling", "> 0.5", ">= 0"),
    ("LLMGPUPowerThrottling", 'reason="power"', 'reason=~".*"'),
    ("LLMGPUMemoryNearlyFull", "< 0.02", "< 0.05"),
    ("LLMGPUMemoryNearlyFull", "on (uuid) group_left ()", ""),
    ("LLMGPULost", "\nunless on (uuid) gpu:memory_used:bytes", ""),
    ("LLMGPULost", "\nand on (hostname) gpu:memory_used:bytes", ""),
    ("LLMGPULost", "[6h]", "[1d]"),
    ("LLMGPUTelemetryDown", 'up{job="gpu-exporters"} == 0', 'up{job="gpu-exporters"} == 2'),
    ("LLMGPUTelemetryDown", 'job="gpu-exporters"', 'job=~".+"'),
    ("LLMGPUTelemetryDown", "farthing_gpu_source_up", "farthing_gpu_source_down"),
    ("LLMGPUTelemetryStuck", "* 0.5", "* 0.1"),
    ("LLMGPUTelemetryStuck", "> 300", "> 280"),
    ("LLMGPUTelemetryStuck", '{fault!="sentinel"}', ""),
    ("LLMGPUTelemetryStuck", "max_over_time", "min_over_time"),
    ("LLMGPUTelemetryStuck", "min_over_time", "max_over_time"),
    ("LLMGPUTelemetryStuck", "or on (uuid, fault)", "or"),
    ("LLMEngineStartingLong", '"starting"', '"idle"'),
    ("FarthingTargetDown", "== 0", "== 2"),
    ("FarthingTargetDown", "llm-engines|farthing", "llm-engines|farthing|node"),
    ("FarthingAbsent", '{job="farthing"}', ""),
    ("FarthingScrapeFailing", "== 0", "<= 1"),
    ("FarthingWatermarkStale", "> 300", "> 299"),
    ("FarthingBooksStalled", "min(", "max("),
    ("FarthingBooksStalled", "and\nmax(farthing_engine_scrape_up) == 1", ""),
    ("FarthingIntakeRefusing", '{result="refused"}', ""),
    ("FarthingIntakeLimiting", '{result="limited"}', ""),
    ("FarthingAuthFailing", "> 20", "> 5"),
    ("FarthingAuditFailing", "\nand\nfarthing_audit_up == 0", ""),
    ("FarthingReconciliationRed", '{check!~"residual_is_zero|unattributed_is_small|engine_has_a_price"}', ""),
    ("FarthingVersionSkew", "count by (version)", "count by (instance)"),
    ("FarthingProbeMissing", "unless on (engine)\nfarthing_watermark_lag_seconds\n", ""),
    ("FarthingProbeMissing", "unless on (engine)\nfarthing_engine_unpriced", ""),
    ("FarthingProbeMissing", "== 1", ">= 0"),
    ("FarthingProbeOff", "== 0", "<= 2"),
    ("FarthingProbeSpooling", "> 0", ">= 0"),
    ("FarthingProbeDropping", "> 0", ">= 0"),
    ("FarthingProbeErring", "> 0", ">= 0"),
]


def noticed(folder, name, part, replacement):
    """Whether the alert's cases fail over its rule with ``part`` replaced everywhere in it."""
    (group,) = [group for group in rule_groups(Settings()) if ALERTS[name] in group.alerts]
    document = group.document()
    for rule in document["rules"]:
        if rule.get("alert") == name:
            waits = {key: f"{key}: {rule[key]}" for key in ("for", "keep_firing_for") if key in rule}
            told = {"expr": rule["expr"], **waits, **rule["annotations"]}
            assert any(part in text for text in told.values()), part
            rule["expr"] = rule["expr"].replace(part, replacement)
            rule |= {key: text.replace(part, replacement).removeprefix(f"{key}: ") for key, text in waits.items()}
            rule["annotations"] = {key: text.replace(part, replacement) for key, text in rule["annotations"].items()}
    generated, cases = folder / "alerts" / "generated", folder / "tests" / "promtool"
    generated.mkdir(parents=True)
    cases.mkdir(parents=True)
    for file, text in render_rules(Settings()).items():
        (generated / file).write_text(text)
    (generated / f"{group.name}.yml").write_text(to_yaml({"groups": [document]}))
    shutil.copy(CASES / f"{name}.yml", cases)
    done = subprocess.run(
        [program("promtool"), "test", "rules", cases / f"{name}.yml"], capture_output=True, text=True, check=False
    )
    assert "parse error" not in done.stdout + done.stderr
    return done.returncode != 0


@pytest.mark.real
@pytest.mark.parametrize(("name", "part", "replacement"), PARTS)
def test_a_broken_part_is_noticed(tmp_path, name, part, replacement):
    """Thresholds, floors, exceptions, joins and groupings."""
    assert noticed(tmp_path, name, part, replacement)


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name, alert in ALERTS.items() if alert.for_seconds])
def test_an_alert_that_fires_at_once_is_noticed(tmp_path, name):
    """The wait keeps what is over soon from paging."""
    assert noticed(tmp_path, name, f"for: {ALERTS[name].for_seconds}s", "for: 0s")


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name, alert in ALERTS.items() if alert.keep_firing_seconds])
@pytest.mark.parametrize("kept", ["0s", "110s", "130s"])
def test_an_alert_that_is_kept_for_another_time_is_noticed(tmp_path, name, kept):
    """Too short, and what it explains is told at its end; too long, and nobody sees that it is over."""
    assert noticed(tmp_path, name, f"keep_firing_for: {ALERTS[name].keep_firing_seconds}s", f"keep_firing_for: {kept}")


def test_every_alert_has_a_part_that_is_broken_here():
    """A new alert needs one; those of service levels and the dead man's switch have tests of their own."""
    others = {name for name in ALERTS if name.startswith("SLO")} | {"FarthingWatchdog"}
    assert {name for name, *_ in PARTS} == set(ALERTS) - others
