"""Service levels in real parts: promtool proves each kind of promise, Prometheus agrees with the clients' timings."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.live_prometheus import started
from tests.alerts.one_case import only
from tests.alerts.real_parts import program
from tests.exporters.snapshots import empty_snapshot
from tests.service.books import raw_records

from farthing.alerts.documents import to_yaml
from farthing.alerts.slo import BURNING_FAST, slo, slo_budget
from farthing.alerts.slo_events import all_requests, good_requests
from farthing.collectors.wire import decode_line
from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.domain.model import Snapshot
from farthing.domain.records import Usage
from farthing.exporters.prometheus import SnapshotCollector, exposition
from farthing.replay.recording import Recording, load_recording
from farthing.service.latency import Latencies
from farthing.settings import Settings
from farthing.settings_slo import SloSettings

pytestmark = pytest.mark.real

CASES = Path(__file__).parents[1] / "promtool"
STEP_NS = 5 * SECOND
FIRST_TOKEN = SloSettings(name="first-token", signal="ttft", bound_seconds=0.31)
TOTAL = SloSettings(name="total", signal="e2e", bound_seconds=2.2)
ANSWERS = SloSettings(name="answers", signal="availability")


def write_rules(folder: Path, chosen: Settings) -> list[str]:
    """The paths of the rules of some settings."""
    paths = []
    for group in (slo(chosen), slo_budget(chosen)):
        path = folder / f"{group.name}.yml"
        path.write_text(to_yaml({"groups": [group.document()]}))
        paths.append(path.name)
    return paths


def promtool(cases: Path) -> tuple[bool, str]:
    """Whether the cases hold, and all that promtool said."""
    done = subprocess.run([program("promtool"), "test", "rules", cases], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def judge(folder: Path, chosen: Settings, series: Mapping[str, str], *, at: str, **expected: Any) -> tuple[bool, str]:
    """promtool on one test of these settings' rules: ``series`` every minute, ``expected`` at a moment."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": f"round({expr} * 1000000) / 1000000", "eval_time": at, "exp_samples": samples}
            for expr, samples in expected.get("samples", {}).items()
        ],
        "alert_rule_test": [
            {"eval_time": at, "alertname": BURNING_FAST, "exp_alerts": alerts} for alerts in expected.get("alerts", ())
        ],
    }
    cases = folder / "cases.yml"
    rules = write_rules(folder, chosen)
    cases.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": [test]}))
    return promtool(cases)


def one_slo(**fields: Any) -> Settings:
    """Settings with this promise only."""
    return Settings.model_validate({"slos": [{"name": "a", **fields}], "slo_defaults": False})


def sample(metric_labels: str, value: float) -> dict[str, Any]:
    return {"labels": f"{{{metric_labels}}}", "value": value}


def test_a_total_failure_pages_whatever_was_promised(tmp_path):
    """At 50 % the budget burns twice as fast as it may when every request fails: 14.4 times would never come."""
    chosen = one_slo(signal="availability", objective="0.5")
    series = {'farthing_requests_total{model="m",tier="t",outcome="failed_before_first_token"}': "0+50x30"}
    series['farthing_requests_total{model="m",tier="t",outcome="finished"}'] = "0x30"
    passed, said = judge(tmp_path, chosen, series, at="20m", alerts=[[]])
    assert not passed
    assert f'alertname="{BURNING_FAST}"' in said
    assert "burns its error budget 2.0 times too fast" in said


def test_a_tenants_ratio_comes_from_its_own_requests(tmp_path):
    """Nobody else's, and with the tenant's label."""
    chosen = one_slo(signal="e2e", bound_seconds=4, tenant="acme")
    series = {
        'farthing_slo_requests_total{slo="a",model="m",result="good"}': "0+30x30",
        'farthing_slo_requests_total{slo="a",model="m",result="bad"}': "0+10x30",
        'farthing_slo_requests_total{slo="b",model="m",result="bad"}': "0+1000x30",
    }
    found = {names.REC_SLO_ERROR_30M: [sample('slo="a",tenant="acme",model="m"', 0.25)]}
    passed, said = judge(tmp_path, chosen, series, at="20m", samples=found)
    assert passed, said


def test_an_engines_buckets_count_where_no_probe_reports(tmp_path):
    """With what it failed and refused, whichever way it writes the bound; a probed model's are left alone."""
    chosen = one_slo(signal="ttft", bound_seconds=1, source="engine")
    bucket = names.REC_TTFT_BUCKET
    series = {
        f'{bucket}{{model="m",le="1.0"}}': "6x30",
        f'{bucket}{{model="m",le="+Inf"}}': "7x30",
        f'{names.REC_FAILED_RATE}{{instance="i",model="m"}}': "2x30",
        f'{names.REC_REJECTED_RATE}{{instance="i",model="m"}}': "3x30",
        f'{bucket}{{model="plain",le="1"}}': "3x30",
        f'{bucket}{{model="plain",le="+Inf"}}': "4x30",
        f'{bucket}{{model="probed",le="1.0"}}': "1x30",
        f'{bucket}{{model="probed",le="+Inf"}}': "4x30",
        'farthing_requests_total{model="probed",tier="t",outcome="finished"}': "0+4x30",
    }
    found = {
        names.REC_SLO_ERROR_5M: [sample('slo="a",model="m"', 0.5), sample('slo="a",model="plain"', 0.25)],
        names.REC_SLO_BUDGET_LEFT: [
            sample('slo="a",model="m",window="30d"', -9),
            sample('slo="a",model="plain",window="30d"', -4),
        ],
    }
    passed, said = judge(tmp_path, chosen, series, at="20m", samples=found)
    assert passed, said


@pytest.mark.parametrize(
    ("case", "part", "replacement"),
    [
        ("a few requests", ">= 10", ">= 0"),  # no floor
        (
            "slow and refused",
            ' or rate(farthing_requests_total{tier="interactive"',
            ' or rate(farthing_requests_total{tier="x"',
        ),
        (
            "a page ends minutes after",
            "ratio5m > on (slo) group_left",
            "ratio1h > on (slo) group_left",
        ),  # pages on when it is over
        ("trouble that is over pages", "ratio30m > on (slo) group_left", "ratio6h > on (slo) group_left"),
        ("trouble that is over is no ticket", "ratio2h > on (slo) group_left", "ratio1d > on (slo) group_left"),
        ("five times", "vector(6)", "vector(4)"),
        ("seven times", "vector(6)", "vector(8)"),
        ("a budget that lasts", "vector(1)", "vector(0.5)"),
        ("requests that are wrong", '|rejected"', '|rejected|invalid"'),
        ("slow and refused", "for: 120s", "for: 0s"),
        ("four times", "for: 900s", "for: 0s"),
        ("seven times", "vector(0.05)", "vector(0.5)"),
    ],
)
def test_the_cases_notice_a_broken_rule(tmp_path, case, part, replacement):
    """Cases that cannot fail prove nothing: it is the named one that does."""
    generated, cases = tmp_path / "alerts" / "generated", tmp_path / "tests" / "promtool"
    generated.mkdir(parents=True)
    cases.mkdir(parents=True)
    write_rules(generated, Settings())
    (text,) = (text for path in CASES.glob("SLO*.yml") if f"- name: {case}" in (text := path.read_text()))
    (cases / "case.yml").write_text(only(case, text))
    passed, said = promtool(cases / "case.yml")
    assert passed, said
    texts = {path: path.read_text() for path in generated.iterdir()}
    assert any(part in text for text in texts.values())
    for path, text in texts.items():
        path.write_text(text.replace(part, replacement))
    assert not promtool(cases / "case.yml")[0]


# ---- against what the clients timed --------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording():
    """2,464 requests to an H100, timed by their clients."""
    return load_recording("h100-llama8b-vllm0.26")


def expositions(recording: Recording) -> Iterator[tuple[int, str]]:
    """(UTC nanoseconds, text): what Farthing's exporter says every five seconds while the recording passes."""
    records = [decode_line(raw.line) for raw in raw_records(recording)]
    usages = sorted((r for r in records if isinstance(r, Usage)), key=lambda usage: usage.ended_ns)
    latencies = Latencies((FIRST_TOKEN, TOTAL))
    registry = CollectorRegistry()
    shown: list[Snapshot] = []
    registry.register(SnapshotCollector(lambda: shown[-1] if shown else empty_snapshot()))
    latencies._begin(usages[0].model, usages[0].tier)
    at = recording.anchor.to_wall(usages[0].arrived_ns) // STEP_NS * STEP_NS
    while True:
        while usages and recording.anchor.to_wall(usages[0].ended_ns) <= at:
            latencies.observe(usages.pop(0), recording.anchor)
        requests, views = latencies.requests(), latencies.views()
        nothing = empty_snapshot()
        shown.append(Snapshot(at, "USD", "0", (), (), views, nothing.intake, None, requests))
        yield at, exposition(registry, "")[0].decode()
        if not usages:
            return
        at += STEP_NS


def openmetrics(recording: Recording) -> tuple[str, int]:
    """All samples with their times, and the time of the last in seconds."""
    lines, last = [], 0
    for at, text in expositions(recording):
        last = at // SECOND
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
                lines.append(f"{one.name}{{{labels}}} {one.value} {last}")
    return "\n".join([*lines, "# EOF", ""]), last


def test_prometheus_agrees_with_the_clients_own_timings(recording, tmp_path):
    """Good, all and p95 as queried from what Farthing exports, against the load generator's own notes."""
    text, last = openmetrics(recording)
    (tmp_path / "samples.txt").write_text(text)
    (tmp_path / "prometheus.yml").write_text("{}\n")
    blocks = [
        program("promtool"),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        tmp_path / "samples.txt",
        tmp_path / "data",
    ]
    made = subprocess.run(blocks, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    with started(tmp_path, "--storage.tsdb.retention.time=10y") as server:

        def value(expr: str) -> float:
            (found,) = server.get("query", query=expr, time=str(last))["result"]
            return float(found["value"][1])

        ratios = {
            one.name: value(f"{good_requests(one)} / {all_requests(one)}") for one in (FIRST_TOKEN, TOTAL, ANSWERS)
        }
        p95 = value(f"histogram_quantile(0.95, sum by (le) (rate({names.METRIC_TTFT}_bucket[5m])))")
    rows = recording.requests
    first = sorted(float(row["first"] - row["t0"]) for row in rows if row["first"] is not None)
    total = [float(row["end"] - row["t0"]) for row in rows if not row["err"]]
    lost = sum(row["first"] is None for row in rows if row["err"])
    failed = sum(row["err"] not in {None, "aborted"} for row in rows if row["first"] is not None)
    assert ratios["first-token"] == pytest.approx(sum(s <= 0.31 for s in first) / (len(first) + lost), abs=1e-9)
    assert ratios["total"] == pytest.approx(sum(s <= 2.2 for s in total) / (len(total) + lost + failed), abs=1e-9)
    assert ratios["answers"] == pytest.approx(1 - (lost + failed) / len(rows), abs=1e-9)
    assert all(0.3 < ratio < 1 for ratio in ratios.values())
    timed = first[int(0.95 * len(first))]
    below = max(bound for bound in (0, *Latencies((FIRST_TOKEN,)).bounds(names.METRIC_TTFT)) if bound < timed)
    above = min(bound for bound in Latencies((FIRST_TOKEN,)).bounds(names.METRIC_TTFT) if bound >= timed)
    assert below <= p95 <= above
