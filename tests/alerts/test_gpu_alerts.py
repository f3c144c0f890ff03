"""From an exporter's own series to the alert: whoever wrote the exporter, the same trouble tells the same."""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.alerts.gpu_expositions import DEVICE, KINDS, UUID, exposition_series
from tests.alerts.real_parts import program

from farthing.alerts.documents import to_yaml
from farthing.alerts.gpu_hardware import gpu_hardware
from farthing.alerts.gpu_signals import gpu_vocabulary
from farthing.domain import conventions as names
from farthing.settings import Settings

GROUPS = tuple(replace(group, interval_seconds=60) for group in (gpu_vocabulary(Settings()), gpu_hardware(Settings())))
"""Evaluated each minute, which takes promtool a quarter of the time."""
RULES = to_yaml({"groups": [group.document() for group in GROUPS]})
ALERTS = [alert.name for alert in GROUPS[1].alerts]
STEPS = 400
"""Of 15 s: 100 minutes, longer than any of the alerts waits."""
Series = dict[str, str]


def changed(
    series: Iterable[Series], metric: str, change: Callable[[str], str], uuid: str = UUID, also: str = ""
) -> list[Series]:
    """The series, the metric's of the first device with other values."""
    found, result = 0, []
    for one in series:
        if one["series"].startswith(metric + "{") and uuid in one["series"] and also in one["series"]:
            found += 1
            result.append({**one, "values": change(one["values"].partition("x")[0].partition("+")[0])})
        else:
            result.append(one)
    assert found, metric
    return result


def then(value: str) -> Callable[[str], str]:
    """As it was for half an hour, and the value from then on."""
    return lambda before: f"{before}x120 {value}x{STEPS - 121}"


def fired(folder: Path, series: Iterable[Series], at: str) -> set[tuple[str, str]]:
    """(alert, uuid) of every hardware alert that fires at the moment, by both groups as they are generated."""
    (folder / "rules.yml").write_text(RULES)
    check: list[dict[str, Any]] = [
        {"expr": 'count by (alertname, uuid) (ALERTS{alertstate="firing"})', "eval_time": at, "exp_samples": []}
    ]
    cases = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "group_eval_order": [group.name for group in GROUPS],
        "tests": [{"interval": "15s", "input_series": list(series), "promql_expr_test": check}],
    }
    (folder / "cases.yml").write_text(yaml.safe_dump(cases, width=10_000))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(folder / "cases.yml")], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert "parse error" not in said, said
    assert "exp: nil" in said or "exp:" in said or done.returncode == 0, said
    (got,) = [line for line in said.splitlines() if line.strip().startswith("got:")] or [""]
    alerts = {name: [part for part in got.split("{") if f'alertname="{name}"' in part] for name in ALERTS}
    return {(name, part.split('uuid="')[1].split('"')[0]) for name, parts in alerts.items() for part in parts}


@pytest.mark.real
@pytest.mark.parametrize("kind", [*KINDS, "dcgm-mig"])
def test_a_gpu_that_works_as_it_should_tells_nothing(tmp_path, kind):
    """At its power limit, with old errors, and with a second device of which hardly anything is known."""
    series = list(exposition_series(kind, steps=STEPS))
    if kind == "dcgm-mig":  # its fixture is a hot one
        series = changed(series, "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", lambda _: f"4x{STEPS}")
    assert fired(tmp_path, series, "99m") == set()


@pytest.mark.real
@pytest.mark.parametrize("limit", [True, False], ids=["with its limit", "without, as by default"])
@pytest.mark.parametrize("metric", ["DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"])
def test_a_dcgm_utilization_stuck_at_0_at_612_watts_is_told(tmp_path, limit, metric):
    """Of the driver's utilisation, and of the profiling counter where an exporter has that alone."""
    series = list(exposition_series("dcgm", steps=STEPS))
    if not limit:
        series = [one for one in series if "POWER_LIMIT" not in one["series"]]
    if metric != "DCGM_FI_DEV_GPU_UTIL":
        series = [one for one in series if "GPU_UTIL" not in one["series"]]
    stuck = changed(series, metric, then("0"))
    assert fired(tmp_path, stuck, "35m") == set()
    assert fired(tmp_path, stuck, "45m") == {("LLMGPUTelemetryStuck", DEVICE["dcgm"]["uuid"])}


@pytest.mark.real
@pytest.mark.parametrize(
    ("code", "alert"), [(79, "LLMGPUXid"), (13, "LLMGPUApplicationXid"), (45, None)], ids=["79", "13", "45"]
)
def test_an_xid_is_told_of_dcgms_last_code_and_of_the_first_that_nvidia_smi_counts(tmp_path, code, alert):
    """DCGM has the last code alone; nvidia_gpu_exporter shows a series with the first error and none before."""
    expected = {(alert, DEVICE["dcgm"]["uuid"])} if alert else set()
    series = changed(exposition_series("dcgm", steps=STEPS), "DCGM_FI_DEV_XID_ERRORS", then(str(code)))
    assert fired(tmp_path, series, "33m") == expected
    assert fired(tmp_path, series, "60m") == set()
    quiet = [one for one in exposition_series("nvidia_smi", steps=STEPS) if "_xid_" not in one["series"]]
    labels = f'uuid="{UUID}", xid="{code}", job="{names.JOB_GPUS}", instance="gpu-host-1:9400"'
    first = [
        {"series": f"nvidia_smi_xid_errors_total{{{labels}}}", "values": "_x120 1x200"},
        {"series": f"nvidia_smi_xid_last_timestamp_seconds{{{labels}}}", "values": "_x120 1795445251x200"},
    ]
    assert fired(tmp_path, [*quiet, *first], "33m") == expected


@pytest.mark.real
@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("dcgm", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"),
        ("nvidia_smi", "nvidia_smi_ecc_errors_uncorrected_volatile_total"),
        ("amd", "gpu_ecc_uncorrect_total"),
        ("xpum", "xpum_cache_errors_total"),
    ],
)
def test_one_more_uncorrected_error_is_told_of_every_kind(tmp_path, kind, metric):
    """Counted from 1 to 2; and not when a driver that is loaded again begins with 0."""
    also = 'type="uncorrectable"' if kind == "xpum" else ""
    told = {("LLMGPUECCUncorrected", DEVICE[kind]["uuid"])}
    for value, expected in (("2", told), ("0", set())):
        series = changed(exposition_series(kind, steps=STEPS), metric, then(value), also=also)
        assert fired(tmp_path, series, "33m") == expected


@pytest.mark.real
@pytest.mark.parametrize(
    ("kind", "metric", "value"),
    [
        ("dcgm", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "36"),
        ("nvidia_smi", "nvidia_smi_clocks_event_reasons_sw_thermal_slowdown", "1"),
        ("nvidia_smi", "nvidia_smi_clocks_event_reasons_hw_thermal_slowdown", "1"),
        ("amd", "gpu_violation_hbm_thermal_residency_percentage", "7"),
    ],
)
def test_heat_is_told_of_every_kind_that_knows_it(tmp_path, kind, metric, value):
    """A bit of a mask, one of two flags, a share of time."""
    series = changed(exposition_series(kind, steps=STEPS), metric, then(value))
    assert fired(tmp_path, series, "50m") == {("LLMGPUThermalThrottling", DEVICE[kind]["uuid"])}


@pytest.mark.real
@pytest.mark.parametrize(
    ("kind", "metric", "value"),
    [
        # 80900 of 81559 MiB
        ("dcgm", "DCGM_FI_DEV_FB_FREE", "163"),
        ("nvidia_smi", "nvidia_smi_memory_used_bytes", "84829798400"),
        ("amd", "gpu_used_vram", "80900"),
    ],
)
def test_memory_nearly_full_is_told_in_any_unit(tmp_path, kind, metric, value):
    """MiB as bytes; DCGM's total is what is used, free and reserved."""
    series = changed(exposition_series(kind, steps=STEPS), metric, then(value))
    if kind == "dcgm":
        series = changed(series, "DCGM_FI_DEV_FB_USED", then("80900"))
    assert fired(tmp_path, series, "45m") == {("LLMGPUMemoryNearlyFull", DEVICE[kind]["uuid"])}


@pytest.mark.real
def test_a_gpu_that_its_exporter_does_not_show_any_more_is_lost_while_its_host_is_there(tmp_path):
    """Only where an engine ran on it; an exporter that is gone as a whole says nothing of its GPUs."""
    series = list(exposition_series("nvidia_smi", steps=STEPS))
    gone = [
        {**one, "values": one["values"].partition("x")[0] + "x120 stale"} if UUID in one["series"] else one
        for one in series
    ]
    gone = changed(gone, "nvidia_smi_memory_used_bytes", lambda _: f"70000000000x{STEPS}", uuid=f"{UUID[:-1]}1")
    labels = ", ".join(f'{name}="{value}"' for name, value in DEVICE["nvidia_smi"].items())
    ran = {"series": f'{names.METRIC_GPU_ENGINE}{{{labels}, engine="chat"}}', "values": "1x120 stale"}
    assert fired(tmp_path, [*gone, ran], "40m") == {("LLMGPULost", DEVICE["nvidia_smi"]["uuid"])}
    assert fired(tmp_path, gone, "40m") == set()
    nothing = [{**one, "values": one["values"].partition("x")[0] + "x120 stale"} for one in series]
    assert fired(tmp_path, [*nothing, ran], "40m") == set()
