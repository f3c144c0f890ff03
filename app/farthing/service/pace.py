"""How often something is done that costs the more the larger a fleet is: never more than a share of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["MOST_EVERY_SECONDS", "Pace", "rest_seconds", "send_every_seconds"]

ENGINES_A_SECOND, MOST_EVERY_SECONDS = 100, 10
"""How many engines should send each second, as long as each does so this often."""
REST = 3.0
"""How many times as long as it took something rests."""


def rest_seconds(took: float, usual: float) -> float:
    """How long what took so many seconds rests: longer where it is dear, since a part of it is for the fleet, not for
    what is new; from a quarter of what is usual to three times that.
    """
    return min(3 * usual, max(usual / 4, REST * took))


def send_every_seconds(engines: int) -> int:
    """How often each of so many engines' probes should send what it has; a probe looks once a second.

    Each body takes time beside that of its records, so many engines are asked to send fewer and larger ones, but at
    least every ten seconds.
    """
    return max(1, min(MOST_EVERY_SECONDS, engines // ENGINES_A_SECOND))


class Pace:
    """Says when it is due again: at once where it is cheap, later the more of a processor it takes.

    ``share`` (0-1) is how much of a processor it may take; it is due after ``most_seconds`` in any case. ``clock`` is
    monotonic, ``cpu`` the thread's own time, so that a busy machine does not slow it down.
    """

    def __init__(
        self,
        share: float,
        most_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share = share
        self._most_seconds = most_seconds
        self._clock = clock
        self._cpu = cpu
        self._due = clock()

    @property
    def due(self) -> bool:
        """Whether it may be done now."""
        return self._clock() >= self._due

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Do it within: how long it took says when it is due next. One that failed is due at once."""
        began, cpu = self._clock(), self._cpu()
        yield
        self._due = began + min(self._most_seconds, (self._cpu() - cpu) / self._share)
