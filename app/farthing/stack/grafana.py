"""Grafana's provisioning: data sources linked with each other, dashboards from files, its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DASHBOARDS", "PROVISIONING", "GrafanaSources", "grafana_files", "render_grafana_ini"]

PROVISIONING = Path("provisioning")
DASHBOARDS = Path("dashboards")
PROMETHEUS_UID = "prometheus"
JAEGER_UID = "jaeger"
ALERTMANAGER_UID = "alertmanager"
EXEMPLAR_LABEL = "trace_id"
"""Label of an exemplar that holds the trace id, as OpenMetrics' exposition of our histograms names it."""


@dataclass(frozen=True, slots=True)
class GrafanaSources:
    """Base URLs as Grafana reaches them; ``jaeger`` is empty where no Jaeger runs."""

    prometheus: str
    alertmanager: str
    jaeger: str
    interval_seconds: int


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
    prometheus: dict[str, Any] = {"httpMethod": "POST", "timeInterval": f"{sources.interval_seconds}s"}
    if sources.jaeger:
        prometheus["exemplarTraceIdDestinations"] = [{"name": EXEMPLAR_LABEL, "datasourceUid": JAEGER_UID}]
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
            "tracesToMetrics": {"datasourceUid": PROMETHEUS_UID},
        }
        entries.append(_source("Jaeger", "jaeger", JAEGER_UID, sources.jaeger, jaeger))
    return yaml.safe_dump({"apiVersion": 1, "prune": True, "datasources": entries}, sort_keys=False)


def render_provider(dashboards_path: str) -> str:
    """The provider that loads every dashboard of a folder and reloads those that change."""
    provider = {
        "name": "farthing",
        "orgId": 1,
        "folder": "Farthing",
        "type": "file",
        "disableDeletion": True,
        "updateIntervalSeconds": 10,
        "allowUiUpdates": False,
        "options": {"path": dashboards_path, "foldersFromFilesStructure": False},
    }
    return yaml.safe_dump({"apiVersion": 1, "providers": [provider]}, sort_keys=False)


def render_grafana_ini(*, port: int, data: Path, logs: Path, provisioning: Path, password_file: Path) -> str:
    """grafana.ini of the native stack: loopback only, readable without login, silent towards the internet."""
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
        "auth.anonymous": {"enabled": "true", "org_role": "Viewer"},
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
