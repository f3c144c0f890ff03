"""Alertmanager's configuration loads in the real one, and mutes what it should and nothing else."""

import json
import subprocess
import urllib.request
from typing import Any

import pytest
import yaml
from tests.alerts.real_parts import free_port, program, running, wait_for

from farthing.alerts.alertmanager import render_alertmanager
from farthing.settings import Settings

WEBHOOK = Settings.model_validate({"alerts": {"webhook_url": "http://127.0.0.1:9/hook?room=gpu"}})


def test_a_webhook_is_told_when_there_is_one():
    """With resolution, so that whoever was told learns that it is over."""
    config = yaml.safe_load(render_alertmanager(WEBHOOK))
    assert config["route"]["receiver"] == "webhook"
    (receiver,) = config["receivers"]
    assert receiver["webhook_configs"] == [{"url": "http://127.0.0.1:9/hook?room=gpu", "send_resolved": True}]


def test_nobody_is_told_when_there_is_none():
    """The receiver exists, as Alertmanager demands, and sends nothing."""
    config = yaml.safe_load(render_alertmanager(Settings()))
    assert config["receivers"] == [{"name": config["route"]["receiver"]}]


def test_alerts_are_grouped_by_name_and_model():
    """One message for one trouble of one model, however many instances it has."""
    assert yaml.safe_load(render_alertmanager(Settings()))["route"]["group_by"] == ["alertname", "model"]


@pytest.mark.real
@pytest.mark.parametrize("settings", [Settings(), WEBHOOK], ids=["no webhook", "webhook"])
def test_amtool_accepts_the_configuration(tmp_path, settings):
    """The oldest Alertmanager that we support checks it."""
    file = tmp_path / "alertmanager.yml"
    file.write_text(render_alertmanager(settings))
    done = subprocess.run([program("amtool"), "check-config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.real
def test_a_silent_target_mutes_warnings_about_itself_only(tmp_path):
    """A real Alertmanager is asked which of these alerts it holds back."""
    alerts = [
        {"alertname": "FarthingTargetDown", "severity": "critical", "job": "llm-engines", "instance": "a"},
        {"alertname": "QueueLong", "severity": "warning", "instance": "a", "model": "m"},
        {"alertname": "QueueLong", "severity": "warning", "instance": "b", "model": "m"},
        {"alertname": "LLMTimeToFirstTokenHigh", "severity": "warning", "model": "m"},
        {"alertname": "BudgetSpent", "severity": "critical", "model": "m"},
        {"alertname": "BudgetSpent", "severity": "warning", "model": "m"},
        {"alertname": "BudgetSpent", "severity": "warning", "model": "other"},
        {"alertname": "EngineStalled", "severity": "critical", "instance": "a"},
    ]
    config = tmp_path / "alertmanager.yml"
    config.write_text(render_alertmanager(Settings()))
    url = f"http://127.0.0.1:{free_port()}"
    arguments = [
        program("prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]

    def held() -> Any:
        with urllib.request.urlopen(f"{url}/api/v2/alerts") as response:
            return json.load(response)

    with running(arguments, f"{url}/-/ready", tmp_path / "log"):
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(
            f"{url}/api/v2/alerts", data=body, headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        wait_for(lambda: len(held()) == len(alerts), 10, "all alerts known")
        wait_for(lambda: any(alert["status"]["inhibitedBy"] for alert in held()), 10, "something muted")
        muted = [alert["labels"] for alert in held() if alert["status"]["inhibitedBy"]]
    expected = [alerts[1], alerts[5]]
    assert sorted(muted, key=str) == sorted(expected, key=str)
