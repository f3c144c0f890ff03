"""Engines by the labels of containers, as Prometheus' ``docker_sd_configs`` finds them.

Docker's API: GET /containers/json (https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Final

import httpx
import msgspec

from farthing.collectors.discovery.target import LABEL_INSTANCE, LABEL_PATH, LABEL_SCHEME, Target
from farthing.domain.errors import DiscoveryError
from farthing.settings_discovery import DEFAULT_ENGINE_PORT, DOCKER_PREFIX, LABEL_PREFIX, DockerSettings

__all__ = ["ContainerSource"]

TIMEOUT_SECONDS: Final = 5.0
MAX_BYTES: Final = 32 * 1024 * 1024
_HOST_NETWORK: Final = "host"
_PLACES: Final = {"metrics_path": LABEL_PATH, "scheme": LABEL_SCHEME}
_ABOUT: Final = frozenset({"engine", "port", "network", *_PLACES})
"""Labels that say where the engine is, rather than what."""
_PORT: Final = re.compile(r"\d{1,5}")


class _Network(msgspec.Struct):
    IPAddress: str = ""


class _Networks(msgspec.Struct):
    Networks: dict[str, _Network] | None = None


class _HostConfig(msgspec.Struct):
    NetworkMode: str = ""


class _Container(msgspec.Struct):
    Id: str
    Names: list[str] | None = None
    Labels: dict[str, str] | None = None
    HostConfig: _HostConfig = msgspec.field(default_factory=_HostConfig)
    NetworkSettings: _Networks = msgspec.field(default_factory=_Networks)


class ContainerSource:
    """The running containers of a Docker engine that have the label; each is one engine."""

    patience = 5
    """For how many refreshes what was known is kept while Docker does not answer."""

    def __init__(self, settings: DockerSettings) -> None:
        self.name = settings.host
        self._settings = settings

    async def read(self) -> tuple[list[Target], list[str]]:
        """Targets in the order of their containers' names, and what is wrong with containers, a sentence each.

        Raises DiscoveryError when Docker does not answer, or answers what it does not say.
        """
        targets, complaints = [], []
        for container in sorted(await self._list(), key=_name):
            try:
                targets.append(self._target(container))
            except DiscoveryError as error:
                complaints.append(str(error))
        return targets, complaints

    async def _list(self) -> list[_Container]:
        scheme, _, place = self._settings.host.partition("://")
        base = "http://docker" if scheme == "unix" else f"http://{place}"
        transport = httpx.AsyncHTTPTransport(uds=place if scheme == "unix" else None)
        filters = json.dumps({"label": [self._settings.label]})
        try:
            # httpx's own time-outs are per read: what drips bytes would never be given up
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                httpx.AsyncClient(transport=transport, timeout=TIMEOUT_SECONDS, trust_env=False) as client,
                client.stream("GET", f"{base}/containers/json", params={"filters": filters}) as answer,
            ):
                content = await self._content(answer)
        except (httpx.HTTPError, OSError) as error:
            raise DiscoveryError(
                f"{self.name}: Docker does not answer ({str(error) or type(error).__name__}); start it, let this user "
                "reach its socket, or correct discovery.docker"
            ) from error
        try:
            return msgspec.json.decode(content, type=list[_Container])
        except msgspec.MsgspecError as error:
            raise DiscoveryError(f"{self.name}: this is no list of Docker's containers ({error})") from error

    async def _content(self, answer: httpx.Response) -> bytes:
        if not answer.is_success or "content-encoding" in answer.headers:
            encoding = answer.headers.get("content-encoding", "")
            raise DiscoveryError(f"{self.name}: Docker answered {answer.status_code} {encoding}".rstrip())
        content = bytearray()
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > MAX_BYTES:
                raise DiscoveryError(f"{self.name}: Docker answered more than {MAX_BYTES} bytes")
        return bytes(content)

    def _target(self, container: _Container) -> Target:
        labels = container.Labels or {}
        where = f"{self.name}: container {_name(container)}"
        own = {
            key.removeprefix(DOCKER_PREFIX): value
            for key, value in labels.items()
            if key.startswith(DOCKER_PREFIX) and value and key != self._settings.label
        }
        port = own.get("port", str(DEFAULT_ENGINE_PORT))
        if not _PORT.fullmatch(port):
            raise DiscoveryError(f"{where}: label {DOCKER_PREFIX}port {port!r} is no port")
        return Target(
            f"{self._host(container, own, where)}:{port}",
            {
                LABEL_INSTANCE: labels.get(self._settings.label, "") or _name(container),
                **{label: own[key] for key, label in _PLACES.items() if key in own},
                **{LABEL_PREFIX + key: value for key, value in own.items() if key not in _ABOUT},
            },
            where,
        )

    def _host(self, container: _Container, own: Mapping[str, str], where: str) -> str:
        """Where it is reached: its address in its only network, or in the one that it names."""
        networks = container.NetworkSettings.Networks or {}
        named = own.get("network")
        if container.HostConfig.NetworkMode == _HOST_NETWORK and named in {None, _HOST_NETWORK}:
            return self._settings.host_networking_host
        if named is None and len(networks) > 1:
            raise DiscoveryError(
                f"{where}: it is in the networks {', '.join(sorted(networks))}; say which by {DOCKER_PREFIX}network"
            )
        chosen = networks.get(named) if named else next(iter(networks.values()), None)
        if chosen is None or not chosen.IPAddress:
            raise DiscoveryError(f"{where}: it has no address in network {named or 'any'!r}")
        return chosen.IPAddress


def _name(container: _Container) -> str:
    return container.Names[0].lstrip("/") if container.Names else container.Id[:12]
