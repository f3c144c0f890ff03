"""Prometheus' configuration: what is scraped, where rules are, who is told of alerts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING, JOB_GPUS
from farthing.settings import EngineSettings
from farthing.settings_gpu import ExporterSettings

__all__ = ["ENGINE_TARGETS", "PROMETHEUS_CONFIG", "prometheus_files", "render_prometheus", "render_targets"]

PROMETHEUS_CONFIG = Path("prometheus.yml")
ENGINE_TARGETS = Path("targets/engines.json")
RULES = Path("rules")


def prometheus_files(
    *,
    engines: Iterable[EngineSettings],
    rules: Mapping[str, str],
    farthing_address: str,
    alertmanager_address: str,
    interval_seconds: int,
    exporters: Iterable[ExporterSettings] = (),
    agents: Sequence[str] = (),
) -> dict[Path, str]:
    """Everything Prometheus reads, by path relative to its configuration file."""
    return {
        PROMETHEUS_CONFIG: render_prometheus(
            rule_files=[str(RULES / name) for name in sorted(rules)],
            farthing_address=farthing_address,
            alertmanager_address=alertmanager_address,
            interval_seconds=interval_seconds,
            exporters=exporters,
            agents=agents,
        ),
        ENGINE_TARGETS: render_targets(engines),
        **{RULES / name: text for name, text in rules.items()},
    }


def render_prometheus(
    *,
    rule_files: Sequence[str],
    farthing_address: str,
    alertmanager_address: str,
    interval_seconds: int,
    exporters: Iterable[ExporterSettings] = (),
    agents: Sequence[str] = (),
) -> str:
    """prometheus.yml; relative paths in it, those of ``rule_files`` too, are relative to the file itself.

    Engines come from a file that Prometheus watches: adding one needs no restart. Exporters of GPU metrics and
    agents keep their address as ``instance``, which names the host of those that do not. Exemplar storage is on by
    flag.
    """
    interval = f"{interval_seconds}s"
    config: dict[str, Any] = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": list(rule_files),
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager_address]}]}]},
        "scrape_configs": [
            {
                "job_name": JOB_ENGINES,
                "file_sd_configs": [{"files": [str(ENGINE_TARGETS)], "refresh_interval": "5s"}],
            },
            {
                "job_name": JOB_FARTHING,
                "static_configs": [{"targets": [farthing_address], "labels": {"instance": JOB_FARTHING}}],
            },
        ],
    }
    gpus: list[dict[str, Any]] = [_exporter(exporter) for exporter in exporters]
    if agents:
        gpus.append({"targets": list(agents)})
    if gpus:
        config["scrape_configs"].append({"job_name": JOB_GPUS, "static_configs": gpus})
    return yaml.safe_dump(config, sort_keys=False)


def render_targets(engines: Iterable[EngineSettings]) -> str:
    """Prometheus' file-based discovery: one entry per engine, ``instance`` being the engine's name."""
    return json.dumps([_target(engine) for engine in engines], indent=2) + "\n"


def _target(engine: EngineSettings) -> dict[str, Any]:
    return _static(engine.metrics_url, {"instance": engine.name})


def _exporter(exporter: ExporterSettings) -> dict[str, Any]:
    return _static(str(exporter.url), {})


def _static(address: str, labels: Mapping[str, str]) -> dict[str, Any]:
    url = urlsplit(address)
    meta = {"__scheme__": url.scheme, "__metrics_path__": url.path}
    parameters = {f"__param_{key}": value for key, value in parse_qsl(url.query)}
    return {"targets": [url.netloc.rpartition("@")[2]], "labels": {**labels, **meta, **parameters}}
