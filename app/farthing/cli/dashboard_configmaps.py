"""Dashboards as Kubernetes ConfigMaps, as the sidecar of Grafana's Helm chart looks for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from farthing.domain.errors import ConfigError

__all__ = ["LIMIT_BYTES", "config_maps", "config_maps_text"]

SIDECAR_LABEL: Final = "grafana_dashboard"
"""``sidecar.dashboards.label`` of the chart; its value there is empty, which takes any."""
FOLDER_ANNOTATION: Final = "grafana_folder"
"""What ``sidecar.dashboards.folderAnnotation`` has to name for dashboards to come into a folder."""
LIMIT_BYTES: Final = 1024 * 1024
"""What a ConfigMap may hold: keys and values together (ValidateConfigMap in Kubernetes' core validation)."""


def config_maps(
    dashboards: Iterable[tuple[str, str, str]], *, namespace: str | None, folder: str
) -> list[dict[str, Any]]:
    """One ConfigMap per (uid, file name, JSON text); ConfigError for a dashboard that no ConfigMap can hold.

    JSON beyond the limit is written without its indentation. Without a namespace, kubectl's own decides.
    """
    return [_config_map(uid, file, text, namespace, folder) for uid, file, text in dashboards]


def config_maps_text(maps: Sequence[dict[str, Any]]) -> str:
    """YAML documents; JSON stays readable in them, line by line."""
    return "".join(
        "---\n" + yaml.dump(one, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31) for one in maps
    )


def _config_map(uid: str, file: str, text: str, namespace: str | None, folder: str) -> dict[str, Any]:
    if _size(file, text) > LIMIT_BYTES:
        text = json.dumps(json.loads(text), separators=(",", ":"), sort_keys=True, ensure_ascii=False) + "\n"
    if (size := _size(file, text)) > LIMIT_BYTES:
        raise ConfigError(
            f"{uid}: {size} bytes are more than the {LIMIT_BYTES} that a ConfigMap holds; push it with farthing "
            "dashboards push"
        )
    metadata: dict[str, Any] = {"name": f"dashboard-{uid}"}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = {SIDECAR_LABEL: "1", "app.kubernetes.io/part-of": "farthing"}
    if folder:
        metadata["annotations"] = {FOLDER_ANNOTATION: folder}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {file: text}}


def _size(file: str, text: str) -> int:
    return len(file.encode()) + len(text.encode())


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
