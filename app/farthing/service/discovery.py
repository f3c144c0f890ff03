"""Discovery in ``farthing serve``: watches the sources on the event loop, and hands news to whoever keeps the books."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection
from typing import Final

from farthing.collectors.discovery.watch import Watch, sources_of
from farthing.domain.model import SourceView
from farthing.ledger.repository import Ledger
from farthing.service.known_engines import KnownEngines
from farthing.service.naming import addresses_of
from farthing.settings import EngineSettings, Settings

__all__ = ["DiscoveredEngines"]

FIRST_SECONDS: Final = 6.0
"""How long the first costing waits for the sources, so that an engine begins with what is said of it."""


class DiscoveredEngines:
    """The engines that there are, by farthing.yaml and by discovery.

    ``run`` and ``first_round`` belong to the event loop; ``take`` to the thread that keeps the books; what is only
    asked, to any thread.
    """

    def __init__(self, settings: Settings, ledger: Ledger, on_news: Callable[[], None]) -> None:
        self._known = KnownEngines(settings, ledger, time.time_ns)
        self._on_news = on_news
        self._news: tuple[EngineSettings, ...] | None = None
        self._watch = Watch(sources_of(settings.discovery), settings.engines, self._changed)
        self._hostname = socket.gethostname()
        self._taken = self._known.settings
        self._addresses: dict[str, set[str] | frozenset[str]] = {
            one.name: addresses_of(one, self._hostname) for one in self._known.present
        }

    def settings(self) -> Settings:
        """The settings with all engines that were ever known."""
        return self._known.settings

    def present(self) -> tuple[EngineSettings, ...]:
        """The engines that there are now; the same object as long as they are the same."""
        return self._known.present

    def sources(self) -> tuple[SourceView, ...]:
        """What each source finds now, and how much is wrong with it."""
        return self._watch.sources()

    async def run(self) -> None:
        """Watch for ever."""
        await self._watch.run()

    async def first_round(self) -> None:
        """Return once every source was asked, or soon."""
        await self._watch.first_round(FIRST_SECONDS)

    def take(self) -> Settings | None:
        """Keep in the ledger what was discovered since; the settings with it until ``taken`` says that they hold.

        None: no other engines are known. Raises LedgerError when it cannot be kept; the next call tries again.
        """
        news = self._news
        if news is not None:
            self._known.observe(news)
            self._addresses = {one.name: addresses_of(one, self._hostname) for one in self._known.present}
            if self._news is news:
                self._news = None
        return None if self._known.settings is self._taken else self._known.settings

    def taken(self, settings: Settings) -> None:
        """The books go on with these settings."""
        self._taken = settings

    def is_called(self, engine: str, names: Collection[str]) -> bool:
        """Whether one of some names is what a probe of this engine calls itself that has no name of its own."""
        return bool(names) and not self._addresses.get(engine, frozenset()).isdisjoint(names)

    def _changed(self, engines: tuple[EngineSettings, ...]) -> None:
        self._news = engines
        self._on_news()
