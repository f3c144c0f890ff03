"""The energy that is shown of a device, over all who read it: a counter that only grows by what was really used.

Each source's track counts for itself, from when it began, and the inbox gets that. Here the growth of whichever track
is shown is added up. One that comes back counts at once what was used in its absence; of that what others counted
meanwhile is left out.
"""

from __future__ import annotations

from collections import Counter

from farthing.collectors.gpu.tracks import Track
from farthing.domain.gpu import NO_ENERGY

__all__ = ["ShownEnergy"]


class ShownEnergy:
    """Of one device; ``count`` is called for the track that is shown, after each reading that it counted."""

    def __init__(self) -> None:
        self._total_mj = 0.0
        self._by_method: Counter[str] = Counter()
        """Rounded to whole millijoules, the rest goes to the next reading."""

    def count(self, track: Track) -> None:
        """Add what the track has counted since it was last shown."""
        used, total = track.shown or (0.0, self._total_mj)
        grown = max(0.0, track.counted_mj - used - (self._total_mj - total))
        self._total_mj += grown
        track.shown = track.counted_mj, self._total_mj
        self._by_method[track.method] += round(self._total_mj) - self._by_method.total()

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """(method, millijoules), by method; each only grows, and together they are the total."""
        return tuple(sorted((method, mj) for method, mj in self._by_method.items() if method != NO_ENERGY))
