"""Settings that name every kind of receiver, and alerts as Alertmanager gives them to templates."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.alerts.real_parts import program

from farthing.alerts.alertmanager import alertmanager_files
from farthing.settings import Settings

__all__ = ["ALL_KINDS", "SLOW", "amtool_check", "message_data", "rendered", "written"]

ALL_KINDS: dict[str, Any] = {
    "receivers": [
        {"name": "oncall", "pagerduty": {"routing_key_file": "/run/secrets/pagerduty"}},
        {
            "name": "serving",
            "slack": {"api_url_file": "/run/secrets/slack", "channel": "#llm"},
            "email": {
                "to": "llm@example.org",
                "from": "farthing@example.org",
                "smarthost": "mail.example.org:587",
                "auth_username": "farthing",
                "auth_password_file": "/run/secrets/mail",
            },
            "webhook": {"url": "http://127.0.0.1:9/hook", "credentials_file": "/run/secrets/token"},
        },
    ],
    "routes": [
        {"severity": "critical", "receiver": "oncall", "continue": True},
        {"team": "llm-serving", "tier": "interactive", "receiver": "serving"},
        {"team": "platform", "receiver": "none"},
    ],
    "receiver": "serving",
    "dead_mans_switch": {"url": "http://127.0.0.1:9/alive", "repeat_seconds": 60},
}
"""What Alertmanager 0.25 can do, all of it."""

SLOW: dict[str, Any] = {
    "status": "firing",
    "labels": {
        "alertname": "LLMTimeToFirstTokenHigh",
        "model": "llama <8b> & co",
        "severity": "critical",
        "team": "llm-serving",
        "component": "latency",
    },
    "annotations": {
        "summary": "llama <8b> & co: p95 time to first token is 1.9s",
        "description": "Promised are 0.5 s. The engines of this model cost $4.79 per hour while it lasts.",
        "dashboard_url": "http://grafana/d/farthing-fleet?var-model=llama&from=now",
        "runbook_url": "https://runbooks/LLMTimeToFirstTokenHigh.md",
    },
    "startsAt": "2026-11-26T20:00:00Z",
    "endsAt": "0001-01-01T00:00:00Z",
}


def written(folder: Path, settings: Settings) -> Path:
    """The folder, with all of Alertmanager's files in it."""
    for name, text in alertmanager_files(settings).items():
        (folder / name).write_text(text)
    return folder


def amtool_check(folder: Path) -> tuple[bool, str]:
    """Whether the installed amtool takes the configuration in the folder, and what it says."""
    arguments = [program("amtool"), "check-config", str(folder / "alertmanager.yml")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def message_data(*alerts: dict[str, Any]) -> dict[str, Any]:
    """What Alertmanager gives to a template for a group of these alerts."""
    labels = [alert["labels"] for alert in alerts]
    common = {key: value for key, value in labels[0].items() if all(other.get(key) == value for other in labels)}
    firing = any(alert["status"] == "firing" for alert in alerts)
    return {
        "receiver": "r",
        "status": "firing" if firing else "resolved",
        "alerts": list(alerts),
        "groupLabels": {"alertname": labels[0]["alertname"]},
        "commonLabels": common,
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
    }


def rendered(folder: Path, name: str, data: dict[str, Any], kind: str = "text") -> str:
    """A template of ours as the real Alertmanager's library renders it over ``data``."""
    (folder / "data.json").write_text(json.dumps(data))
    arguments = [
        program("amtool"),
        "template",
        "render",
        f"--template.glob={folder}/*.tmpl",
        f'--template.text={{{{ template "farthing.{name}" . }}}}',
        f"--template.type={kind}",
        f"--template.data={folder}/data.json",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
