"""Every query of a dashboard is PromQL over series that exist, and returns data from a real Prometheus."""

import math
import subprocess
from typing import Any

import pytest
import yaml
from tests.alerts.known_metrics import captures, farthing_exposition, known_labels, problems
from tests.alerts.live_prometheus import ENGINES, prometheus
from tests.alerts.real_parts import program, wait_for
from tests.dashboards.panels import expressions, filled, variable_queries

from farthing.domain.conventions import LABEL_CLUSTER, METRIC_SPEND_RATE


@pytest.fixture(scope="module")
def known():
    return as_collected(known_labels(captures(), farthing_exposition()))


def as_collected(known):
    """With the external label that a fleet's collector finds on every series, and the alerts that Prometheus keeps."""
    alerts = {"ALERTS": {"alertname", "alertstate", "severity", "model", "instance", "engine"}}
    return {name: labels | {LABEL_CLUSTER} for name, labels in (known | alerts).items()}


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


def finite(samples: list[dict[str, Any]]) -> list[float]:
    """The values that a panel can draw."""
    return [value for sample in samples if math.isfinite(value := float(sample["value"][1]))]


@pytest.mark.real
def test_every_panel_returns_data_from_a_real_prometheus(tmp_path):
    """Recorded engines and Farthing's exporter are scraped; the chosen model rules other models' engines out."""
    with prometheus(tmp_path) as server:

        def empty() -> list[str]:
            return [title for title, expr in expressions() if not finite(server.query(filled(expr)))]

        wait_for(lambda: not empty(), 60, "every panel has data")
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
