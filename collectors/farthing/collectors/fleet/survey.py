"""What one API of ``fleet`` has of engines, asked once: for commands."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import httpx

from farthing.collectors.engines.boots import ScrapeOutcome
from farthing.collectors.fleet.api import PrometheusApi, fleet_client
from farthing.collectors.fleet.reader import FleetReader
from farthing.settings_fleet import FleetSettings
from farthing.vocabulary.catalogue import Catalogue

__all__ = ["FleetSurvey", "fleet_api", "survey_fleet"]

TIMEOUT_SECONDS: Final = 30.0
AGAIN_SECONDS: Final = 0.5
"""Between two questions: a scrape that nothing follows counts once it has not changed."""


@dataclass(frozen=True, slots=True)
class FleetSurvey:
    """Engines by name, sorted."""

    engines: tuple[str, ...]
    """Whose counters can be read."""
    models: tuple[str, ...]
    failing: dict[str, str]
    """Engine -> why its latest scrape tells nothing."""
    without_gpu: tuple[str, ...]
    """Of which neither settings nor labels say what they run on."""
    degraded: tuple[str, ...]
    """What is unknown or only estimated, a sentence each, of any engine."""


def fleet_api(entry: FleetSettings, client: httpx.AsyncClient) -> PrometheusApi:
    """The API of an entry of ``fleet``, asked through a client of the caller's."""
    return PrometheusApi(
        str(entry.url),
        client,
        token_file=entry.token_file,
        username=entry.username,
        password_file=entry.password_file,
        tenant=entry.tenant,
        timeout_seconds=TIMEOUT_SECONDS,
    )


def survey_fleet(
    entry: FleetSettings, catalogue: Catalogue, *, transport: httpx.AsyncBaseTransport | None = None
) -> FleetSurvey:
    """What the API has now; blocks. Raises EngineUnreachableError, ExpositionError or ConfigError for what it is."""

    async def ask() -> list[ScrapeOutcome]:
        async with httpx.AsyncClient(transport=transport) if transport else fleet_client(entry.ca_file) as client:
            reader = FleetReader(
                entry,
                fleet_api(entry, client),
                catalogue,
                clock_ns=time.monotonic_ns,
                resume=lambda _: None,
                claim=lambda _: True,
            )
            first = await reader.poll()
            await asyncio.sleep(AGAIN_SECONDS)
            return first + await reader.poll()

    outcomes = asyncio.run(ask())
    latest = {outcome.engine: outcome for outcome in outcomes}
    started = {outcome.engine: outcome.started for outcome in outcomes if outcome.started}
    return FleetSurvey(
        engines=tuple(sorted(engine for engine, outcome in latest.items() if outcome.error is None)),
        models=tuple(sorted({one.model for one in started.values()})),
        failing={engine: str(one.error) for engine, one in sorted(latest.items()) if one.error is not None},
        without_gpu=tuple(sorted(engine for engine, one in started.items() if not one.gpu)),
        degraded=tuple(dict.fromkeys(sentence for one in latest.values() for sentence in one.degraded)),
    )
