"""Which values of a label that clients choose have series of their own: a bounded number, and each for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from farthing.domain.conventions import OTHER

__all__ = ["Seats"]


class Seats:
    """Seats for the values of one label; those without one share ``other``.

    A value that has a seat keeps it, and one that waited in ``other`` does not leave it for a seat that was taken, so
    no series decreases. That holds over restarts where ``keep`` stores what is given and ``held`` brings it back.
    ``always`` have a seat beyond the ``most`` that the others may take.
    """

    def __init__(
        self,
        most: int,
        *,
        always: Iterable[str] = (),
        held: Iterable[str] = (),
        keep: Callable[[Collection[str]], None] = lambda values: None,
    ) -> None:
        self._most = most
        # `other` is a pool, not a value: one that calls itself so joins it and takes no seat.
        self._always = frozenset(always) - {OTHER}
        # Replaced whole, and read without the lock: where all are seated nobody waits for ``keep``.
        self._held = frozenset(held) - {OTHER}
        self._keep = keep
        # Two scrapers may collect at once, and both may hand out the last seat.
        self._lock = threading.Lock()

    @property
    def held(self) -> tuple[str, ...]:
        """Values with series of their own, sorted."""
        return tuple(sorted(self._held))

    def give(self, spend: Mapping[str, int]) -> frozenset[str]:
        """The values with seats, after free ones went to the costliest without one (ties by name).

        ``spend`` is nano-dollars by value. What ``keep`` raises is passed on, and then no seat was given.
        """
        held = self._held
        if not self._due(spend, held):
            return held
        with self._lock:
            if given := self._due(spend, self._held):
                self._keep(given)
                self._held |= given
            return self._held

    def _due(self, spend: Mapping[str, int], held: frozenset[str]) -> set[str]:
        """Who gets a seat where these have theirs."""
        waiting = spend.keys() - held - {OTHER}
        free = max(self._most - len(held - self._always), 0)
        given = waiting & self._always
        return given | set(sorted(waiting - given, key=lambda value: (-spend[value], value))[:free])
