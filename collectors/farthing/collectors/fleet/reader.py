"""Reading a fleet's counters from one Prometheus-compatible API: one poll gives every engine's news."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from farthing.collectors.engines.boots import BootRecords, ScrapeOutcome
from farthing.collectors.engines.catalogue import Reading, read_signals, scraped_metrics
from farthing.collectors.engines.exposition import Exposition
from farthing.collectors.fleet.api import PrometheusApi, Series
from farthing.collectors.fleet.following import Following, Scrape
from farthing.collectors.fleet.targets import NAME, UP, Target, by_target, census, packed, selector
from farthing.domain.clock import SECOND
from farthing.domain.errors import EngineUnreachableError, FarthingError
from farthing.domain.records import Counters
from farthing.settings_fleet import FleetSettings
from farthing.vocabulary.catalogue import Catalogue

__all__ = ["FleetReader"]

_log = logging.getLogger(__name__)

POLLS_PER_CENSUS: Final = 40
"""After so many polls it is asked anew how many series there are."""


class FleetReader:
    """Reads the engines of one API; ``poll`` raises FarthingError only for what the API does, or is.

    ``clock_ns`` is monotonic. ``resume`` gives the last ``Counters`` of an engine in the journal by its name;
    ``claim`` says whether an engine is this reader's to read, by its name and its instance; ``next_sequence`` as in
    ``BootRecords``. ``name_of`` says under which name an engine's records are kept.
    """

    def __init__(
        self,
        settings: FleetSettings,
        api: PrometheusApi,
        catalogue: Catalogue,
        *,
        clock_ns: Callable[[], int],
        resume: Callable[[str], Counters | None],
        claim: Callable[[Target], bool],
        next_sequence: Callable[[str], int] = lambda _: 0,
        name_of: Callable[[Target], str] = lambda target: target.name,
    ) -> None:
        self._settings = settings
        self._api = api
        self._catalogue = catalogue
        self._clock_ns = clock_ns
        self._resume = resume
        self._claim = claim
        self._next_sequence = next_sequence
        self._name_of = name_of
        self._metrics = (*scraped_metrics(catalogue), UP)
        self._signals = frozenset(source.metric for signal in catalogue.scraped.values() for source in signal.sources)
        self._queries: list[str] = []
        self._polls = 0
        self._engines: dict[Target, _Engine] = {}
        self._strangers: set[Target] = set()

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that are read, in no order."""
        return tuple(engine.name for engine in self._engines.values())

    @property
    def stale_seconds(self) -> float:
        """After how long without news a replica is given up, and an engine forgotten."""
        return self._settings.stale_intervals * self._settings.interval_seconds

    async def poll(self) -> list[ScrapeOutcome]:
        """What is new of every engine, in order of each one's scrapes."""
        if self._polls % POLLS_PER_CENSUS == 0:
            self._queries = await self._plan()
        self._polls += 1
        answers = [await self._api.query(query) for query in self._queries]
        now_ns = self._clock_ns()
        # a thousand engines take a good part of a second, in which others want the loop
        return await asyncio.to_thread(self._news, [one for answer in answers for one in answer], now_ns)

    def gone(self) -> list[str]:
        """The engines of which nothing has come for long, which are not read any more; each is named once."""
        now_ns, least_ns = self._clock_ns(), self._settings.lookback * SECOND
        silent = [
            target
            for target, engine in self._engines.items()
            if engine.following.silent_ns(now_ns) > max(engine.following.patience_ns, least_ns)
        ]
        return [self._engines.pop(target).name for target in silent]

    # ---- inside ------------------------------------------------------------------------------------

    async def _plan(self) -> list[str]:
        entry = self._settings
        counted = await self._api.query(census(self._metrics, entry.match))
        series = {one.labels.get(NAME, ""): round(max(one.points.values())) for one in counted if one.points}
        groups = packed(self._metrics, series, entry.max_series)
        return [selector(group, entry.match, entry.lookback) for group in groups]

    def _news(self, series: Sequence[Series], now_ns: int) -> list[ScrapeOutcome]:
        found = by_target(
            series, cluster_label=self._settings.cluster_label, replica_label=self._settings.replica_label
        )
        outcomes = []
        for target, replicas in found.items():
            if not self._is_ours(target, replicas):
                continue
            engine = self._engines.get(target) or self._begin(target)
            outcomes += [engine.taken(scrape, self._device) for scrape in engine.following.take(replicas, now_ns)]
        return outcomes

    def _is_ours(self, target: Target, replicas: Mapping[str, Sequence[Series]]) -> bool:
        if target not in self._engines:
            names = {one.labels.get(NAME, "") for series in replicas.values() for one in series}
            if not names & self._signals:
                if target not in self._strangers:
                    self._strangers.add(target)
                    _log.info(
                        "fleet %s: %s has no counters of %s; it is not read",
                        self._settings.name,
                        target.instance,
                        self._catalogue.title,
                    )
                return False
            self._strangers.discard(target)
        if self._claim(target):
            return True
        self._engines.pop(target, None)
        return False

    def _begin(self, target: Target) -> _Engine:
        name = self._name_of(target)
        resume = self._resume(name)
        stale_ns = round(self.stale_seconds * SECOND)
        agree_ns = round(2 * self._settings.interval_seconds * SECOND)
        following = Following(stale_ns=stale_ns, agree_ns=agree_ns, resume=resume)
        where = f"{target.instance} at {self._api.url}"
        records = BootRecords(name, self._catalogue, resume=resume, next_sequence=self._next_sequence)
        engine = _Engine(name, where, self._catalogue, following, records)
        self._engines[target] = engine
        return engine

    def _device(self, engine: str, reading: Reading, exposition: Exposition) -> tuple[str, int]:
        """What an engine runs on by settings, else by labels; no name where neither says it."""
        entry = self._settings.gpu_of(engine, reading.model)
        if entry is not None:
            return entry.gpu, entry.gpu_count
        labels = exposition.find(self._catalogue.model.metric)[0].labels
        gpu = labels.get(self._settings.gpu_label, "")
        count = labels.get(self._settings.gpu_count_label, "")
        return gpu, int(count) if count.isascii() and count.isdigit() and int(count) > 0 else 1


class _Engine:
    """One engine: its timeline, and its records."""

    def __init__(self, name: str, where: str, catalogue: Catalogue, following: Following, records: BootRecords) -> None:
        self.name = name
        self.following = following
        self._where = where
        self._catalogue = catalogue
        self._records = records

    def taken(self, scrape: Scrape, device: Callable[[str, Reading, Exposition], tuple[str, int]]) -> ScrapeOutcome:
        """The records of a scrape, or why it has none."""
        try:
            if scrape.exposition is None:
                raise EngineUnreachableError(f"{self._where}: its scrape failed; is the engine running and reachable?")
            reading = read_signals(self._catalogue, scrape.exposition, self._where)
            boot = self._records.boot_of(reading, scrape.at_ns, self._where)
            on = device(self.name, reading, scrape.exposition) if self._records.is_new(boot) else None
            return self._records.taken(boot, reading, scrape.at_ns, notes=self.following.notes, device=on)
        except FarthingError as error:
            return self._records.failed(scrape.at_ns, error)
