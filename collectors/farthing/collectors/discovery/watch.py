"""Watches all sources at once: engines that appear, change and go, and one line about what is wrong, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from farthing.collectors.discovery.containers import ContainerSource
from farthing.collectors.discovery.files import FileSource
from farthing.collectors.discovery.names import NameSource
from farthing.collectors.discovery.target import LABEL_INSTANCE, Target, engine_of
from farthing.domain.errors import DiscoveryError
from farthing.domain.model import SourceView
from farthing.settings import EngineSettings
from farthing.settings_discovery import DiscoverySettings, plain_address

__all__ = ["Found", "Source", "Watch", "look_once", "sources_of"]

_log = logging.getLogger(__name__)

SHOWN_COMPLAINTS: Final = 20
"""Of one source at a time; a file of thousands of wrong targets needs no more."""


class Source(Protocol):
    """Something that engines are discovered by."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def patience(self) -> int:
        """For how many failures in a row what was known is kept; 0: for ever."""
        ...

    async def read(self) -> tuple[list[Target], list[str]]:
        """Targets, and what is wrong with some of them; raises DiscoveryError when nothing can be told."""
        ...


def sources_of(discovery: DiscoverySettings) -> list[tuple[Source, int]]:
    """The sources of the settings in the order in which they win, each with the seconds between its readings."""
    return [
        *((FileSource(path), discovery.refresh_seconds) for path in discovery.files),
        *((NameSource(one), one.refresh_seconds) for one in discovery.dns),
        *((ContainerSource(one), one.refresh_seconds) for one in discovery.docker),
    ]


@dataclass(slots=True)
class Found:
    """What one source says, and has said."""

    source: Source
    targets: list[Target] = field(default_factory=list)
    engines: dict[str, EngineSettings] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Of the complaints those about its targets."""
    failures: int = 0
    """In a row."""

    async def refresh(self) -> bool:
        """Read the source once; returns whether its engines are others now."""
        before = self.engines
        try:
            targets, complaints = await self.source.read()
            self.failures = 0
        except DiscoveryError as error:
            self.failures += 1
            gives_up = 0 < self.source.patience < self.failures
            self.complaints = [str(error)]
            if gives_up:
                self.targets, self.engines, self.wrong = [], {}, []
                self.complaints.append(f"{self.source.name}: it failed {self.source.patience} times; its engines go")
            return self.engines != before
        if targets != self.targets:
            self.targets = targets
            self.engines, self.wrong = await asyncio.to_thread(_engines, targets, before)
        self.complaints = complaints + self.wrong
        return self.engines != before


def _engines(
    targets: Iterable[Target], before: dict[str, EngineSettings]
) -> tuple[dict[str, EngineSettings], list[str]]:
    """Engines by name, and complaints; one whose labels became wrong stays as it was."""
    engines: dict[str, EngineSettings] = {}
    complaints = []
    for target in targets:
        try:
            engine = engine_of(target)
        except DiscoveryError as error:
            name = target.labels.get(LABEL_INSTANCE) or plain_address(target.address)
            kept = before.get(name)
            complaints.append(f"{error}; it stays as it was" if kept else f"{error}; it is left out")
            if kept is not None:
                engines.setdefault(name, kept)
            continue
        other = engines.setdefault(engine.name, engine)
        if other != engine:
            complaints.append(
                f"{target.where}: engine {engine.name!r} is at {engine.metrics_url} and at {other.metrics_url}; the "
                "second is left out: give each a name of its own"
            )
    return engines, complaints


class Watch:
    """Keeps ``engines`` current while ``run`` runs; ``on_change`` is told of each change, on the event loop.

    ``static`` are farthing.yaml's own engines: a discovered one of their name or their address is left out.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        static: Iterable[EngineSettings] = (),
        on_change: Callable[[tuple[EngineSettings, ...]], None] = lambda _: None,
    ) -> None:
        self._static = tuple(static)
        self._found = [(Found(source), seconds) for source, seconds in sources]
        self._on_change = on_change
        self._said: set[str] = set()
        self._all_read = asyncio.Event()
        self._unread = len(self._found)
        self.engines: tuple[EngineSettings, ...] = ()
        """The discovered engines, without the static ones."""
        self.complaints: tuple[str, ...] = ()
        """What is wrong now, a sentence each."""

    def sources(self) -> tuple[SourceView, ...]:
        """What each source finds now, and how much is wrong with it."""
        return tuple(SourceView(one.source.name, len(one.engines), len(one.complaints)) for one, _ in self._found)

    async def run(self) -> None:
        """Read every source at its interval, for ever."""
        if not self._found:
            self._all_read.set()
        async with asyncio.TaskGroup() as group:
            for found, seconds in self._found:
                group.create_task(self._keep_reading(found, seconds))

    async def first_round(self, seconds: float) -> None:
        """Return once each source was read once, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._all_read.wait()
        except TimeoutError:
            _log.warning("not all sources of engines answered within %g s; what they find comes later", seconds)

    async def _keep_reading(self, found: Found, seconds: float) -> None:
        first = True
        while True:
            try:
                await found.refresh()
                self._merge()
            except Exception:
                # a mistake of ours about one source; the others go on
                _log.exception("%s: engines cannot be discovered; what was known holds", found.source.name)
            if first:
                first = False
                self._unread -= 1
                if not self._unread:
                    self._all_read.set()
            await asyncio.sleep(seconds)

    def _merge(self) -> None:
        engines, complaints = _summed_up(self._static, [found for found, _ in self._found])
        for complaint in complaints:
            if complaint not in self._said:
                _log.warning("%s", complaint)
        self._said = set(complaints)
        self.complaints = tuple(complaints)
        if engines != self.engines:
            gone = {engine.name for engine in self.engines} - {engine.name for engine in engines}
            come = {engine.name for engine in engines} - {engine.name for engine in self.engines}
            _say(come, "appeared")
            _say(gone, "is gone")
            self.engines = engines
            self._on_change(engines)


def _summed_up(
    static: Sequence[EngineSettings], found: Sequence[Found]
) -> tuple[tuple[EngineSettings, ...], list[str]]:
    """The discovered engines, and all that is wrong with sources, with targets and with doubles."""
    engines, doubles = merged(static, [one.engines for one in found])
    complaints = [text for one in found for text in _shown(one.complaints, one.source.name)]
    return engines, complaints + _shown(doubles, "discovery")


def merged(
    static: Sequence[EngineSettings], found: Iterable[dict[str, EngineSettings]]
) -> tuple[tuple[EngineSettings, ...], list[str]]:
    """The discovered engines in the order of their sources, and a sentence for each that is left out as a double."""
    names = {engine.name: "farthing.yaml" for engine in static}
    addresses = {_place(engine): engine.name for engine in static}
    engines, complaints = [], []
    for number, source in enumerate(found):
        for engine in source.values():
            where = names.get(engine.name)
            other = addresses.get(_place(engine))
            if where is not None:
                complaints.append(
                    f"engine {engine.name!r} is in {where} already; at {engine.metrics_url} it is left out"
                )
            elif other is not None:
                complaints.append(
                    f"engine {engine.name!r} is at the address of {other!r} ({engine.metrics_url}); it is left out, "
                    "or it would be billed twice"
                )
            else:
                names[engine.name] = f"source {number + 1} of discovery"
                addresses[_place(engine)] = engine.name
                engines.append(engine)
    return tuple(engines), complaints


def _place(engine: EngineSettings) -> str:
    """Where an engine is, the same for every way to write this machine, and for names with and without their root."""
    host = (engine.url.host or "").rstrip(".")
    if host == "[::1]" or host.startswith("127."):
        host = "localhost"
    return f"{engine.url.scheme}://{host}:{engine.url.port}{engine.url.path}{engine.metrics_path}"


def _shown(complaints: Sequence[str], name: str) -> list[str]:
    more = len(complaints) - SHOWN_COMPLAINTS
    return [*complaints[:SHOWN_COMPLAINTS], *([f"{name}: and {more} more like these"] if more > 0 else [])]


def _say(names: set[str], what: str) -> None:
    if len(names) > SHOWN_COMPLAINTS:
        _log.info("%d engines: each %s", len(names), what)
    else:
        for name in sorted(names):
            _log.info("engine %s %s", name, what)


async def look_once(
    discovery: DiscoverySettings, static: Iterable[EngineSettings]
) -> tuple[tuple[EngineSettings, ...], list[str]]:
    """What the sources say now and what is wrong, for a command that does not watch."""
    found = [Found(source) for source, _ in sources_of(discovery)]
    await asyncio.gather(*(one.refresh() for one in found))
    return _summed_up(tuple(static), found)
