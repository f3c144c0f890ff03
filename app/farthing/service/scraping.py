"""Scraping of every configured engine: gauges for all, and journalled counters for those without the probe."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import httpx
import sqlalchemy as sa

from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.engines.clock import anchored_clock
from farthing.collectors.engines.scrape import EngineScraper
from farthing.collectors.wire import decode_line, decode_raw
from farthing.domain import conventions as c
from farthing.domain.model import EngineGauges
from farthing.domain.records import Counters, Lifecycle, RawRecord, RecordKey, Started
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.settings import EngineSettings, Settings
from farthing_probe import wire

__all__ = ["Scraping"]

_log = logging.getLogger(__name__)


class Scraping:
    """Scrapes engines until it is cancelled; ``gauges`` is always the latest reading.

    ``probed`` tells whether an engine's probe reports, whatever the settings say: its counters are not costed then.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, on_records: Callable[[], None], probed: Callable[[str], bool]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._on_records = on_records
        self._probed = probed
        self._gauges: dict[str, EngineGauges] = {}
        self._failing: dict[str, str] = {}

    def gauges(self) -> Mapping[str, EngineGauges]:
        """engine -> its state at the last scrape."""
        return dict(self._gauges)

    async def run(self) -> None:
        """Scrape every engine at its interval, for ever."""
        async with httpx.AsyncClient() as client, asyncio.TaskGroup() as group:
            for engine in self._settings.engines:
                group.create_task(self._watch(engine, client))

    async def _watch(self, engine: EngineSettings, client: httpx.AsyncClient) -> None:
        resume = None if engine.probe else await asyncio.to_thread(self._last_counters, engine.name)
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
        )
        while True:
            outcome = await scraper.scrape()
            self._gauges[engine.name] = outcome.gauges
            self._report(engine.name, str(outcome.error) if outcome.error else "")
            if outcome.records and not engine.probe and not self._probed(engine.name):
                raw = [_raw(record) for record in outcome.records]
                await asyncio.to_thread(self._ledger.add, raw)
                self._on_records()
            await asyncio.sleep(self._settings.costing.scrape_seconds)

    def _report(self, engine: str, error: str) -> None:
        """Log a change, not every failure."""
        if error != self._failing.get(engine, ""):
            if error:
                _log.warning("engine %s: %s", engine, error)
            else:
                _log.info("engine %s answers again", engine)
        self._failing[engine] = error

    def _last_counters(self, engine: str) -> Counters | None:
        r = t.records.c
        prefix = f"{c.SCRAPED_BOOT}{engine}/"
        query = (
            sa.select(r.line)
            .where(r.kind == "counters", r.boot.startswith(prefix, autoescape=True))
            .order_by(r.id.desc())
            .limit(1)
        )
        rows = self._ledger.select(query)
        if not rows:
            return None
        record = decode_line(bytes(rows[0].line))
        if not isinstance(record, Counters):
            return None
        boot = record.key.boot.removeprefix(c.SCRAPED_BOOT)
        return replace(record, key=RecordKey(boot, record.key.process, record.key.sequence))


def _raw(record: Started | Counters | Lifecycle) -> RawRecord:
    """A scraped record as the inbox keeps it; its boot is marked, since the engine's probe may have one too."""
    boot, process, sequence = c.SCRAPED_BOOT + record.key.boot, record.key.process, record.key.sequence
    if isinstance(record, Started):
        line = wire.started(
            boot,
            process,
            sequence,
            at_ns=record.at_ns,
            wall_ns=record.at_ns,
            engine=record.engine,
            engine_kind=record.kind,
            version=record.version,
            model=record.model,
            gpu=record.gpu,
            gpu_count=record.gpu_count,
        )
    elif isinstance(record, Counters):
        line = wire.counters(boot, process, sequence, at_ns=record.at_ns, values=record.values, gauges=record.gauges)
    else:
        line = wire.lifecycle(boot, process, sequence, at_ns=record.at_ns, event=record.event)
    return decode_raw(json.dumps(line, separators=(",", ":")).encode())
