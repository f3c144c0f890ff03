"""Discovery of engines for Prometheus: the same sources as Farthing's, and relabelling by which both call an engine the
same.

What the meta labels hold: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#docker_sd_config,
#dns_sd_config, #file_sd_config. Nothing here needs a Prometheus later than 2.42.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from farthing.settings_discovery import (
    BRACKETED,
    DEFAULT_ENGINE_PORT,
    DOCKER_PREFIX,
    ENGINE_NAME,
    LABEL_PREFIX,
    DiscoverySettings,
)

__all__ = ["external_labels", "sources_and_rules"]

_REPLICA: Final = "replica"
_NAME: Final = "instance"
_CONTAINER: Final = "__meta_docker_container_name"
_NETWORK: Final = "__meta_docker_network_name"
_CHOSEN: Final = "__tmp_network"
_STATIC: Final = "__tmp_static"


def external_labels(discovery: DiscoverySettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs into ``global`` and into ``alerting``: of two replicas each alert is the same alert."""
    if not discovery.external_labels:
        return {}, {}
    dropped = [{"action": "labeldrop", "regex": _REPLICA}]
    return {"external_labels": dict(discovery.external_labels)}, {"alert_relabel_configs": dropped}


def sources_and_rules(discovery: DiscoverySettings, static_file: str, static_names: Iterable[str]) -> dict[str, Any]:
    """The parts of a scrape configuration: discovery of all kinds, farthing.yaml's own engines being a file's, and
    relabelling where anything is discovered besides.
    """
    refresh = f"{discovery.refresh_seconds}s"
    files = [static_file, *(str(path) for path in discovery.files)]
    found: dict[str, Any] = {"file_sd_configs": [{"files": files, "refresh_interval": refresh}]}
    if discovery.dns:
        found["dns_sd_configs"] = [
            {
                "names": [one.name],
                "type": one.type,
                **({} if one.port is None else {"port": one.port}),
                "refresh_interval": f"{one.refresh_seconds}s",
            }
            for one in discovery.dns
        ]
    if discovery.docker:
        found["docker_sd_configs"] = [
            {
                "host": one.host,
                "filters": [{"name": "label", "values": [one.label]}],
                "host_networking_host": one.host_networking_host,
                "refresh_interval": f"{one.refresh_seconds}s",
            }
            for one in discovery.docker
        ]
    if discovery.is_active:
        found["relabel_configs"] = [
            *_of_names(discovery),
            *(_of_containers(discovery) if discovery.docker else ()),
            *_of_all(static_file, static_names),
        ]
    return found


def _of_names(discovery: DiscoverySettings) -> Iterable[dict[str, Any]]:
    for one in discovery.dns:
        for label, value in (("__scheme__", one.scheme), ("__metrics_path__", one.metrics_path)):
            yield _rule(["__meta_dns_name"], label, re.escape(one.name), value)


def _of_containers(discovery: DiscoverySettings) -> Iterable[dict[str, Any]]:
    # of several networks the one that the container names; Prometheus has no choice by itself before 3.0
    yield _rule([_NETWORK], _CHOSEN)
    yield _rule([_label("network")], _CHOSEN, "(.+)")
    yield {"source_labels": [_NETWORK], "action": "keepequal", "target_label": _CHOSEN}
    # a target a port, all of them brought to the engine's: equal targets are one
    address = [_CONTAINER, "__address__", _label("port")]
    yield _rule(address, "__address__", ".+;([^:;]+)(?::[0-9]+)?;", f"$1:{DEFAULT_ENGINE_PORT}")
    yield _rule(address, "__address__", ".+;([^:;]+)(?::[0-9]+)?;([0-9]+)", "$1:$2")
    yield _rule([_label("scheme")], "__scheme__", "(.+)")
    yield _rule([_label("metrics_path")], "__metrics_path__", "(.+)")
    yield _rule([_CONTAINER], _NAME, "/?(.+)")
    for label in dict.fromkeys(one.label for one in discovery.docker):
        yield _rule([_meta(label)], _NAME, "(.+)")


def _of_all(static_file: str, static_names: Iterable[str]) -> Iterable[dict[str, Any]]:
    yield _rule([_NAME, "__address__"], _NAME, f";{BRACKETED}", "$1:$2")
    yield _rule([_NAME, "__address__"], _NAME, ";(.+)")
    yield {"source_labels": [_NAME], "action": "keep", "regex": ENGINE_NAME}
    if names := sorted(static_names):
        known = "|".join(map(re.escape, names))
        yield _rule(["__meta_filepath"], _STATIC, f".*{re.escape(static_file)}", "yes")
        yield {"source_labels": [_STATIC, _NAME], "action": "drop", "regex": f";({known})"}
    yield {"action": "labeldrop", "regex": f"{LABEL_PREFIX}.*"}


def _label(name: str) -> str:
    return _meta(DOCKER_PREFIX + name)


def _meta(label: str) -> str:
    """As Prometheus calls a container's label."""
    return "__meta_docker_container_label_" + re.sub("[^a-zA-Z0-9_]", "_", label)


def _rule(source: list[str], target: str, regex: str = "", replacement: str = "") -> dict[str, Any]:
    rule: dict[str, Any] = {"source_labels": source, "target_label": target}
    if regex:
        rule["regex"] = regex
    if replacement:
        rule["replacement"] = replacement
    return rule
