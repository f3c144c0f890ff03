"""Engines that no price applies to: why, kept in the ledger so that every report can say so."""

from __future__ import annotations

from farthing.domain.clock import HOUR
from farthing.domain.records import Started
from farthing.ledger.engine_notes import Unpriced, forget_unpriced, note_unpriced, unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.service.scope import Scope

__all__ = ["UnpricedEngines", "unpriced_in"]


class UnpricedEngines(dict[str, str]):
    """engine -> why nothing of it can be costed, as far as was read; the ledger is told of every change."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._noted = {engine.engine: engine.reason for engine in unpriced_engines(ledger)}

    def note(self, engine: str, started: Started, gpu: str, gpu_count: int, reason: str, since_ns: int) -> None:  # noqa: PLR0917 - the columns of a note
        """Remember an engine, of which nothing can be costed from a UTC moment on."""
        self[engine] = reason
        if self._noted.get(engine) != reason:
            note_unpriced(self._ledger, Unpriced(engine, started.model, gpu, gpu_count, since_ns, reason))
            self._noted[engine] = reason

    def priced(self, engine: str) -> None:
        """A price applies to it."""
        self.pop(engine, None)
        if self._noted.pop(engine, None) is not None:
            forget_unpriced(self._ledger, engine)


def unpriced_in(ledger: Ledger, scope: Scope) -> tuple[Unpriced, ...]:
    """Engines without a price whose unknown cost could lie in a scope.

    Nobody can tell whose it is, so it could be any tenant's or project's.
    """
    return tuple(
        engine
        for engine in unpriced_engines(ledger)
        if (scope.end_hour is None or engine.since_ns < scope.end_hour * HOUR)
        and scope.engine in {None, engine.engine}
        # who sees some tenants alone is not told which models there are
        and (scope.tenants is not None or scope.model in {None, engine.model})
    )
