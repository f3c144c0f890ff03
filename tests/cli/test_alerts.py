"""`farthing alerts` names every alert, and says in one line why one cannot be tried out."""

import csv
import io
import json

import pytest
from tests.alerts.real_parts import free_port
from tests.cli.commands import farthing, one_line

from farthing.alerts.render import alert_rules
from farthing.settings import Settings


def test_every_alert_is_listed_with_its_threshold_of_the_settings(tmp_path):
    """As JSON, CSV and a table."""
    (tmp_path / "farthing.yaml").write_text("alerts:\n  ttft_p95_seconds: 2\n")
    rows = json.loads(farthing("alerts", "list", "-o", "json", cwd=tmp_path).out)["rows"]
    assert [row["alert"] for row in rows] == [rule.name for rule in alert_rules(Settings())]
    (slow,) = [row for row in rows if row["alert"] == "LLMTimeToFirstTokenHigh"]
    assert slow == {
        "alert": "LLMTimeToFirstTokenHigh",
        "severity": "warning",
        "owner": "llm-serving",
        "threshold": "> 2",
        "for": 15,
        "runbook": "https://github.com/farthing/farthing/blob/main/alerts/runbooks/LLMTimeToFirstTokenHigh.md",
    }
    listed = list(csv.DictReader(io.StringIO(farthing("alerts", "list", "-o", "csv", cwd=tmp_path).out)))
    assert [row["alert"] for row in listed] == [row["alert"] for row in rows]
    table = farthing("alerts", "list", cwd=tmp_path)
    assert table.code == 0
    assert all(row["alert"] in table.out for row in rows)


@pytest.mark.parametrize(
    ("settings", "level", "detail"),
    [
        ("", "degraded", "nobody is told of alerts"),
        (
            "notify:\n  receivers: [{name: a, slack: {api_url_file: ./slack, channel: c}}]\n",
            "degraded",
            "read here: slack",
        ),
        ("alerts: {webhook_url: 'http://x'}\n", "degraded", "nobody notices when alerts stop"),
        (
            "notify:\n  dead_mans_switch: {url: 'http://x'}\n"
            "  receivers: [{name: a, pagerduty: {routing_key_file: ./key}}]\n",
            "ok",
            "receivers: a",
        ),
    ],
)
def test_check_tells_whether_anybody_would_be_told(tmp_path, settings, level, detail):
    """A missing secret shows only when the first alert is sent, and then nobody sees it."""
    (tmp_path / "key").write_text("hush\n")
    (tmp_path / "farthing.yaml").write_text(f"serve: {{port: {free_port()}}}\n{settings}")
    ran = farthing("check", "-o", "json", cwd=tmp_path)
    (found,) = [finding for finding in json.loads(ran.out) if finding["subject"] == "notifications"]
    assert found["level"] == level
    assert detail in found["detail"]
    assert "hush" not in ran.out


def test_an_unknown_alert_is_named_with_its_neighbours(tmp_path):
    """A typing error is mended by copying."""
    ran = farthing("alerts", "test", "LLMTimeToFirstTokenHi", cwd=tmp_path)
    said = one_line(ran, 1)
    assert said.startswith("there is no alert 'LLMTimeToFirstTokenHi'; did you mean LLMTimeToFirstTokenHigh")


def test_an_alertmanager_that_is_away_is_named_with_the_reason(tmp_path):
    """And with what starts one."""
    ran = farthing("alerts", "test", "FarthingWatchdog", "--alertmanager", "http://127.0.0.1:9", cwd=tmp_path)
    said = one_line(ran, 10)
    assert said.startswith("http://127.0.0.1:9: Alertmanager does not answer (")
    assert "farthing up" in said
