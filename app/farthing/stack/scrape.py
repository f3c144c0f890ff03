"""Prometheus' configuration: what is scraped, where rules are, who is told of alerts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import yaml

from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING, JOB_GPUS, JOB_SPANS
from farthing.settings import EngineSettings
from farthing.settings_discovery import DiscoverySettings
from farthing.settings_gpu import ExporterSettings
from farthing.stack.engine_discovery import external_labels, sources_and_rules

__all__ = [
    "ENGINE_TARGETS",
    "PROMETHEUS_CONFIG",
    "Logins",
    "prometheus_files",
    "render_prometheus",
    "render_targets",
]

PROMETHEUS_CONFIG = Path("prometheus.yml")
ENGINE_TARGETS = Path("targets/engines.json")
RULES = Path("rules")


@dataclass(frozen=True, slots=True)
class Logins:
    """Files that Prometheus reads secrets from, as it finds them; empty where nobody asks for any."""

    farthing_token_file: str = ""
    """Opens Farthing's metrics."""
    farthing_https: bool = False
    """Farthing speaks TLS on this host, where Prometheus asks it by its address and not by the certificate's name."""
    alertmanager_password_file: str = ""
    alertmanager_user: str = ""


NO_LOGINS: Final = Logins()
NO_DISCOVERY: Final = DiscoverySettings()


def prometheus_files(
    *,
    engines: Iterable[EngineSettings],
    rules: Mapping[str, str],
    farthing_address: str,
    alertmanager_address: str,
    interval_seconds: int,
    exporters: Iterable[ExporterSettings] = (),
    agents: Sequence[str] = (),
    spans_addresses: Sequence[str] = (),
    logins: Logins = NO_LOGINS,
    discovery: DiscoverySettings = NO_DISCOVERY,
) -> dict[Path, str]:
    """Everything Prometheus reads, by path relative to its configuration file."""
    engines = tuple(engines)
    return {
        PROMETHEUS_CONFIG: render_prometheus(
            rule_files=[str(RULES / name) for name in sorted(rules)],
            farthing_address=farthing_address,
            alertmanager_address=alertmanager_address,
            interval_seconds=interval_seconds,
            exporters=exporters,
            agents=agents,
            spans_addresses=spans_addresses,
            logins=logins,
            discovery=discovery,
            static_names=[engine.name for engine in engines],
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
    found_gpus: Sequence[tuple[str, int]] = (),
    spans_addresses: Sequence[str] = (),
    logins: Logins = NO_LOGINS,
    discovery: DiscoverySettings = NO_DISCOVERY,
    static_names: Iterable[str] = (),
) -> str:
    """prometheus.yml; relative paths in it, those of ``rule_files`` too, are relative to the file itself.

    Engines come from a file that Prometheus watches, and from ``discovery``: adding one needs no restart; of a name
    in ``static_names`` only the file's. Exporters of GPU metrics and agents keep their address as ``instance``, which
    names the host of those that do not. ``found_gpus`` are names and ports of exporters that may or may not be there.
    ``spans_addresses`` are where Jaeger tells what it counted of spans, and of itself; none where none runs. Exemplar
    storage is on by flag.
    """
    interval = f"{interval_seconds}s"
    labels, relabelled = external_labels(discovery)
    config: dict[str, Any] = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval, **labels},
        "rule_files": list(rule_files),
        "alerting": {**relabelled, "alertmanagers": [_alertmanager(alertmanager_address, logins)]},
        "scrape_configs": [
            {
                "job_name": JOB_ENGINES,
                **sources_and_rules(discovery, str(ENGINE_TARGETS), static_names),
            },
            {
                "job_name": JOB_FARTHING,
                "static_configs": [{"targets": [farthing_address], "labels": {"instance": JOB_FARTHING}}],
                **_token(logins.farthing_token_file),
                **({"scheme": "https", "tls_config": {"insecure_skip_verify": True}} if logins.farthing_https else {}),
            },
        ],
    }
    if spans_addresses:
        config["scrape_configs"].append({"job_name": JOB_SPANS, "static_configs": [{"targets": list(spans_addresses)}]})
    gpus: list[dict[str, Any]] = [_exporter(exporter) for exporter in exporters]
    if agents:
        gpus.append({"targets": list(agents)})
    if gpus or found_gpus:
        found = [{"names": [name], "type": "A", "port": port} for name, port in found_gpus]
        sources = {"static_configs": gpus, "dns_sd_configs": found}
        config["scrape_configs"].append({"job_name": JOB_GPUS, **{key: of for key, of in sources.items() if of}})
    return yaml.safe_dump(config, sort_keys=False)


def render_targets(engines: Iterable[EngineSettings]) -> str:
    """Prometheus' file-based discovery: one entry per engine, ``instance`` being the engine's name."""
    return json.dumps([_target(engine) for engine in engines], indent=2) + "\n"


def _token(file: str) -> dict[str, Any]:
    return {"authorization": {"credentials_file": file}} if file else {}


def _alertmanager(address: str, logins: Logins) -> dict[str, Any]:
    one: dict[str, Any] = {"static_configs": [{"targets": [address]}]}
    if logins.alertmanager_password_file:
        one["basic_auth"] = {"username": logins.alertmanager_user, "password_file": logins.alertmanager_password_file}
    return one


def _target(engine: EngineSettings) -> dict[str, Any]:
    return _static(engine.metrics_url, {"instance": engine.name})


def _exporter(exporter: ExporterSettings) -> dict[str, Any]:
    return _static(str(exporter.url), {})


def _static(address: str, labels: Mapping[str, str]) -> dict[str, Any]:
    url = urlsplit(address)
    meta = {"__scheme__": url.scheme, "__metrics_path__": url.path}
    parameters = {f"__param_{key}": value for key, value in parse_qsl(url.query)}
    return {"targets": [url.netloc.rpartition("@")[2]], "labels": {**labels, **meta, **parameters}}
