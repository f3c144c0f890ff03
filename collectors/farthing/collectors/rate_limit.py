"""Token buckets that stop a sender run wild and nobody else: generous, and bounded in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimit"]

BURST_SECONDS = 10.0
"""How much of its rate a sender may use at once after a rest: what an outage left behind arrives in bursts."""
MOST_SENDERS = 4_096
"""Senders remembered; beyond these the ones that have been quiet for longest begin anew."""


class RateLimit:
    """Units per second by sender; for one thread. ``clock`` gives monotonic seconds.

    A sender is let in while it is not in debt, and charged for what it turned out to bring: so anything of any
    size passes, and is paid for by waiting afterwards.
    """

    def __init__(self, per_second: float, clock: Callable[[], float], most_senders: int = MOST_SENDERS) -> None:
        self._rate = per_second
        self._clock = clock
        self._most = most_senders
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By sender, the one charged last at the end: (units left, when)."""

    def __len__(self) -> int:
        return len(self._levels)

    def wait_seconds(self, sender: str) -> float:
        """How long the sender has to wait; 0 when it may send now."""
        return max(0.0, -self._level(sender) / self._rate)

    def charge(self, sender: str, units: float) -> None:
        """Take what a sender brought from its bucket, below zero if need be."""
        level = self._level(sender) - units
        self._levels[sender] = level, self._clock()
        self._levels.move_to_end(sender)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)

    def _level(self, sender: str) -> float:
        full = self._rate * BURST_SECONDS
        if sender not in self._levels:
            return full
        level, then = self._levels[sender]
        return min(full, level + (self._clock() - then) * self._rate)
