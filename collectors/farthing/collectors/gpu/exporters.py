"""GPUs through an exporter of somebody else's: NVIDIA's DCGM, AMD's device metrics, nvidia_gpu_exporter, Intel's XPUM.

Which of an exporter's metrics tells what, and in which unit, is data of the core (``farthing.vocabulary.gpus``).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import httpx

from farthing.collectors.engines.exposition import Exposition, parse_exposition
from farthing.collectors.gpu.exporter_devices import devices_in, prefix_of
from farthing.domain.errors import ExpositionError, GpuError
from farthing.domain.gpu import GpuReading
from farthing.vocabulary.gpus import ExporterCatalogue
from farthing.vocabulary.loading import EXPORTERS, load_exporter

__all__ = ["ExporterSource", "Fetch", "HttpFetch"]

Fetch: TypeAlias = Callable[[str], tuple[bytes, str]]
"""URL -> body and content type; raises GpuError when nothing comes of it."""

TIMEOUT_SECONDS: Final = 5.0
"""Exporters answer what they collected before, within milliseconds."""
MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes; a host with 16 GPUs and every field on answers less than one megabyte."""
_ACCEPT: Final = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1"}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CHECK: Final = "check gpus.exporters[].url"


class HttpFetch:
    """Fetches over HTTP, never through a proxy of the environment, within ``timeout_seconds`` for the whole of it."""

    def __init__(
        self,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_body: int = MAX_BODY,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = timeout_seconds
        self._clock = clock
        self._max_body = max_body
        self._client = httpx.Client(transport=transport, trust_env=False, timeout=timeout_seconds)

    def __call__(self, url: str) -> tuple[bytes, str]:
        """Body and content type; GpuError when there is no answer in time, another status, or too much of it."""
        deadline = self._clock() + self._timeout
        try:
            with self._client.stream("GET", url, headers=_ACCEPT, follow_redirects=False) as response:
                if response.status_code != httpx.codes.OK:
                    raise GpuError(f"{url} answered HTTP {response.status_code}; {_CHECK}")
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > self._max_body:
                        raise GpuError(f"{url} answered more than {self._max_body} bytes; {_CHECK}")
                    if self._clock() > deadline:
                        raise GpuError(f"{url} was not read within {self._timeout:g} s; is its host overloaded?")
                return bytes(body), response.headers.get("content-type", "")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise GpuError(f"{url} did not answer ({reason}); is the exporter running and reachable there?") from error

    def close(self) -> None:
        """Close its connections; may be called twice."""
        self._client.close()


class ExporterSource:
    """Reads every device that the exporter at ``url`` has; ``kind`` is of EXPORTERS, found out where it is empty."""

    def __init__(
        self,
        url: str,
        kind: str = "",
        fetch: Fetch | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises ConfigError for a kind without a catalogue."""
        self._url = url
        self._host = _host_of(url)
        self._catalogue = load_exporter(kind) if kind else None
        self._own = HttpFetch() if fetch is None else None
        self._given = fetch
        self._clock_ns = clock_ns

    @property
    def name(self) -> str:
        """The exporter's URL."""
        return self._url

    def read(self) -> list[GpuReading]:
        """The devices that the exporter shows now; empty when it shows none.

        Raises GpuError when it does not answer, or with something else than this kind of exporter's metrics.
        """
        fetch = self._given or self._own
        if fetch is None:
            raise GpuError(f"{self._url} is closed; make a new source")
        body, content_type = fetch(self._url)
        at_ns = self._clock_ns()
        try:
            exposition = parse_exposition(body, content_type, self._url)
        except ExpositionError as error:
            what = str(error).partition(", not Prometheus metrics")[0]
            raise GpuError(f"{what}, not an exporter's metrics; {_CHECK}") from error
        catalogue, prefix = self._recognised(exposition)
        return devices_in(catalogue, exposition, at_ns, host=self._host, prefix=prefix)

    def close(self) -> None:
        """Close connections of its own; may be called twice."""
        if self._own is not None:
            self._own.close()
            self._own = None

    def _recognised(self, exposition: Exposition) -> tuple[ExporterCatalogue, str]:
        known = [self._catalogue] if self._catalogue else [load_exporter(kind) for kind in EXPORTERS]
        for catalogue in known:
            prefix = prefix_of(catalogue, exposition)
            if prefix is not None:
                return catalogue, prefix
        titles = " or ".join(catalogue.title for catalogue in known)
        raise GpuError(f"{self._url} is a Prometheus exposition but not of {titles}; {_CHECK} and kind")


def _host_of(url: str) -> str:
    """The host that an exporter without a label of its own is on."""
    host = urlsplit(url).hostname or ""
    return socket.gethostname() if host in _LOOPBACK else host
