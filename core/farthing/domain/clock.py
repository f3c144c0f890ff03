"""Integer nanoseconds, and the anchor that ties an engine's monotonic clock to UTC.

Within a boot there is one monotonic clock. It is anchored to UTC once; wall clocks of different hosts
are never subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

__all__ = ["HOUR", "MILLISECOND", "SECOND", "Anchor", "nanoseconds", "utc"]

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


@dataclass(frozen=True, slots=True)
class Anchor:
    """One reading of both clocks at the same moment: nanoseconds since the epoch, and monotonic nanoseconds."""

    wall_ns: int
    mono_ns: int

    def to_wall(self, mono_ns: int) -> int:
        """Nanoseconds since the epoch of a monotonic reading of this boot."""
        return self.wall_ns + (mono_ns - self.mono_ns)

    def to_mono(self, wall_ns: int) -> int:
        """Monotonic reading of this boot for a wall-clock moment of the same host."""
        return self.mono_ns + (wall_ns - self.wall_ns)


def nanoseconds(seconds: Decimal | float | str | int) -> int:
    """Integer nanoseconds of a number of seconds, rounded half to even; a float is read by its shortest decimal."""
    return round(Decimal(str(seconds)) * SECOND)


def utc(wall_ns: int) -> datetime:
    """Aware UTC datetime (microsecond resolution, truncated) of nanoseconds since the epoch."""
    return datetime.fromtimestamp(wall_ns // SECOND, tz=UTC).replace(microsecond=wall_ns % SECOND // 1000)
