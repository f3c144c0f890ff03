"""The engines of farthing.yaml and those that were ever discovered: what each is paid for by is kept in the ledger.

So costs do not change when what an engine was discovered by is gone: a file, a container, a record of the DNS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from pydantic import ValidationError

from farthing.domain.errors import ConfigError, PriceError
from farthing.ledger.discovered import discovered_engines, note_discovered
from farthing.ledger.repository import Ledger
from farthing.service.pricing import price_book
from farthing.settings import EngineSettings, Settings

__all__ = ["PAY_FIELDS", "KnownEngines", "paid_alike", "with_discovered"]

_log = logging.getLogger(__name__)

PAY_FIELDS = ("gpu", "gpu_count", "gpu_fraction", "price", "capacity", "gpu_uuids", "pod")
"""Settings of an engine that its costs or its energy depend on."""


def paid_alike(one: EngineSettings | None, two: EngineSettings | None) -> bool:
    """Whether an engine costs the same by both settings; None: by none at all."""
    return all(_paid(one, field) == _paid(two, field) for field in PAY_FIELDS)


def _paid(engine: EngineSettings | None, field: str) -> object:
    return EngineSettings.model_fields[field].default if engine is None else getattr(engine, field)


def with_discovered(settings: Settings, ledger: Ledger) -> Settings:
    """``settings`` with the engines that were ever discovered, for a command that reads the books."""
    return KnownEngines(settings, ledger, lambda: 0).settings


class KnownEngines:
    """``settings`` has all engines that are known; ``present`` are those that are there now. ``clock_ns`` is UTC.

    farthing.yaml's own engines come first and win; a discovered one keeps its place among the others for ever, and
    with it its GPUs of a capacity.
    """

    def __init__(self, settings: Settings, ledger: Ledger, clock_ns: Callable[[], int]) -> None:
        self._base = settings
        self._ledger = ledger
        self._clock_ns = clock_ns
        self._static = {engine.name for engine in settings.engines}
        self._complaints: set[str] = set()
        self._noted: dict[str, EngineSettings] = {}
        kept = (_read(name, text) for name, text in discovered_engines(ledger).items() if name not in self._static)
        self.settings = settings
        self._admit([engine for engine in kept if engine is not None])
        self.present: tuple[EngineSettings, ...] = settings.engines

    def observe(self, found: Sequence[EngineSettings]) -> None:
        """Take what is discovered now. What cannot be paid for as it says stays as it was, and is said once.

        Raises LedgerError when it cannot be kept: then nothing has changed.
        """
        before, settings = dict(self._noted), self.settings
        self._admit([one for one in found if one.name not in self._static and self._noted.get(one.name) != one])
        try:
            news = {name: _text(one) for name, one in self._noted.items() if before.get(name) != one}
            note_discovered(self._ledger, news, self._clock_ns())
        except Exception:
            self._noted, self.settings = before, settings
            raise
        there = (self._noted.get(engine.name) for engine in found)
        self.present = (*self._base.engines, *(engine for engine in there if engine is not None))

    # ---- inside ------------------------------------------------------------------------------------

    def _admit(self, engines: Sequence[EngineSettings]) -> None:
        """Know engines, all at once where they agree with all others, else each that does."""
        if not engines:
            return
        if not self._problem(engines):
            self._know(engines)
            return
        for engine in engines:
            problem = self._problem([engine])
            if not problem:
                self._know([engine])
                continue
            if problem not in self._complaints:
                self._complaints.add(problem)
                _log.warning("engine %s is not taken as it was discovered: %s", engine.name, problem)
            known = self._noted.get(engine.name)
            if known is not None:
                # where it is has nothing to do with who pays
                moved = {name: getattr(engine, name) for name in ("url", "metrics_path", "kind", "probe")}
                self._know([known.model_copy(update=moved)])

    def _know(self, engines: Iterable[EngineSettings]) -> None:
        self._noted |= {engine.name: engine for engine in engines}
        self.settings = self._with(())

    def _with(self, engines: Iterable[EngineSettings]) -> Settings:
        return self._base.with_engines(
            (*self._base.engines, *(self._noted | {engine.name: engine for engine in engines}).values())
        )

    def _problem(self, engines: Sequence[EngineSettings]) -> str:
        """Why some engines cannot be beside those that are known; empty when they can."""
        try:
            settings = self._with(engines)
            if any(engine.capacity for engine in engines):
                price_book(settings)
        except (ConfigError, PriceError) as error:
            return str(error)
        return ""


def _text(engine: EngineSettings) -> str:
    return engine.model_dump_json(exclude_defaults=True)


def _read(name: str, text: str) -> EngineSettings | None:
    """Settings of the ledger; None, and a line in the log, for what a later version wrote."""
    try:
        return EngineSettings.model_validate_json(text)
    except ValidationError as error:
        _log.error("how engine %s was discovered cannot be read: %s", name, error.errors()[0]["msg"])
        return None
