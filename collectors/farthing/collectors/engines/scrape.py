"""Scraping an engine's own counters: one small class per engine, its clock and HTTP client passed in.

A scrape that fails is an outcome, counted and shown, not an exception. A boot is told from the next by the
start of the engine's process and its model, or by a counter that fell.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass

import httpx
import msgspec

from farthing.collectors.engines.catalogue import Reading, load_catalogue, read_signals, unknown_metrics
from farthing.collectors.engines.clock import Clock, anchored_clock
from farthing.collectors.engines.exposition import parse_exposition
from farthing.collectors.engines.fetch import fetch
from farthing.costing.scraped import counters_fell
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.conventions import (
    SIGNAL_GENERATION,
    SIGNAL_KV,
    SIGNAL_PROMPT,
    SIGNAL_RUNNING,
    SIGNAL_WAITING,
    UNKNOWN,
)
from farthing.domain.errors import ExpositionError, FarthingError
from farthing.domain.model import EngineGauges
from farthing.domain.records import Counters, Lifecycle, RecordKey, Started
from farthing.vocabulary.catalogue import Catalogue

__all__ = ["EngineProbe", "EngineScraper", "ScrapeOutcome", "probe_engine"]

MAX_BODY = 16 * 1024 * 1024
"""Bytes. vLLM's exposition is about 55 KB; with 16 data-parallel ranks under 1 MB."""
MAX_VERSION_BODY = 64 * 1024
TIMEOUT_SECONDS = 5.0
DOWN_AFTER_NS = 300 * SECOND
"""How long an engine must not answer before an outage settles as down: longer than most models take to load,
so that the start which ends an outage can still be told from it."""
DOWN_EVERY_NS = 60 * SECOND
"""How often a lasting outage is recorded."""

MAX_NAMES = 80
"""Characters of an engine's name and its model together that a boot has room for."""
_NO_PROBE = "no probe reports from it: cost is estimated per model, tenants are unknown and vision is part of prefill"
_SHOWN_METRICS = 5
"""Names that a sentence about unknown metrics quotes."""
_RESET = re.compile(r"#(\d+)$")


@dataclass(frozen=True, slots=True)
class ScrapeOutcome:
    """What one scrape gave: records for the journal and gauges to show, or why it failed."""

    engine: str
    at_ns: int
    """UTC nanoseconds: when the exposition arrived, or when the scrape had failed."""
    started: Started | None
    """The boot, when it is a new one; its times are UTC nanoseconds of Farthing's own clock."""
    counters: Counters | None
    down: Lifecycle | None
    """In a lasting outage: until when the engine was certainly down."""
    gauges: EngineGauges
    degraded: tuple[str, ...] = ()
    """What this engine's exposition leaves unknown, a sentence each."""
    error: FarthingError | None = None

    @property
    def records(self) -> list[Started | Counters | Lifecycle]:
        """What belongs in the journal, in order."""
        return [record for record in (self.started, self.counters, self.down) if record is not None]


class EngineScraper:
    """Scrapes one engine instance; ``scrape`` never raises for what the engine does, or is.

    ``url`` is the engine's base URL. ``resume`` is the last ``Counters`` of this engine in the journal, if
    any: with it a restarted Farthing goes on with the same boot and sequence.
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
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_body: int = MAX_BODY,
    ) -> None:
        self.name = name
        self.failures = 0
        """Scrapes that failed since this scraper was made."""
        self._base = url.rstrip("/")
        self._url = self._base + metrics_path
        self._catalogue = catalogue
        self._client = client
        self._clock = clock
        self._gpu = gpu
        self._gpu_count = gpu_count
        self._timeout = timeout_seconds
        self._max_body = max_body
        self._last = resume
        self._sequence = resume.key.sequence + 1 if resume else 0
        self._ended: set[str] = set()
        self._failing_since: int | None = None
        self._down_ns = 0

    async def scrape(self) -> ScrapeOutcome:
        """One scrape: the records and gauges it gave, or its error; ends within the time-out."""
        try:
            answer = await fetch(
                self._client, self._url, self._clock, timeout_seconds=self._timeout, max_body=self._max_body
            )
            exposition = parse_exposition(answer.body, answer.content_type, self._url)
            reading = read_signals(self._catalogue, exposition, self._url)
            boot = self._boot_of(reading, answer.at_ns)
        except FarthingError as error:
            return self._failed(error)
        started = await self._begin(boot, reading, answer.at_ns) if self._is_new(boot) else None
        counters = Counters(RecordKey(boot, 0, self._next()), answer.at_ns, reading.values, reading.gauges)
        gauges = _gauges(self._last, counters, self.failures)
        self._last, self._failing_since = counters, None
        return ScrapeOutcome(
            self.name, answer.at_ns, started, counters, down=None, gauges=gauges, degraded=reading.degraded
        )

    # ---- inside ------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _is_new(self, boot: str) -> bool:
        return self._last is None or self._last.key.boot != boot

    def _boot_of(self, reading: Reading, at_ns: int) -> str:
        """The boot that a reading is of: NAME/MODEL/START, with #n after the n-th reset without a new start.

        A long model, the path of a folder perhaps, is named by its hash: a boot has 128 characters.
        """
        model = reading.model or UNKNOWN
        if len(self.name) + len(model) > MAX_NAMES:
            model = hashlib.sha256(model.encode()).hexdigest()[:16]
        prefix = f"{self.name}/{model}/"
        identity = f"{prefix}{reading.start_ns}" if reading.start_ns is not None else ""
        if self._last is None:
            return identity or f"{prefix}seen-{at_ns}"
        boot = self._last.key.boot
        known = _RESET.sub("", boot)
        if identity in self._ended:
            # a process that has ended cannot answer again
            raise ExpositionError(
                f"{self._url} answers for more than one engine in turn, like a load balancer; "
                "give every engine its own entry and URL in engines"
            )
        if (identity and identity != known) or not boot.startswith(prefix):
            self._ended.add(known)
            return identity or f"{prefix}seen-{at_ns}"
        if counters_fell(self._last.values, reading.values):
            resets = _RESET.search(boot)
            return f"{known}#{int(resets[1]) + 1 if resets else 1}"
        return boot

    async def _begin(self, boot: str, reading: Reading, at_ns: int) -> Started:
        self._sequence = 0
        # an engine that had to be waited for was already billed while it started
        waited = self._failing_since if self._last is None else None
        return Started(
            key=RecordKey(boot, 0, self._next()),
            at_ns=min(at_ns, waited or at_ns),
            anchor=Anchor(0, 0),
            engine=self.name,
            kind=self._catalogue.engine,
            version=await _version(
                self._client, self._base + (self._catalogue.version_path or ""), self._clock, self._timeout
            ),
            model=reading.model or UNKNOWN,
            gpu=self._gpu,
            gpu_count=self._gpu_count,
        )

    def _failed(self, error: FarthingError) -> ScrapeOutcome:
        self.failures += 1
        now = self._clock()
        self._failing_since = self._failing_since or now
        until = now - DOWN_AFTER_NS
        down = None
        if self._last and until >= self._failing_since and until - self._down_ns >= DOWN_EVERY_NS:
            self._down_ns = until
            down = Lifecycle(RecordKey(self._last.key.boot, 0, self._next()), until, "down")
        gauges = EngineGauges(scrape_up=False, scrape_failures=self.failures)
        return ScrapeOutcome(self.name, now, None, None, down=down, gauges=gauges, error=error)


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


def _gauges(before: Counters | None, after: Counters, failures: int) -> EngineGauges:
    return EngineGauges(
        running=after.gauges.get(SIGNAL_RUNNING),
        waiting=after.gauges.get(SIGNAL_WAITING),
        kv_usage=after.gauges.get(SIGNAL_KV),
        generation_tokens_per_second=_rate(before, after, SIGNAL_GENERATION),
        prompt_tokens_per_second=_rate(before, after, SIGNAL_PROMPT),
        scrape_up=True,
        scrape_failures=failures,
    )


def _rate(before: Counters | None, after: Counters, signal: str) -> float | None:
    """Per second between two scrapes of one boot; None when there are no two."""
    if before is None or before.key.boot != after.key.boot or after.at_ns <= before.at_ns:
        return None
    if signal not in before.values or signal not in after.values:
        return None
    return (after.values[signal] - before.values[signal]) * SECOND / (after.at_ns - before.at_ns)
