"""Scraping an engine's own counters: one small class per engine, its clock and HTTP client passed in.

A scrape that fails is an outcome, counted and shown, not an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import msgspec

from farthing.collectors.engines.boots import BootRecords, ScrapeOutcome
from farthing.collectors.engines.catalogue import Reading, load_catalogue, read_signals, unknown_metrics
from farthing.collectors.engines.clock import Clock, anchored_clock
from farthing.collectors.engines.exposition import parse_exposition
from farthing.collectors.engines.fetch import fetch
from farthing.domain.errors import FarthingError
from farthing.domain.records import Counters
from farthing.vocabulary.catalogue import Catalogue

__all__ = ["EngineProbe", "EngineScraper", "probe_engine"]

MAX_BODY = 16 * 1024 * 1024
"""Bytes. vLLM's exposition is about 55 KB; with 16 data-parallel ranks under 1 MB."""
MAX_VERSION_BODY = 64 * 1024
TIMEOUT_SECONDS = 5.0
_NO_PROBE = "no probe reports from it: cost is estimated per model, tenants are unknown and vision is part of prefill"
_SHOWN_METRICS = 5
"""Names that a sentence about unknown metrics quotes."""


class EngineScraper:
    """Scrapes one engine instance; ``scrape`` never raises for what the engine does, or is.

    ``url`` is the engine's base URL. ``resume`` is the last ``Counters`` of this engine in the journal, if
    any: with it a restarted Farthing goes on with the same boot and sequence; ``next_sequence`` as in ``BootRecords``,
    whose errors ``scrape`` passes on.
    """

    def __init__(
        self,
        name: str,
        url: str,
        catalogue: Catalogue,
        client: httpx.AsyncClient,
        clock: Clock,
        *,
        metrics_path: str = "/metrics",
        gpu: str = "",
        gpu_count: int = 1,
        resume: Counters | None = None,
        next_sequence: Callable[[str], int] = lambda _: 0,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_body: int = MAX_BODY,
    ) -> None:
        self.name = name
        self._base = url.rstrip("/")
        self._url = self._base + metrics_path
        self._catalogue = catalogue
        self._client = client
        self._clock = clock
        self._timeout = timeout_seconds
        self._max_body = max_body
        self._boots = BootRecords(
            name, catalogue, gpu=gpu, gpu_count=gpu_count, resume=resume, next_sequence=next_sequence
        )

    @property
    def failures(self) -> int:
        """Scrapes that failed since this scraper was made."""
        return self._boots.failures

    async def scrape(self) -> ScrapeOutcome:
        """One scrape: the records and gauges it gave, or its error; ends within the time-out."""
        try:
            answer = await fetch(
                self._client, self._url, self._clock, timeout_seconds=self._timeout, max_body=self._max_body
            )
            exposition = parse_exposition(answer.body, answer.content_type, self._url)
            reading = read_signals(self._catalogue, exposition, self._url)
            boot = self._boots.boot_of(reading, answer.at_ns, self._url)
        except FarthingError as error:
            return self._boots.failed(self._clock(), error)
        version = await self._ask_version() if self._boots.is_new(boot) else ""
        return self._boots.taken(boot, reading, answer.at_ns, version)

    # ---- inside ------------------------------------------------------------------------------------

    async def _ask_version(self) -> str:
        url = self._base + (self._catalogue.version_path or "")
        return await _version(self._client, url, self._clock, self._timeout)


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """What an engine's endpoint tells about itself."""

    url: str
    kind: str
    version: str
    """Empty when the engine does not say."""
    model: str
    """Empty when the exposition does not name one."""
    used: dict[str, str]
    """signal -> the sample name that tells it."""
    degraded: tuple[str, ...]
    """What is unknown or only estimated, a sentence each; empty when nothing is."""


def probe_engine(
    url: str,
    *,
    kind: str = "vllm",
    metrics_path: str = "/metrics",
    probe_reports: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    transport: httpx.AsyncBaseTransport | None = None,
) -> EngineProbe:
    """What the engine at base URL ``url`` is and what is degraded about watching it; blocks, for commands.

    ``probe_reports`` says whether a probe is known to report from it. Raises EngineUnreachableError,
    ExpositionError, or ConfigError for a kind without a catalogue.
    """
    catalogue = load_catalogue(kind)
    base, clock = url.rstrip("/"), anchored_clock()
    metrics_url = base + metrics_path

    async def ask() -> tuple[Reading, list[str], str]:
        # like Prometheus, never through a proxy of the environment
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            answer = await fetch(client, metrics_url, clock, timeout_seconds=timeout_seconds, max_body=MAX_BODY)
            exposition = parse_exposition(answer.body, answer.content_type, metrics_url)
            reading = read_signals(catalogue, exposition, metrics_url)
            unknown = unknown_metrics(catalogue, exposition)
            return (
                reading,
                unknown,
                await _version(client, base + (catalogue.version_path or ""), clock, timeout_seconds),
            )

    reading, unknown, version = asyncio.run(ask())
    degraded = reading.degraded if probe_reports else (*reading.degraded, _NO_PROBE)
    if unknown:
        degraded = (*degraded, _unknown_sentence(catalogue, unknown))
    return EngineProbe(metrics_url, catalogue.engine, version, reading.model, reading.used, degraded)


def _unknown_sentence(catalogue: Catalogue, unknown: list[str]) -> str:
    """One line on metrics that are new: one of them may be the new name of one that is read."""
    shown = ", ".join(unknown[:_SHOWN_METRICS])
    more = f" and {len(unknown) - _SHOWN_METRICS} more" if len(unknown) > _SHOWN_METRICS else ""
    return (
        f"metrics that the catalogue of {catalogue.title} does not know: {shown}{more}; "
        "a newer engine may have renamed what Farthing reads: update Farthing, or add them to the catalogue"
    )


async def _version(client: httpx.AsyncClient, url: str, clock: Clock, timeout_seconds: float) -> str:
    """The engine's version, or empty: it is shown, and nothing depends on it."""
    try:
        answer = await fetch(client, url, clock, timeout_seconds=timeout_seconds, max_body=MAX_VERSION_BODY)
        return msgspec.json.decode(answer.body, type=_Version).version
    except (FarthingError, msgspec.MsgspecError):
        return ""


class _Version(msgspec.Struct):
    version: str = ""
