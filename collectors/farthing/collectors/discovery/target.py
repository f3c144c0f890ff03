"""A discovered target, labelled as Prometheus labels it, and the engine that it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import ValidationError

from farthing.domain.errors import DiscoveryError
from farthing.settings import EngineSettings
from farthing.settings_discovery import ENGINE_NAME, LABEL_PREFIX, plain_address

__all__ = ["LABEL_INSTANCE", "LABEL_PATH", "LABEL_SCHEME", "Target", "engine_of"]

LABEL_INSTANCE: Final = "instance"
LABEL_SCHEME: Final = "__scheme__"
LABEL_PATH: Final = "__metrics_path__"
_PARAMETER: Final = "__param_"
_OWN: Final = tuple(name for name in EngineSettings.model_fields if name not in {"name", "url", "metrics_path"})
"""Settings of an engine that labels may give."""
_NAME: Final = re.compile(ENGINE_NAME)
_ADDRESS: Final = re.compile(r"[^/?#@\\\s]+")
"""What has no other part of a URL in it, which would lead elsewhere."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address that a source gave, and its labels."""

    address: str
    """HOST or HOST:PORT."""
    labels: Mapping[str, str]
    """Empty values are as good as none."""
    where: str
    """What errors call it: file and line, name, or container."""


def engine_of(target: Target) -> EngineSettings:
    """The engine that a target is: called by its label ``instance``, else by its address.

    Labels that begin with ``farthing_`` are its settings; the others are its series' and not looked at.
    Raises DiscoveryError naming the place and what is wrong there.
    """
    labels = {name: value for name, value in target.labels.items() if value}
    name = labels.get(LABEL_INSTANCE, plain_address(target.address))
    if not _NAME.fullmatch(name):
        raise DiscoveryError(
            f"{target.where}: {name!r} is no name of an engine; give the target a label instance of up to 64 letters, "
            "digits, '.', '_', ':' and '-'"
        )
    if not _ADDRESS.fullmatch(target.address):
        raise DiscoveryError(f"{target.where}: {target.address!r} is no HOST:PORT; write 'gpu-1:8000', say")
    scheme = labels.get(LABEL_SCHEME, "http")
    if scheme not in {"http", "https"}:
        raise DiscoveryError(f"{target.where}: {LABEL_SCHEME} {scheme!r} is neither http nor https")
    data: dict[str, Any] = {
        "name": name,
        "url": f"{scheme}://{target.address}",
        "metrics_path": _path(labels),
    }
    for label, value in labels.items():
        if label.startswith(LABEL_PREFIX):
            key = label.removeprefix(LABEL_PREFIX)
            if key not in _OWN:
                known = ", ".join(LABEL_PREFIX + one for one in _OWN)
                raise DiscoveryError(f"{target.where}: no label {label!r} is known; known are {known}")
            data[key] = [one.strip() for one in value.split(",")] if key == "gpu_uuids" else value
    try:
        return EngineSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        label = f"label {LABEL_PREFIX}{key}: " if key in _OWN else f"{key}: " if key else ""
        problem = str(first["msg"]).removeprefix("Value error, ")
        raise DiscoveryError(f"{target.where}: engine {name!r}: {label}{problem}") from error


def _path(labels: Mapping[str, str]) -> str:
    # as in Prometheus: whatever is said is a path, and nothing else of a URL
    path = "/" + labels.get(LABEL_PATH, "/metrics").removeprefix("/").replace("?", "%3F").replace("#", "%23")
    query = urlencode({name.removeprefix(_PARAMETER): v for name, v in labels.items() if name.startswith(_PARAMETER)})
    return f"{path}?{query}" if query else path
