"""Counters of whole fleets, read from Prometheus-compatible APIs: the same records as scraping gives, in the inbox."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import httpx

from farthing.collectors.engines.boots import ScrapeOutcome
from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.fleet.api import fleet_client
from farthing.collectors.fleet.reader import FleetReader
from farthing.collectors.fleet.survey import fleet_api
from farthing.collectors.fleet.targets import Target
from farthing.domain.errors import FarthingError, LedgerError
from farthing.domain.model import EngineGauges
from farthing.domain.records import Counters, RawRecord
from farthing.ledger.repository import Ledger
from farthing.service.failing import Failing
from farthing.service.naming import booked_name
from farthing.service.scraped_records import last_counters, next_sequence, raw_record
from farthing.settings import EngineSettings, FleetSettings, Settings

__all__ = ["FleetReading"]

_log = logging.getLogger(__name__)


class FleetReading:
    """Reads every API of ``fleet`` until it is cancelled; ``gauges`` is always the latest reading.

    ``probed`` tells whether an engine's probe reports; ``scraped`` gives the engines that are scraped directly. Both
    kinds are left to whoever has them, and an engine that two APIs have to the one that had it first. ``known`` are
    the engines that were ever scraped directly, by default those of the settings: one that is only in a fleet now goes
    on under its name, or its books would begin a second time.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        on_records: Callable[[], None],
        *,
        probed: Callable[[str], bool],
        scraped: Callable[[], Sequence[EngineSettings]],
        known: Callable[[], Sequence[EngineSettings]] | None = None,
        hostname: str | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._on_records = on_records
        self._probed = probed
        self._scraped = scraped
        self._ever = known or (lambda: settings.engines)
        self._hostname = socket.gethostname() if hostname is None else hostname
        self._gauges: dict[str, EngineGauges] = {}
        self._failing = Failing(_log)
        self._owners: dict[str, tuple[str, Target]] = {}
        """Engine -> the entry of ``fleet`` that reads it, and what that calls it."""
        self._instances: defaultdict[str, set[str]] = defaultdict(set)
        """Instance -> the engines called so, of different clusters."""
        self._told: set[tuple[str, str]] = set()
        self._unstored: dict[str, list[RawRecord]] = {}
        """What the ledger has not taken yet, by entry of ``fleet``."""
        self._known: tuple[Sequence[EngineSettings], dict[str, bool]] = ((), {})
        """The engines that are scraped directly, and of which names that was found out."""
        self._booked: tuple[Sequence[EngineSettings], dict[tuple[Target, bool], str]] = ((), {})
        """The engines that were ever scraped directly, and what that makes of targets' names."""

    def name_of(self, target: Target) -> str:
        """The name that an engine is booked under: that of one which was scraped directly once, else its own."""
        engines = self._ever()
        if engines is not self._booked[0]:
            self._booked = engines, {}
        found, key = self._booked[1], (target, self._is_only(target))
        if key not in found:
            booked = (booked_name(one, engines, self._hostname) for one in self._meant(target))
            names = {engine.name for engine in engines}
            found[key] = next((name for name in booked if name in names), target.name)
        return found[key]

    def gauges(self) -> Mapping[str, EngineGauges]:
        """Engine -> its state at the last scrape."""
        return dict(self._gauges)

    async def run(self) -> None:
        """Ask every API at its interval, for ever."""
        async with asyncio.TaskGroup() as group:
            for entry in self._settings.fleet:
                group.create_task(self._watch(entry))

    async def _watch(self, entry: FleetSettings) -> None:
        async with await self._client(entry) as client:
            reader = FleetReader(
                entry,
                fleet_api(entry, client),
                load_catalogue(),
                clock_ns=time.monotonic_ns,
                resume=self._last,
                claim=lambda target: self._is_for(entry.name, target),
                next_sequence=partial(next_sequence, self._ledger),
                name_of=self.name_of,
            )
            due = time.monotonic()
            while True:
                await self._poll(entry.name, reader)
                # at its own pace, however long a poll takes
                due = max(due + entry.interval_seconds, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def _client(self, entry: FleetSettings) -> httpx.AsyncClient:
        """As soon as its certificates can be read; until then the log says why they cannot."""
        while True:
            try:
                return fleet_client(entry.ca_file)
            except FarthingError as error:
                self._failing.report(f"fleet {entry.name}", str(error))
            await asyncio.sleep(entry.interval_seconds)

    async def _poll(self, name: str, reader: FleetReader) -> None:
        try:
            # while the ledger is away nothing is read: counters go on by themselves, and nothing has to be kept
            await self._store(name)
            outcomes = await reader.poll()
            self._unstored[name] = await asyncio.to_thread(_raw, outcomes)
            await self._store(name)
        except FarthingError as error:
            self._failed(name, reader, error)
        except Exception:
            # a mistake of ours about one answer; the next may be another
            _log.exception("fleet %s cannot be read; it is tried again", name)
            self._show_unread(reader)
        else:
            self._failing.report(f"fleet {name}", "")
            self._show(outcomes)
        for engine in reader.gone():
            _log.info("fleet %s: nothing comes of engine %s any more", name, engine)
            self._gauges.pop(engine, None)
            self._owners.pop(engine, None)

    async def _store(self, name: str) -> None:
        if waiting := self._unstored.get(name):
            await asyncio.to_thread(self._ledger.add, waiting)
            self._unstored[name] = []
            self._on_records()

    def _show(self, outcomes: Sequence[ScrapeOutcome]) -> None:
        for outcome in outcomes:
            self._gauges[outcome.engine] = outcome.gauges
            self._failing.report(f"engine {outcome.engine}", str(outcome.error) if outcome.error else "")

    def _failed(self, name: str, reader: FleetReader, error: FarthingError) -> None:
        """Nothing is known of an API's engines now, unless it is the ledger that fails."""
        self._failing.report(f"fleet {name}", str(error))
        if not isinstance(error, LedgerError):
            self._show_unread(reader)

    def _show_unread(self, reader: FleetReader) -> None:
        """Show an API's engines as what cannot be scraped."""
        for engine in reader.engines:
            shown = self._gauges.get(engine, EngineGauges())
            failures = shown.scrape_failures + 1
            self._gauges[engine] = replace(EngineGauges(), scrape_up=False, scrape_failures=failures)

    def _is_for(self, entry: str, target: Target) -> bool:
        """Whether an engine is read by an entry of ``fleet``, and not by anything else."""
        self._instances[target.instance].add(target.name)
        meant, name = self._meant(target), self.name_of(target)
        why = ""
        if any(self._is_scraped(one) for one in meant):
            why = "is scraped directly"
        elif any(self._probed(one) for one in meant):
            why = "has a probe that reports"
        if why:
            self._gauges.pop(name, None)
            return self._told_once(entry, name, why)
        owner = self._owners.setdefault(name, (entry, target))
        return owner == (entry, target) or self._told_once(entry, name, f"is read by fleet {owner[0]}")

    def _meant(self, target: Target) -> tuple[str, ...]:
        """What others may call an engine."""
        return (target.name, target.instance) if self._is_only(target) else (target.name,)

    def _is_scraped(self, name: str) -> bool:
        """Whether a name, or the host and port that it is, means an engine that is scraped directly."""
        engines = self._scraped()
        if engines is not self._known[0]:
            self._known = engines, {}
        found = self._known[1]
        if name not in found:
            meant = booked_name(name, engines, self._hostname)
            found[name] = any(engine.name == meant for engine in engines)
        return found[name]

    def _is_only(self, target: Target) -> bool:
        """Whether no other cluster has an instance of this name, so that the name alone says which engine is meant."""
        return len(self._instances[target.instance]) == 1

    def _told_once(self, entry: str, engine: str, why: str) -> bool:
        """Say why an engine is not read; False."""
        if (engine, why) not in self._told:
            self._told.add((engine, why))
            _log.info("fleet %s: engine %s %s; it is not read twice", entry, engine, why)
        return False

    def _last(self, engine: str) -> Counters | None:
        return last_counters(self._ledger, engine)


def _raw(outcomes: Sequence[ScrapeOutcome]) -> list[RawRecord]:
    return [raw_record(record) for outcome in outcomes for record in outcome.records]
