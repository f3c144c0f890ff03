"""Every query of a dashboard is PromQL over series that exist, and returns data from a real Prometheus."""

import math
import re
import subprocess
from typing import Any

import pytest
import yaml
from tests.alerts.known_metrics import captures, farthing_exposition, known_labels, problems
from tests.alerts.live_prometheus import ENGINES, prometheus
from tests.alerts.real_parts import program, wait_for
from tests.dashboards.panels import expressions, filled, variable_queries

from farthing.domain import conventions as names
from farthing.domain.conventions import LABEL_CLUSTER, METRIC_SPEND_RATE

NOT_WITHIN_A_MINUTE = {
    "ALERTS": "no alert of the engines recorded here has reason to fire",
    "offset": "the period before the time range is as long again",
    **dict.fromkeys(
        (names.PROBE_ON, names.PROBE_SENT, names.PROBE_WAITING, names.PROBE_SPOOLED, names.PROBE_DROPPED),
        "the probe is in none of the engines recorded here",
    ),
    **dict.fromkeys(
        (names.PROBE_REFUSED, names.PROBE_FAILURES, names.PROBE_ERRORS),
        "the probe is in none of the engines recorded here",
    ),
    **dict.fromkeys((names.REC_MFU, names.REC_MBU), "the engines recorded here ran on processors, which have no peak"),
    **dict.fromkeys(
        (
            *(names.REC_EXTERNAL_QUERY_RATE, names.REC_KV_STORED_RATE, names.REC_KV_LOADED_RATE),
            *(names.REC_KV_TRANSFERRED_RATE, names.REC_KV_TRANSFER_FAILED_RATE),
        ),
        "no engine recorded here has a KV connector",
    ),
    names.REC_RESETS: "no engine recorded here began anew",
    names.REC_SLO_BURN_30M: "adds up rates a minute apart",
    names.REC_SLO_BURN_1H: "adds up rates a minute apart",
    names.REC_SLO_BURN_6H: "adds up rates five minutes apart",
    names.REC_SLO_BUDGET_LEFT: "evaluated every five minutes",
    names.REC_SLO_ERROR_WINDOW: "evaluated every five minutes",
    names.REC_SLO_BURN_2H: "evaluated every five minutes",
    names.REC_SLO_BURN_1D: "evaluated every five minutes",
    names.REC_SLO_BURN_3D: "evaluated every five minutes",
}
"""Series of which a Prometheus that was just started has none yet; test_panels_have_data.py asks for six hours."""


@pytest.fixture(scope="module")
def known():
    return as_collected(known_labels(captures(), farthing_exposition()))


def as_collected(known):
    """With the external label that a fleet's collector finds on every series, and the alerts that Prometheus keeps."""
    of_alerts = {"alertname", "alertstate", "severity", "model", "instance", "engine", "slo", "tier", "component"}
    return {name: labels | {LABEL_CLUSTER} for name, labels in (known | {"ALERTS": of_alerts}).items()}


@pytest.mark.parametrize(("title", "expr"), expressions())
def test_every_series_and_label_exists(known, title, expr):
    """Otherwise the panel is empty for ever."""
    assert problems(filled(expr), known) == []


@pytest.mark.parametrize(("name", "selector", "label"), variable_queries())
def test_every_variable_lists_a_label_that_exists(known, name, selector, label):
    """Otherwise there is nothing to choose."""
    assert problems(f"group by ({label}) ({filled(selector)})", known) == []


def test_a_renamed_metric_of_farthing_is_noticed():
    """The walk can fail."""
    text = farthing_exposition().replace(METRIC_SPEND_RATE, "farthing_hourly_usd")
    known = as_collected(known_labels(captures(), text))
    assert any(f"no series {METRIC_SPEND_RATE}" in problems(filled(expr), known) for _, expr in expressions())


@pytest.mark.real
def test_promtool_finds_the_queries_sound(tmp_path):
    """Each one stands in for a recording rule, whose expression promtool parses and type-checks."""
    rules = [
        {"record": f"panel:query_{index}:x", "expr": filled(expr)} for index, (_, expr) in enumerate(expressions())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def words(expr: str) -> list[str]:
    """Whatever could be the name of a series."""
    return re.findall(r"[a-zA-Z_:][\w:]*", expr)


def test_what_is_not_asked_for_within_a_minute_is_asked_for_at_all():
    """The list of what is left out must not outlive the panels."""
    asked = {word for _, expr in expressions() for word in words(expr)}
    assert set(NOT_WITHIN_A_MINUTE) <= asked


def finite(samples: list[dict[str, Any]]) -> list[float]:
    """The values that a panel can draw."""
    return [value for sample in samples if math.isfinite(value := float(sample["value"][1]))]


@pytest.mark.real
def test_every_panel_returns_data_from_a_real_prometheus(tmp_path):
    """Recorded engines and Farthing's exporter are scraped; the chosen model rules other models' engines out."""
    with prometheus(tmp_path) as server:
        asked = [(title, expr) for title, expr in expressions() if not set(words(expr)) & set(NOT_WITHIN_A_MINUTE)]

        def empty() -> list[str]:
            return [title for title, expr in asked if not finite(server.query(filled(expr)))]

        wait_for(lambda: not empty(), 240, "every panel has data")
        assert empty() == []
        choices = {
            name: server.query(f"group by ({label}) ({filled(selector)})")
            for name, selector, label in variable_queries()
        }
        assert {sample["metric"]["model"] for sample in choices["model"]} == {"tiny"}
        assert {sample["metric"]["instance"] for sample in choices["instance"]} == set(ENGINES)
        spend = next(expr for title, expr in expressions() if title == "Spend per hour A")
        (sample,) = server.query(filled(spend))
        assert float(sample["value"][1]) == 2.49
        assert server.query(filled(spend, model="tiny")) == []
        assert server.query(filled(spend, model="meta-llama/.*")) != []
        assert server.query(filled(spend, instance="another")) == []
