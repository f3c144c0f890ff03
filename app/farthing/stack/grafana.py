"""Grafana's provisioning: data sources linked with each other, dashboards from files, its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from farthing.domain.conventions import (
    ATTRIBUTE_MODEL,
    DASHBOARD_FLEET,
    EXEMPLAR_TRACE,
    LABEL_ENGINE,
    LABEL_INSTANCE,
    LABEL_MODEL,
    METRIC_SPEND_RATE,
    REC_ENGINE,
    REC_GENERATION_RATE,
    REC_KV,
    REC_RUNNING,
    REC_TTFT_P95,
    REC_WAITING,
    RESOURCE_INSTANCE,
)

__all__ = [
    "DASHBOARDS",
    "HOME",
    "PROVISIONING",
    "SPAN_TAGS",
    "GrafanaSources",
    "grafana_files",
    "render_grafana_ini",
    "render_provider",
    "render_sources",
    "traces_to_metrics",
]

PROVISIONING = Path("provisioning")
DASHBOARDS = Path("dashboards")
PROMETHEUS_UID = "prometheus"
JAEGER_UID = "jaeger"
ALERTMANAGER_UID = "alertmanager"
FOLDER = "Farthing"
FOLDER_UID = "farthing"
"""The same as `farthing dashboards push` makes, so that both find one folder."""
HOME = f"{DASHBOARD_FLEET}.json"
"""What Grafana opens with."""

LEAST_PROMETHEUS: Final = "2.42.0"
"""The oldest that the stack runs with. Grafana asks a Prometheus of a known release for labels instead of series."""
SPAN_TAGS: Final[Mapping[str, str]] = {RESOURCE_INSTANCE: LABEL_INSTANCE, ATTRIBUTE_MODEL: LABEL_MODEL}
"""Attribute of a span or its resource -> label of an engine's series; one that a span lacks is left out."""
TAGS: Final = "$__tags"
"""Grafana's name for the labels that a span's attributes give."""


@dataclass(frozen=True, slots=True)
class GrafanaSources:
    """Base URLs as Grafana reaches them; ``jaeger`` is empty where no Jaeger runs."""

    prometheus: str
    alertmanager: str
    jaeger: str
    interval_seconds: int
    user: str = ""
    password_files: Mapping[str, str] = field(default_factory=dict)
    """Type of a source -> file with the password it demands, as Grafana finds it; none for one that is open."""


def grafana_files(sources: GrafanaSources, dashboards: Mapping[str, str], dashboards_path: str) -> dict[Path, str]:
    """Provisioning and dashboards by path relative to Grafana's folder.

    ``dashboards_path`` is where Grafana finds the dashboards at run time.
    """
    return {
        PROVISIONING / "datasources" / "farthing.yml": render_sources(sources),
        PROVISIONING / "dashboards" / "farthing.yml": render_provider(dashboards_path),
        **{DASHBOARDS / name: text for name, text in dashboards.items()},
    }


def render_sources(sources: GrafanaSources) -> str:
    """The data sources; a point of a latency histogram leads to its trace, a trace to its metrics."""
    prometheus: dict[str, Any] = {
        "httpMethod": "POST",
        "timeInterval": f"{sources.interval_seconds}s",
        "prometheusType": "Prometheus",
        "prometheusVersion": LEAST_PROMETHEUS,
        "manageAlerts": True,
        "alertmanagerUid": ALERTMANAGER_UID,
    }
    if sources.jaeger:
        prometheus["exemplarTraceIdDestinations"] = [
            {"name": EXEMPLAR_TRACE, "datasourceUid": JAEGER_UID, "urlDisplayLabel": "Trace of this request"}
        ]
    entries: list[dict[str, Any]] = [
        _source("Prometheus", "prometheus", PROMETHEUS_UID, sources.prometheus, prometheus) | {"isDefault": True},
        _source(
            "Alertmanager",
            "alertmanager",
            ALERTMANAGER_UID,
            sources.alertmanager,
            {"implementation": "prometheus", "handleGrafanaManagedAlerts": False},
        ),
    ]
    if sources.jaeger:
        jaeger = {
            "nodeGraph": {"enabled": True},
            "traceIdTimeParams": {"enabled": True},
            "tracesToMetrics": {
                "datasourceUid": PROMETHEUS_UID,
                # a request is short: the minutes around it show what it met
                "spanStartTimeShift": "-5m",
                "spanEndTimeShift": "5m",
                "tags": [{"key": attribute, "value": label} for attribute, label in SPAN_TAGS.items()],
                "queries": [{"name": name, "query": query} for name, query in traces_to_metrics().items()],
            },
        }
        entries.append(_source("Jaeger", "jaeger", JAEGER_UID, sources.jaeger, jaeger))
    document = _doubled({"apiVersion": 1, "prune": True, "datasources": entries})
    for entry in document["datasources"]:
        if file := sources.password_files.get(entry["type"]):
            # this dollar is meant: Grafana puts in what the file holds
            password = {"basicAuthPassword": f"$__file{{{file}}}"}
            entry |= {"basicAuth": True, "basicAuthUser": sources.user, "secureJsonData": password}
    return yaml.safe_dump(document, sort_keys=False)


def traces_to_metrics() -> dict[str, str]:
    """Name -> PromQL of what a span leads to: the engine that served it, at that time.

    ``$__tags`` stands for labels of ``SPAN_TAGS``, all of which the engine's own series have.
    """
    engine = f"{REC_ENGINE}{{{TAGS}}}"
    of_engine = f'label_replace({engine}, "{LABEL_ENGINE}", "$1", "{LABEL_INSTANCE}", "(.*)")'
    both = ", ".join((LABEL_INSTANCE, LABEL_MODEL))
    return {
        "Requests running": f"sum by ({both}) ({REC_RUNNING}{{{TAGS}}})",
        "Requests waiting": f"sum by ({both}) ({REC_WAITING}{{{TAGS}}})",
        "KV cache use": f"max by ({both}) ({REC_KV}{{{TAGS}}})",
        "Output tokens per second": f"sum by ({both}) ({REC_GENERATION_RATE}{{{TAGS}}})",
        "Time to first token of the model, p95": f"{REC_TTFT_P95} and on ({LABEL_MODEL}) {engine}",
        "Cost of the engine per hour": f"{METRIC_SPEND_RATE} and on ({LABEL_ENGINE}) {of_engine}",
    }


def render_provider(dashboards_path: str) -> str:
    """The provider that loads every dashboard of a folder and reloads those that change."""
    provider = {
        "name": "farthing",
        "orgId": 1,
        "folder": FOLDER,
        "folderUid": FOLDER_UID,
        "type": "file",
        "disableDeletion": True,
        "updateIntervalSeconds": 10,
        "allowUiUpdates": False,
        "options": {"path": dashboards_path, "foldersFromFilesStructure": False},
    }
    return yaml.safe_dump(_doubled({"apiVersion": 1, "providers": [provider]}), sort_keys=False)


def render_grafana_ini(
    *, port: int, data: Path, logs: Path, provisioning: Path, dashboards: Path, password_file: Path
) -> str:
    """grafana.ini of the native stack: loopback only, behind a login, silent towards the internet."""
    sections: dict[str, dict[str, str]] = {
        "paths": {
            "data": str(data),
            "logs": str(logs),
            "plugins": str(data / "plugins"),
            "provisioning": str(provisioning),
        },
        "server": {"http_addr": "127.0.0.1", "http_port": str(port)},
        "analytics": {"reporting_enabled": "false", "check_for_updates": "false", "check_for_plugin_updates": "false"},
        "plugins": {"preinstall_disabled": "true"},
        "news": {"news_feed_enabled": "false"},
        "security": {"admin_password": f"$__file{{{password_file}}}"},
        "users": {"allow_sign_up": "false"},
        "auth.anonymous": {"enabled": "false"},
        "dashboards": {"default_home_dashboard_path": str(dashboards / HOME)},
        "log": {"mode": "console"},
    }
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for section, entries in sections.items()
    )


def _source(name: str, kind: str, uid: str, url: str, json_data: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "uid": uid,
        "url": url,
        "access": "proxy",
        "editable": False,
        "jsonData": json_data,
    }


def _doubled(value: Any) -> Any:
    """As Grafana's provisioning reads it: there, a dollar begins a variable of the environment unless doubled."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: _doubled(inner) for key, inner in value.items()}
    return [_doubled(inner) for inner in value] if isinstance(value, list) else value
