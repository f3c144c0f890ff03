"""How long a replica that nobody needs is kept: until idling has cost as much as starting it again would.

The rule of the ski rental (Karlin et al., Competitive snoopy caching, Algorithmica 3, 1988): whoever waits until the
idle cost equals the cost of a start never pays more than twice what knowing the future would have cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from farthing.domain.money import NANO, from_nano
from farthing.settings_autoscale import DEFAULT_COLD_START_SECONDS, ScaledModelSettings

__all__ = ["LONGEST_SECONDS", "SHORTEST_SECONDS", "Hold", "Start", "hold"]

SHORTEST_SECONDS: Final = 60
"""Less would follow the minute that every rate looks back."""
LONGEST_SECONDS: Final = 3600
"""The most that autoscaling/v2 takes as ``stabilizationWindowSeconds``."""
HOUR_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Start:
    """What one boot cost until it was ready (0: no start was seen), and what its GPUs cost per hour; nano-dollars."""

    nano: int
    nano_per_hour: int


@dataclass(frozen=True, slots=True)
class Hold:
    """For how long the need must have been lower before a replica goes, and why."""

    seconds: int
    start_seconds: int
    """How long a start takes."""
    reason: str
    """One sentence with the figures."""


def hold(scaled: ScaledModelSettings, starts: Sequence[Start]) -> Hold:
    """Seconds of idling that cost as much as a start: (start + penalty) / idle cost per second, within the bounds.

    ``starts`` are the boots that were booked; the median counts, which a start from a cold disk does not move. Where
    none shows a start, or the settings say how long one takes, its cost follows from its time; without a price, so
    does the answer, and a penalty in dollars cannot be compared.
    """
    rates = sorted(start.nano_per_hour for start in starts if start.nano_per_hour > 0)
    seconds, source = _start_seconds(scaled, starts)
    if not rates:
        unpriced = "; a penalty cannot be compared" if scaled.cold_start_penalty_usd else ""
        return Hold(_bounded(seconds), seconds, f"A start takes {seconds} s ({source}), at no known price{unpriced}.")
    rate = rates[len(rates) // 2]
    cost = rate * seconds // HOUR_SECONDS + int(scaled.cold_start_penalty_usd * NANO)
    even = -(-cost * HOUR_SECONDS // rate)
    return Hold(
        _bounded(even),
        seconds,
        f"A start takes {seconds} s ({source}) and costs {from_nano(cost):.4f}; idling costs "
        f"{from_nano(rate):.4f} per hour, as much after {even} s.",
    )


def _start_seconds(scaled: ScaledModelSettings, starts: Sequence[Start]) -> tuple[int, str]:
    """How long a start takes, and who says so."""
    if scaled.cold_start_seconds is not None:
        return scaled.cold_start_seconds, "as the settings say"
    seen = sorted(
        -(-start.nano * HOUR_SECONDS // start.nano_per_hour)
        for start in starts
        if start.nano > 0 and start.nano_per_hour > 0
    )
    if not seen:
        return DEFAULT_COLD_START_SECONDS, "assumed"
    return seen[len(seen) // 2], f"the median of {len(seen)} booked"


def _bounded(seconds: int) -> int:
    return min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)
