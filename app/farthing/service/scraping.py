"""Scraping of every configured engine: gauges for all, and journalled counters for those without the probe."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

import httpx

from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.engines.clock import anchored_clock
from farthing.collectors.engines.scrape import EngineScraper
from farthing.domain.errors import LedgerError
from farthing.domain.model import EngineGauges
from farthing.domain.records import RawRecord
from farthing.ledger.repository import Ledger
from farthing.service.failing import Failing
from farthing.service.scraped_records import last_counters, next_sequence, raw_record
from farthing.settings import EngineSettings, Settings

__all__ = ["Scraping"]

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
"""How soon an engine that was discovered is scraped."""
QUEUED_RECORDS: Final = 1_000
"""Of one engine, while the ledger cannot be written: half an hour of scrapes every two seconds."""
RETRY_SECONDS: Final = 5.0
_UNLIMITED: Final = httpx.Limits(max_connections=None, max_keepalive_connections=20)
"""Engines that answer slowly must not make the others wait."""


class Scraping:
    """Scrapes engines until it is cancelled; ``gauges`` is always the latest reading.

    ``probed`` tells whether an engine's probe reports, whatever the settings say: its counters are not costed then.
    ``engines`` are those to scrape now; which they are may change at any time. None: those of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        on_records: Callable[[], None],
        probed: Callable[[str], bool],
        engines: Callable[[], Sequence[EngineSettings]] | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._on_records = on_records
        self._probed = probed
        self._engines = engines or (lambda: settings.engines)
        self._gauges: dict[str, EngineGauges] = {}
        self._failing = Failing(_log)

    def gauges(self) -> Mapping[str, EngineGauges]:
        """engine -> its state at the last scrape; of those that are scraped now."""
        return dict(self._gauges)

    async def run(self) -> None:
        """Scrape every engine at its interval, for ever; one that is gone no longer, one that changed anew."""
        watched: dict[str, tuple[EngineSettings, asyncio.Task[None]]] = {}
        seen: Sequence[EngineSettings] | None = None
        async with httpx.AsyncClient(limits=_UNLIMITED) as client, asyncio.TaskGroup() as group:
            while True:
                if (engines := self._engines()) is not seen:
                    seen = engines
                    await self._end(watched, {engine.name: engine for engine in engines})
                    for engine in engines:
                        if engine.name not in watched:
                            watched[engine.name] = engine, group.create_task(self._keep_watching(engine, client))
                await asyncio.sleep(LOOK_SECONDS)

    async def _end(
        self, watched: dict[str, tuple[EngineSettings, asyncio.Task[None]]], engines: Mapping[str, EngineSettings]
    ) -> None:
        """End the scraping of engines that are gone, or other ones now; a scrape that is under way is given up."""
        ended = [name for name, (engine, _) in watched.items() if engines.get(name) != engine]
        tasks = [watched.pop(name)[1] for name in ended]
        for task in tasks:
            task.cancel()
        # the next scraper of a name goes on after the last record of the one before
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in ended:
            if name not in engines:
                self._gauges.pop(name, None)
                self._failing.forget(f"engine {name}")

    async def _keep_watching(self, engine: EngineSettings, client: httpx.AsyncClient) -> None:
        while True:
            try:
                await self._watch(engine, client)
            except LedgerError as error:
                self._failing.report(f"engine {engine.name}", f"where its counters ended cannot be read: {error}")
            except Exception:
                # a mistake of ours about one engine; the others are scraped on
                _log.exception("engine %s cannot be scraped; it is tried again", engine.name)
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self, engine: EngineSettings, client: httpx.AsyncClient) -> None:
        resume = None if engine.probe else await asyncio.to_thread(last_counters, self._ledger, engine.name)
        scraper = EngineScraper(
            engine.name,
            str(engine.url),
            load_catalogue(engine.kind),
            client,
            anchored_clock(),
            metrics_path=engine.metrics_path,
            gpu=engine.gpu,
            gpu_count=engine.gpu_count,
            resume=resume,
            next_sequence=partial(next_sequence, self._ledger),
        )
        waiting: deque[RawRecord] = deque()
        while True:
            outcome = await scraper.scrape()
            self._gauges[engine.name] = outcome.gauges
            error = str(outcome.error) if outcome.error else ""
            if not engine.probe and not self._probed(engine.name):
                waiting.extend(raw_record(record) for record in outcome.records)
            while len(waiting) > QUEUED_RECORDS:
                # the second: the first may be a boot's start, and counters go on from any record to any other
                del waiting[1]
            error = await self._store(waiting) or error
            self._failing.report(f"engine {engine.name}", error)
            await asyncio.sleep(self._settings.costing.scrape_seconds)

    async def _store(self, waiting: deque[RawRecord]) -> str:
        """Store what waits; the reason where the ledger cannot, which may be full or away for hours."""
        if not waiting:
            return ""
        try:
            # even when it is cancelled: the next scraper asks for the last record that was stored
            await _finished(asyncio.to_thread(self._ledger.add, list(waiting)))
        except LedgerError as error:
            return f"its counters wait for the ledger: {error}"
        waiting.clear()
        self._on_records()
        return ""


async def _finished(storing: Coroutine[Any, Any, int]) -> None:
    """Wait for what cannot be interrupted, also when it is given up meanwhile."""
    task = asyncio.ensure_future(storing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
