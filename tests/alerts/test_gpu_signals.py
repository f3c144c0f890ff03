"""Each exporter's metrics become the same series, in base units, once for each device, without sentinels."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.alerts.gpu_expositions import DEVICE, KINDS, TRUE, UUID, exposition_series
from tests.alerts.real_parts import program

from farthing.alerts.documents import to_yaml
from farthing.alerts.gpu_signals import GPU_BOTH_WAYS, GPU_DEVICE, GPU_SCALARS, gpu_vocabulary
from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.vocabulary.gpus import QUANTITIES, THROTTLE
from farthing.vocabulary.loading import load_exporter, load_exporters

RULES = gpu_vocabulary(Settings())
RULES_TEXT = to_yaml({"groups": [RULES.document()]})
GIB = 2**30
OWN = DEVICE["dcgm"]


def own(metric: str, value: float, **labels: str) -> dict[str, str]:
    """A series of Farthing's own of the fixtures' first device."""
    told = ", ".join(f'{name}="{text}"' for name, text in {**OWN, **labels}.items())
    return {"series": f'{metric}{{{told}, job="farthing", instance="farthing"}}', "values": f"{value:f}x20"}


def labelled(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"


def promtool(
    folder: Path,
    series: Iterable[Mapping[str, str]],
    expected: Mapping[str, Mapping[str, float]],
    rules: str = "",
) -> tuple[bool, str]:
    """Whether after four minutes each expression gives the expected series, and what promtool said."""
    (folder / "rules.yml").write_text(rules or RULES_TEXT)
    checks: list[dict[str, Any]] = [
        {
            "expr": expr,
            "eval_time": "4m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for expr, samples in expected.items()
    ]
    cases = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": list(series), "promql_expr_test": checks}],
    }
    (folder / "cases.yml").write_text(yaml.safe_dump(cases, width=10_000))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(folder / "cases.yml")], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


def of_first(record: str, kind: str) -> str:
    """The record's series of the first device, its name left out so that only labels and values are compared."""
    return f'{record}{{uuid="{DEVICE[kind]["uuid"]}"}} + 0'


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_series_in_base_units(tmp_path, kind):
    """0.87, not 87; bytes, not MiB; joules, not mJ or uJ; hertz, not MHz. What a kind lacks has no series."""
    told = load_exporter(kind).quantities
    expected: dict[str, dict[str, float]] = {
        of_first(record, kind): {labelled(DEVICE[kind]): value} if GPU_SCALARS[record] in told else {}
        for record, value in TRUE.items()
    }
    passed, said = promtool(tmp_path, exposition_series(kind), expected)
    assert passed, said


def test_the_truth_is_told_of_every_record():
    """A record that the table lacks would be compared with nothing."""
    assert set(TRUE) == set(GPU_SCALARS)
    assert {rule.record for rule in RULES.recordings} == {*GPU_SCALARS, *GPU_BOTH_WAYS, names.REC_GPU_THROTTLED}


@pytest.mark.real
@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("dcgm", {"power": 1, "thermal": 0, "hardware": 0, "settings": 0, "idle": 0, "other": 0}),
        ("nvidia_smi", {"power": 1, "thermal": 0, "hardware": 0, "settings": 0, "idle": 0, "other": 0}),
        ("amd", {"power": 1, "thermal": 0, "hardware": 0}),
        ("xpum", {}),
        ("dcgm-mig", {"power": 0, "thermal": 1, "hardware": 1, "settings": 0, "idle": 0, "other": 0}),
    ],
)
def test_why_clocks_are_held_down_is_told_by_reason(tmp_path, kind, reasons):
    """Of a mask (by either of its names), of flags, and of shares of time."""
    device = DEVICE.get(kind, OWN)
    expected = {
        of_first(names.REC_GPU_THROTTLED, kind if kind in DEVICE else "dcgm"): {
            labelled({**device, "reason": reason}): value for reason, value in reasons.items()
        }
    }
    passed, said = promtool(tmp_path, exposition_series(kind), expected)
    assert passed, said


@pytest.mark.real
def test_time_that_clocks_were_held_down_is_being_held_down(tmp_path):
    """DCGM's violations are counters of nanoseconds: while one rises, its reason is up."""
    labels = ", ".join(
        [
            *('gpu="0"', f'UUID="GPU-{UUID}"', 'modelName="NVIDIA H100 80GB HBM3"', 'hostname="gpu-host-1"'),
            *(f'job="{names.JOB_GPUS}"', 'instance="i"'),
        ]
    )
    series = [
        {"series": f"DCGM_FI_DEV_POWER_VIOLATION{{{labels}}}", "values": "0+1000000x20"},
        {"series": f"DCGM_FI_DEV_THERMAL_VIOLATION{{{labels}}}", "values": "700000000x20"},
        {"series": f"DCGM_FI_DEV_BOARD_LIMIT_VIOLATION{{{labels}}}", "values": "9223372036854775794x20"},
    ]
    expected = {
        f"{names.REC_GPU_THROTTLED} + 0": {
            labelled({**OWN, "reason": "power"}): 1,
            labelled({**OWN, "reason": "thermal"}): 0,
        }
    }
    passed, said = promtool(tmp_path, series, expected)
    assert passed, said


@pytest.mark.real
@pytest.mark.parametrize(
    ("kind", "record", "value"),
    [
        ("dcgm", names.REC_GPU_PCIE, 1.75e9),
        ("nvidia_smi", names.REC_GPU_PCIE, 1.75e9),
        ("xpum", names.REC_GPU_PCIE, 2 * 100),
        ("xpum", names.REC_GPU_NVLINK, 2 * 100),
        # four links counted in KiB
        ("amd", names.REC_GPU_NVLINK, 4 * 100 * 1024),
    ],
)
def test_throughput_is_of_both_directions_whether_counted_or_measured(tmp_path, kind, record, value):
    """Counters grow by 1500 in 15 s here: bytes, and of AMD's links KiB. Intel counts links where they send."""
    expected = {of_first(record, kind): {labelled(DEVICE[kind]): value}}
    passed, said = promtool(tmp_path, exposition_series(kind, rising=1500), expected)
    assert passed, said


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_no_sentinel_becomes_a_value(tmp_path, kind):
    """The second device of each fixture has blanks, all bits set, negatives and what is no number."""
    second = f'uuid=~".*{UUID[:-1]}1"'
    gone: dict[str, dict[str, float]] = {
        f"{record}{{{second}}}": {} for record in (names.REC_GPU_POWER, names.REC_GPU_MEMORY_USED, names.REC_GPU_ENERGY)
    }
    passed, said = promtool(tmp_path, exposition_series(kind), gone)
    assert passed, said


@pytest.mark.real
def test_a_device_that_several_sources_have_is_told_once_by_farthing_first(tmp_path):
    """Sums of fleets count it once; what Farthing does not know the next fills in."""
    series = [
        own(names.METRIC_GPU_POWER, 600),
        own(names.METRIC_GPU_MEMORY_USED, 70 * GIB),
        own(names.METRIC_GPU_THROTTLED, 1, reason="thermal"),
        own(names.METRIC_GPU_ENERGY, 30, method="counter"),
        own(names.METRIC_GPU_ENERGY, 12, method="integrated"),
        *exposition_series("dcgm"),
        *exposition_series("dcgm", "gpu-host-1:9401"),
        *exposition_series("nvidia_smi", "gpu-host-1:9835"),
    ]
    first = f'uuid="{OWN["uuid"]}"'
    expected: dict[str, dict[str, float]] = {
        f"sum({names.REC_GPU_POWER}{{{first}}})": {"{}": 600},
        f"{names.REC_GPU_MEMORY_USED}{{{first}}} + 0": {labelled(OWN): 70 * GIB},
        f"{names.REC_GPU_ENERGY}{{{first}}} + 0": {labelled(OWN): 42},
        f"{names.REC_GPU_UTILIZATION}{{{first}}} + 0": {labelled(OWN): 0.87},
        f"{names.REC_GPU_XID_ERRORS}{{{first}}} + 0": {labelled(OWN): 2},
        f"{names.REC_GPU_THROTTLED}{{{first}}} + 0": {labelled({**OWN, "reason": "thermal"}): 1},
    }
    passed, said = promtool(tmp_path, series, expected)
    assert passed, said


@pytest.mark.real
def test_mig_slices_under_one_uuid_are_one_gpu(tmp_path):
    """Memory is added up; power, which each repeats, is not; the busiest slice counts."""
    expected: dict[str, dict[str, float]] = {
        f"{names.REC_GPU_MEMORY_USED} + 0": {labelled(OWN): 37_200 * 2**20},
        f"{names.REC_GPU_MEMORY_TOTAL} + 0": {labelled(OWN): 80_896 * 2**20},
        f"{names.REC_GPU_POWER} + 0": {labelled(OWN): 412.5},
        f"{names.REC_GPU_ENERGY} + 0": {labelled(OWN): 139_680.123},
        f"{names.REC_GPU_UTILIZATION} + 0": {labelled(OWN): 0.5},
    }
    passed, said = promtool(tmp_path, exposition_series("dcgm-mig"), expected)
    assert passed, said


@pytest.mark.real
def test_no_xid_is_told_as_none_where_the_exporter_listens(tmp_path):
    """nvidia_gpu_exporter shows a series with the first error: before it there were none, or nobody listened."""
    quiet = [one for one in exposition_series("nvidia_smi") if "_xid_" not in one["series"]]
    deaf = [one for one in quiet if "nvml_return_code" not in one["series"]]
    counted = f'{names.REC_GPU_XID_ERRORS}{{uuid="{OWN["uuid"]}"}} + 0'
    for folder, series, expected in (("quiet", quiet, {labelled(OWN): 0.0}), ("deaf", deaf, {})):
        (tmp_path / folder).mkdir()
        passed, said = promtool(tmp_path / folder, series, {counted: expected})
        assert passed, said


BROKEN = [
    ("dcgm", names.REC_GPU_UTILIZATION, "/ 100", "/ 1"),
    ("dcgm", names.REC_GPU_MEMORY_USED, "* 1048576", "* 1000000"),
    ("dcgm", names.REC_GPU_MEMORY_TOTAL, " + (DCGM_FI_DEV_FB_FREE", " - (DCGM_FI_DEV_FB_FREE"),
    ("dcgm", names.REC_GPU_ENERGY, "/ 1000,", "/ 1000000,"),
    ("amd", names.REC_GPU_ENERGY, "/ 1000000", "/ 1000"),
    ("amd", names.REC_GPU_SM_CLOCK, 'clock_type="GPU_CLOCK_TYPE_SYSTEM"', 'clock_type="GPU_CLOCK_TYPE_VIDEO"'),
    ("amd", names.REC_GPU_POWER, '"uuid", "$1", "gpu_uuid", "(.+)"', '"uuid", "$1", "serial_number", "(.+)"'),
    ("nvidia_smi", names.REC_GPU_POWER, "GPU-$1", "$1"),
    ("nvidia_smi", names.REC_GPU_POWER, '"device", "$1", "index"', '"device", "$1", "name"'),
    ("xpum", names.REC_GPU_POWER, 'sub_dev="", card=""', 'sub_dev!=""'),
    ("xpum", names.REC_GPU_TEMPERATURE, 'location="gpu"', 'location="mem"'),
]


@pytest.mark.real
@pytest.mark.parametrize(("kind", "record", "part", "replacement"), BROKEN)
def test_a_rule_that_misreads_an_exporter_is_noticed(tmp_path, kind, record, part, replacement):
    """A wrong factor, label or matcher changes what the fixture gives."""
    (rule,) = [rule for rule in RULES.recordings if rule.record == record]
    assert part in rule.expr
    broken = to_yaml(
        {"groups": [{"name": "g", "rules": [{"record": record, "expr": rule.expr.replace(part, replacement)}]}]}
    )
    expected = {of_first(record, kind): {labelled(DEVICE[kind]): TRUE[record]}}
    passed, said = promtool(tmp_path, exposition_series(kind), expected, broken)
    assert not passed
    assert "parse error" not in said


def test_every_selector_leaves_sentinels_out():
    """No value is recorded without a ceiling, and none below 0."""
    for rule in RULES.recordings:
        selectors = len(re.findall(r"\{job=|\bfarthing_gpu_\w+", rule.expr))
        believed = rule.expr.count(">= 0 <")
        beside = len(re.findall(r"rate\(|nvidia_smi_gpu_info|nvml_return_code|xid_last_timestamp", rule.expr))
        assert believed + beside >= selectors, rule.record


def test_a_flag_told_in_percent_is_believed_up_to_100_percent():
    """65535 of a residency is AMD's "unknown", and no heat that takes the clock."""
    ceilings = re.findall(r"gpu_violation_\w+\{[^}]*\} >= 0 < ([0-9.e+]+)\)", RULES_TEXT)
    assert ceilings
    assert {float(ceiling) for ceiling in ceilings} == {101.0}


def test_every_source_is_asked_in_the_order_of_preference():
    """Farthing's own first: it has what exporters of the same driver have, and leaves out what is stuck."""
    for rule in RULES.recordings:
        told = ("farthing_gpu_", "DCGM_", "gpu_id", "nvidia_smi_", "xpum_")
        places = [rule.expr.find(name) for name in told if name in rule.expr]
        assert places == sorted(places), rule.record
        assert rule.expr.startswith(f"max by ({', '.join(GPU_DEVICE)}") or rule.expr.startswith("sum by"), rule.record


def test_every_record_is_of_a_quantity_and_in_its_unit():
    """gpu:QUANTITY:UNIT; the catalogues' quantities that have no record are Farthing's own reading's alone."""
    for record, quantity in GPU_SCALARS.items():
        unit = record.rpartition(":")[2]
        assert unit in {QUANTITIES[quantity].unit, "total", "last"}, record
    recorded = {*GPU_SCALARS.values(), *(name for ways in GPU_BOTH_WAYS.values() for name in ways)}
    unrecorded = {name for name in set(QUANTITIES) - recorded if not name.startswith(THROTTLE)}
    assert unrecorded == {"sm_active", "tensor_active", "dram_active", "max_sm_clock", "remapped_rows_pending"}


def test_every_metric_that_a_rule_reads_is_one_of_a_catalogue():
    """So that what docs and catalogues say of evidence covers every name."""
    catalogued = {
        prefix + metric for one in load_exporters() for prefix in one.prefixes for metric in one.metric_names()
    }
    for rule in RULES.recordings:
        named = set(re.findall(r"\b((?:DCGM|nvidia_smi|xpum|farthing_gpu|gpu|amd_gpu)_\w+)(?=[{ )\[])", rule.expr))
        assert named <= catalogued | {names.LABEL_GPU_MODEL}, named - catalogued
