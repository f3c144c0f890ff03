"""The section of farthing.yaml that says where engines are discovered, and how a discovered target becomes an engine.

The rule of names stands here once: Prometheus applies it by relabelling, Farthing by itself, and both must mean the
same engine by the same name.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "DEFAULT_ENGINE_PORT",
    "DOCKER_PREFIX",
    "ENGINE_NAME",
    "LABEL_PREFIX",
    "DiscoverySettings",
    "DnsSettings",
    "DockerSettings",
    "plain_address",
]

ENGINE_NAME: Final = "[A-Za-z0-9._:-]{1,64}"
"""What an engine may be called; RE2 and Python read it alike. A target of any other name is not watched."""
BRACKETED: Final = r"\[(.+)\]:([0-9]+)"
"""An address of IPv6 with its port, whose brackets no engine's name has."""
LABEL_PREFIX: Final = "farthing_"
"""Labels of a target that are Farthing's settings of the engine and no labels of its series."""
DOCKER_PREFIX: Final = "farthing."
"""Labels of a container that are the same: ``farthing.gpu`` for ``farthing_gpu``."""
DEFAULT_ENGINE_PORT: Final = 8000
"""vLLM's own; of a container that does not say another one by ``farthing.port``."""

_FILE: Final = re.compile(r"[^*]*(\*[^/]*)?\.(json|yml|yaml|JSON|YML|YAML)")
_HOST: Final = re.compile(r"unix:///\S+|(tcp|http)://[A-Za-z0-9._-]+:\d{1,5}")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def plain_address(address: str) -> str:
    """What an engine without a name is called: its address as it was discovered, without the brackets of IPv6."""
    found = re.fullmatch(BRACKETED, address)
    return f"{found[1]}:{found[2]}" if found else address


def _pattern(path: Path) -> Path:
    # as Prometheus has it, model/discovery/file: a star stands in the last part of the path alone
    if not _FILE.fullmatch(str(path)):
        raise ValueError(f"{path} must end in .yaml, .yml or .json, with a * in its last part alone: engines.d/*.yaml")
    return path


def _docker_host(host: str) -> str:
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no address of Docker; write unix:///var/run/docker.sock or tcp://HOST:PORT")
    return host


def _label_names(labels: dict[str, str]) -> dict[str, str]:
    for name in labels:
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
            raise ValueError(f"{name!r} is no name of a label; use letters, digits and _")
    return labels


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DnsSettings(_Strict):
    """A name whose records are engines, all of one kind; what is said here is true of each of them."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$")]
    """The name that is asked for; an SRV record's is like `_http._tcp.vllm.internal`."""
    type: Literal["A", "AAAA", "SRV"] = "A"
    """Which records."""
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    """Where the engines of A and AAAA records listen; SRV records say it themselves."""
    refresh_seconds: Annotated[int, Field(ge=1, le=86_400)] = 30
    """How often it is asked for. While no name server answers, what was known stays for five times as long."""
    scheme: Literal["http", "https"] = "http"
    """How metrics are asked for."""
    metrics_path: Annotated[str, Field(pattern=r"^/[^?$\s]*$")] = "/metrics"
    """Where metrics are."""
    gpu: Annotated[str, Field(max_length=128)] = ""
    """As `engines[].gpu`, of each engine."""
    gpu_count: Annotated[int, Field(ge=1)] = 1
    """As `engines[].gpu_count`, of each engine."""
    gpu_fraction: Annotated[Decimal, Field(gt=0, le=1)] = Decimal(1)
    """As `engines[].gpu_fraction`, of each engine."""
    price: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]*$")] = ""
    """As `engines[].price`, of each engine."""
    probe: bool = False
    """As `engines[].probe`, of each engine."""

    @model_validator(mode="after")
    def _has_a_port(self) -> DnsSettings:
        if self.type == "SRV" and self.port is not None:
            raise ValueError("SRV records have their own ports; leave out port")
        if self.type != "SRV" and self.port is None:
            raise ValueError(f"{self.type} records have no port; enter the engines' port, 8000 say")
        return self


class DockerSettings(_Strict):
    """A Docker engine whose containers with a label are engines."""

    host: Annotated[str, AfterValidator(_docker_host)] = "unix:///var/run/docker.sock"
    """The engine's socket, or `tcp://HOST:PORT` of a proxy that lets containers be listed and nothing else."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] = "farthing.engine"
    """Containers that have it are engines; its value is the engine's name, or empty: the container's."""
    refresh_seconds: Annotated[int, Field(ge=1, le=86_400)] = 15
    """How often its containers are listed. While it does not answer, what was known stays for five times as long."""
    host_networking_host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "localhost"
    """Where engines in containers with the host's network are reached."""


class DiscoverySettings(_Strict):
    """Where engines are discovered, besides those of `engines`, see [discovery.md](discovery.md). They come, change
    and go without a restart."""

    files: Annotated[tuple[Annotated[Path, AfterValidator(_pattern)], ...], Field(max_length=64)] = ()
    """Files of targets in the format of Prometheus' `file_sd_configs`, a `*` in the last part of a path."""
    refresh_seconds: Annotated[int, Field(ge=1, le=3_600)] = 5
    """How often files are looked at."""
    dns: Annotated[tuple[DnsSettings, ...], Field(max_length=64)] = ()
    """Names whose records are engines."""
    docker: Annotated[tuple[DockerSettings, ...], Field(max_length=16)] = ()
    """Docker engines whose containers with a label are engines."""
    external_labels: Annotated[dict[str, str], AfterValidator(_label_names)] = {}
    """Labels that Prometheus adds to all it sends elsewhere: `cluster`, say, and `replica` for each of a pair, which
    alerts leave out, so that Alertmanager takes those of both for one."""

    @model_validator(mode="after")
    def _sources_differ(self) -> DiscoverySettings:
        for kind, names in (
            ("files", [str(path) for path in self.files]),
            ("dns", [one.name for one in self.dns]),
            ("docker", [one.host for one in self.docker]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{twice[0]} is twice among {kind}; keep one entry")
        return self

    @property
    def is_active(self) -> bool:
        """Whether engines are looked for anywhere."""
        return bool(self.files or self.dns or self.docker)
