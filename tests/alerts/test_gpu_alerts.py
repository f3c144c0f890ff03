"""From an exporter's own series to the alert: whoever wrote the exporter, the same trouble tells the same."""

import gzip
import json
import re
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

ROOT = Path(__file__).parents[2]
PACKAGED = ROOT / "app" / "farthing" / "replay" / "recordings"
GROUPS = tuple(replace(group, interval_seconds=60) for group in (gpu_vocabulary(Settings()), gpu_hardware(Settings())))
"""Evaluated each minute, which takes promtool a quarter of the time."""
RULES = to_yaml({"groups": [group.document() for group in GROUPS]})
ALERTS = [alert.name for alert in GROUPS[1].alerts]
SAMPLE_LINE = re.compile(r"^(\w+\{[^}]*\}) (\S+)$", re.MULTILINE)
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
        ("dcgm", "DCGM_FI_DEV_SM_CLOCK", "800"),
        ("nvidia_smi", "nvidia_smi_clocks_current_sm_clock_hz", "800000000"),
    ],
)
def test_a_power_limit_that_takes_half_of_the_clock_is_told(tmp_path, kind, metric, value):
    """After an hour; the fixtures are at their limit, at 1755 MHz, which is as it should be."""

    def lowered(before: str) -> str:
        return f"{before}x20 {value}x{STEPS - 21}"

    series = changed(exposition_series(kind, steps=STEPS), metric, lowered)
    assert fired(tmp_path, series, "65m") == set()
    assert fired(tmp_path, series, "90m") == {("LLMGPUPowerThrottling", DEVICE[kind]["uuid"])}


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


RECORDINGS = (
    *(PACKAGED / f"h100-{shape}-vllm0.26" / "nvml.jsonl.gz" for shape in ("llama8b", "qwen2vl7b")),
    *(
        ROOT / "tests" / "fixtures" / "recordings" / f"h100-llama8b-{run}" / "nvml.jsonl.gz"
        for run in ("probe", "pressure")
    ),
)
"""What H100s told while they served, ten times a second; a first line says what it is."""
OWN_SERIES = PACKAGED / "h100-llama8b-devices-vllm0.26" / "gpu_metrics.jsonl.gz"
"""What Farthing exported of another, every five seconds."""


def recorded_rows(path: Path) -> list[dict[str, Any]]:
    """One reading each 15 s, again and again for as long as the tests last."""
    with gzip.open(path, "rt") as lines:
        _, *rows = [json.loads(line) for line in lines]
    looks = rows[:: round(15 / ((rows[-1]["t"] - rows[0]["t"]) / len(rows)))]
    return [looks[step % len(looks)] for step in range(STEPS)]


def recorded_series(path: Path) -> list[Series]:
    """A recording as Farthing exports it; the throttle mask is NVML's: 1 no work, 4 power."""
    rows = recorded_rows(path)
    device = f'uuid="{path.parent.name}", hostname="gpu-host-1", device="0", gpu_model="NVIDIA H100 80GB HBM3"'
    values: dict[str, list[float]] = {
        f"{names.METRIC_GPU_UTILIZATION}{{{device}}}": [row["gpu"] / 100 for row in rows],
        f"{names.METRIC_GPU_MEMORY_USED}{{{device}}}": [row["mem"] for row in rows],
        f"{names.METRIC_GPU_MEMORY_TOTAL}{{{device}}}": [85_520_809_984] * STEPS,
        f"{names.METRIC_GPU_POWER}{{{device}}}": [row["p_mw"] / 1000 for row in rows],
        f"{names.METRIC_GPU_POWER_LIMIT}{{{device}}}": [700] * STEPS,
        f"{names.METRIC_GPU_SM_CLOCK}{{{device}}}": [row["sm"] * 1e6 for row in rows],
        f"{names.METRIC_GPU_TEMPERATURE}{{{device}}}": [row["temp"] for row in rows],
        f"{names.METRIC_GPU_LAST_XID}{{{device}}}": [0] * STEPS,
        f"{names.METRIC_GPU_XID}{{{device}}}": [0] * STEPS,
        f'{names.METRIC_GPU_ECC}{{{device}, kind="uncorrected"}}': [0] * STEPS,
        f'{names.METRIC_GPU_ENGINE}{{{device}, engine="chat"}}': [1] * STEPS,
    }
    for reason, bit in (("idle", 1), ("power", 4), ("thermal", 32 | 64)):
        values[f'{names.METRIC_GPU_THROTTLED}{{{device}, reason="{reason}"}}'] = [
            float(bool(row["thr"] & bit)) for row in rows
        ]
    return [{"series": name, "values": " ".join(f"{value:f}" for value in column)} for name, column in values.items()]


def exported_series() -> list[Series]:
    """The recorded exposition of Farthing, each 15 s, again and again."""
    with gzip.open(OWN_SERIES, "rt") as lines:
        bodies = [json.loads(line)["body"] for line in lines][::3]
    looks = [dict(SAMPLE_LINE.findall(body)) for body in bodies]
    named = {series for look in looks for series in look if series.startswith("farthing_gpu_") and "uuid=" in series}
    return [
        {"series": series, "values": " ".join(_plain(looks[step % len(looks)].get(series)) for step in range(STEPS))}
        for series in sorted(named)
    ]


def _plain(value: str | None) -> str:
    """As promtool reads it."""
    return "_" if value is None else f"{float(value):f}"


@pytest.mark.real
@pytest.mark.parametrize(
    ("reason", "told"), [("thermal", {("LLMGPUThermalThrottling", DEVICE["amd"]["uuid"])}), ("hardware", set())]
)
def test_a_hot_gpu_of_which_farthing_knows_some_reasons_alone_is_told(tmp_path, reason, told):
    """As it shows one that it reads from AMD's exporter: settings, idleness and others have no series."""
    labels = ", ".join(f'{name}="{value}"' for name, value in DEVICE["amd"].items())
    series = [
        {
            "series": f'{names.METRIC_GPU_THROTTLED}{{{labels}, reason="{one}"}}',
            "values": then("1")("0") if one == reason else f"0x{STEPS}",
        }
        for one in ("power", "thermal", "hardware")
    ]
    assert fired(tmp_path, series, "35m") == set()
    assert fired(tmp_path, series, "60m") == told


@pytest.mark.real
def test_h100s_that_serve_as_they_were_recorded_tell_nothing(tmp_path):
    """At their power limit much of the time, most with 93 to 96 % of their memory taken, and idle in between."""
    series = [one for path in RECORDINGS for one in recorded_series(path)] + exported_series()
    assert fired(tmp_path, series, "99m") == set()
    rows = [recorded_rows(path) for path in RECORDINGS]
    assert all(sum(bool(row["thr"] & 4) for row in each) > 0.3 * STEPS for each in rows)
    assert sum(max(row["mem"] for row in each) > 0.93 * 85_520_809_984 for each in rows) == 3


@pytest.mark.real
def test_a_recorded_h100_whose_utilization_sticks_is_told(tmp_path):
    """Kept as busy as it was at its busiest, and said to do nothing: its power gives it away."""
    busiest = max(recorded_rows(RECORDINGS[0]), key=lambda row: int(row["p_mw"]))
    for busy, expected in ((busiest["gpu"] / 100, set()), (0, {("LLMGPUTelemetryStuck", "GPU-1")})):
        told = (
            (names.METRIC_GPU_UTILIZATION, busy),
            (names.METRIC_GPU_POWER, busiest["p_mw"] / 1000),
            (names.METRIC_GPU_POWER_LIMIT, 700),
        )
        series = [
            {"series": f'{metric}{{uuid="GPU-1", hostname="gpu-host-1"}}', "values": f"{value:f}x{STEPS}"}
            for metric, value in told
        ]
        assert fired(tmp_path, series, "20m") == expected
