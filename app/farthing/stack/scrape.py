"""Prometheus' configuration: what is scraped, where rules are, who is told of alerts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING
from farthing.settings import EngineSettings

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
) -> dict[Path, str]:
    """Everything Prometheus reads, by path relative to its configuration file."""
    return {
        PROMETHEUS_CONFIG: render_prometheus(
            rule_files=[str(RULES / name) for name in sorted(rules)],
            farthing_address=farthing_address,
            alertmanager_address=alertmanager_address,
            interval_seconds=interval_seconds,
        ),
        ENGINE_TARGETS: render_targets(engines),
        **{RULES / name: text for name, text in rules.items()},
    }


def render_prometheus(
    *, rule_files: Sequence[str], farthing_address: str, alertmanager_address: str, interval_seconds: int
) -> str:
    """prometheus.yml; relative paths in it, those of ``rule_files`` too, are relative to the file itself.

    Engines come from a file that Prometheus watches: adding one needs no restart. Exemplar storage is on by flag.
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
    return yaml.safe_dump(config, sort_keys=False)


def render_targets(engines: Iterable[EngineSettings]) -> str:
    """Prometheus' file-based discovery: one entry per engine, ``instance`` being the engine's name."""
    return json.dumps([_target(engine) for engine in engines], indent=2) + "\n"


def _target(engine: EngineSettings) -> dict[str, Any]:
    url = urlsplit(engine.metrics_url)
    labels = {"instance": engine.name, "__scheme__": url.scheme, "__metrics_path__": url.path}
    labels |= {f"__param_{key}": value for key, value in parse_qsl(url.query)}
    return {"targets": [url.netloc.rpartition("@")[2]], "labels": labels}
