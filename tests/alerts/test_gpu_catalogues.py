"""Catalogues of GPU sources are whole, agree with their fixtures both ways, and docs/gpus.md says what they say."""

import re
from pathlib import Path

import pytest
from tests.alerts.gpu_expositions import FIXTURES, KINDS

from farthing.alerts.gpu_hardware import gpu_hardware
from farthing.alerts.gpu_signals import GPU_BOTH_WAYS, GPU_SCALARS
from farthing.domain import conventions as names
from farthing.domain.errors import ConfigError
from farthing.domain.gpu import THROTTLE_REASONS
from farthing.settings import Settings
from farthing.settings_gpu import ExporterSettings
from farthing.vocabulary.gpus import (
    QUANTITIES,
    THROTTLE,
    UNITS,
    XID_APPLICATION,
    XID_HARDWARE,
    ExporterCatalogue,
)
from farthing.vocabulary.loading import EXPORTERS, load_exporter, load_exporters, parse_exporter

ROOT = Path(__file__).parents[2]
FILES = ROOT / "core" / "farthing" / "vocabulary" / "gpus"
PAGE = (ROOT / "docs" / "gpus.md").read_text()


def fixture_metrics(kind: str) -> set[str]:
    """The sample names in all of the kind's fixtures."""
    texts = [path.read_text() for path in FIXTURES.glob(f"{kind}*.txt")]
    return {found for text in texts for found in re.findall(r"^(\w+)(?=[{ ])", text, re.MULTILINE)}


def test_every_file_of_a_source_is_loaded():
    """A file that EXPORTERS does not name would feed nothing."""
    assert {path.stem for path in FILES.glob("*.yaml")} == set(EXPORTERS)
    assert [catalogue.exporter for catalogue in load_exporters()] == list(EXPORTERS)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_may_name_every_exporter(kind):
    """Farthing's own metrics are found out."""
    assert ExporterSettings.model_validate({"url": "http://gpu-host:9400/metrics", "kind": kind}).kind == kind
    assert set(KINDS) == set(EXPORTERS) - {"farthing"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_a_fixture_is_read(kind):
    """A fixture with a name that no catalogue has would show nothing."""
    assert fixture_metrics(kind) <= set(load_exporter(kind).metric_names())


@pytest.mark.parametrize("kind", KINDS)
def test_every_quantity_that_a_catalogue_tells_is_in_a_fixture(kind):
    """By one of its sources, so that its unit is held to the truth; only throughputs of DCGM's NVLinks are not."""
    shown = fixture_metrics(kind)
    unshown = {
        quantity
        for quantity, tellings in load_exporter(kind).quantities.items()
        if not any({telling.metric, *telling.plus} <= shown for telling in tellings)
    }
    assert unshown == ({"nvlink_tx", "nvlink_rx"} if kind == "dcgm" else set())


@pytest.mark.parametrize("catalogue", load_exporters(), ids=EXPORTERS)
def test_every_quantity_is_told_or_lacking_for_a_reason(catalogue):
    """An absent series then has a reason that a reader finds."""
    assert set(catalogue.quantities) | set(catalogue.lacking) == set(QUANTITIES)
    assert all(catalogue.lacking.values())


def test_no_sentinel_is_below_a_ceiling_and_no_device_beyond_it():
    """In base units. 32-bit blanks are told from values where no value comes near."""
    ceilings = {name: quantity.ceiling for name, quantity in QUANTITIES.items()}
    for kind, blank in (("dcgm", 9_223_372_036_854_775_792), ("amd", 18_446_744_073_709_551_615)):
        for name, tellings in load_exporter(kind).quantities.items():
            for telling in tellings:
                factor = float(UNITS[telling.unit][1])
                if UNITS[telling.unit][0] == QUANTITIES[name].unit:
                    assert blank * factor >= ceilings[name], (kind, name)
    for name in ("power", "sm_clock", "memory_clock", "temperature", "memory_temperature", "utilization"):
        (telling, *_) = load_exporter("amd").quantities[name]
        assert 65_535 * float(UNITS[telling.unit][1]) >= ceilings[name], name
    # a rack of eight B200s draws less than one ceiling; ten years at 1.4 kW are 0.4 TJ
    assert ceilings["power"] >= 8 * 1_200
    assert ceilings["energy"] > 1_400 * 86_400 * 3_650
    assert ceilings["memory_used"] > 2**40


def test_hardware_and_application_errors_are_told_apart():
    """And the alert of the hardware knows every code of the list."""
    assert not set(XID_HARDWARE) & set(XID_APPLICATION)
    (alert,) = [one for one in gpu_hardware(Settings()).alerts if one.name == "LLMGPUXid"]
    named = set(re.findall(rf"{names.REC_GPU_LAST_XID} == (\d+)", alert.expr))
    assert named == {str(code) for code in XID_HARDWARE}
    runbook = (ROOT / "alerts" / "runbooks" / "LLMGPUXid.md").read_text()
    (table,) = re.findall(r"\| XID \| what \|\n\|---\|---\|\n((?:\|.*\n)+)", runbook)
    assert set(re.findall(r"\d+", " ".join(row.split("|")[1] for row in table.splitlines()))) == named


BROKEN = [
    ("lacking:\n", "lacking:\n  power: not told\n", "power is both told and lacking"),
    ("  sm_active:\n", "  memory_clock_:\n", "memory_clock_ is no quantity"),
    ('DCGM_FI_DEV_POWER_USAGE", unit: watts', 'DCGM_FI_DEV_POWER_USAGE", unit: celsius', "power: .* is in celsius"),
    ("told_by:", "toldby:", "told_by: Field required|toldby: unknown key"),
    ("bits: [16]", "bits: [0]", "greater than 0"),
]


@pytest.mark.parametrize(("part", "replacement", "message"), BROKEN)
def test_a_catalogue_that_contradicts_itself_is_refused(part, replacement, message):
    """In one line that names the file and the problem."""
    text = (FILES / "dcgm.yaml").read_text()
    assert part in text
    with pytest.raises(ConfigError, match=message) as caught:
        parse_exporter(text.replace(part, replacement), "dcgm.yaml")
    assert str(caught.value).startswith("dcgm.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_quantity_of_which_nothing_is_said_is_refused():
    """Whoever adds one says of each exporter whether it tells it."""
    text = (FILES / "dcgm.yaml").read_text()
    with pytest.raises(ConfigError, match="xid_count is neither told nor lacking"):
        parse_exporter(text.partition("lacking:")[0], "dcgm.yaml")


# ---- the page ------------------------------------------------------------------------------------------


def told(catalogue: ExporterCatalogue, quantity: str) -> str:
    """What the page says of a source's quantity."""
    if quantity in catalogue.lacking:
        return "–"
    first, *_ = catalogue.quantities[quantity]
    seen = "yes" if catalogue.evidence_of(first) == "captured" else "source"
    return seen + ("≈" if first.proxy else "")


def test_the_page_says_what_the_catalogues_say():
    """Every series of every source, and every proxy in its own words."""
    catalogues = load_exporters()
    rows = {f"`{record}`": [told(one, quantity) for one in catalogues] for record, quantity in GPU_SCALARS.items()}
    for reason in THROTTLE_REASONS:
        label = f'`{names.REC_GPU_THROTTLED}{{reason="{reason}"}}`'
        rows[label] = [told(one, THROTTLE + reason) for one in catalogues]
    for record, (one_way, other_way) in GPU_BOTH_WAYS.items():
        rows[f"`{record}`"] = [told(one, one_way if one_way in one.quantities else other_way) for one in catalogues]
    assert "| series | " + " | ".join(f"`{one.exporter}`" for one in catalogues) + " |\n" in PAGE
    for series, cells in rows.items():
        assert f"| {series} | " + " | ".join(cells) + " |\n" in PAGE
    for catalogue in catalogues:
        assert f"| `{catalogue.exporter}`: {catalogue.title} | {catalogue.versions} | " in PAGE
        for quantity, tellings in catalogue.quantities.items():
            for telling in tellings:
                row = f"| `{catalogue.exporter}` | `{quantity}` | `{telling.metric}` | {telling.proxy} |\n"
                assert not telling.proxy or row in PAGE


def test_the_page_names_every_hardware_alert_and_the_job():
    """With the codes that the first goes by."""
    for alert in gpu_hardware(Settings()).alerts:
        assert f"| [{alert.name}](../alerts/runbooks/{alert.name}.md) | " in PAGE
    assert ", ".join(str(code) for code in sorted(XID_HARDWARE)) in PAGE
    assert f"  - job_name: {names.JOB_GPUS}\n" in PAGE
