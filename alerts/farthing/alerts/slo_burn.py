"""How fast an error budget may burn before somebody is told: two windows, and a rate that can be reached.

Burn rate = share of bad requests / error budget (1 - objective): at 1 the budget lasts exactly for its window. The
pairs are those of the Google SRE workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts": the long window shows that
it matters, the short one that it still goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Final

from farthing.alerts.rules import Severity
from farthing.domain import conventions as names

__all__ = ["BURN_RATES", "ERROR_RATIOS", "MINIMUM_BAD", "PAIRS", "STEPS", "Pair", "reason", "threshold"]

MINIMUM_BAD: Final = 10
"""Bad requests within the long window below which nobody is told: of few requests each is a large share."""

REACHABLE: Final = Decimal("0.9")
"""Share of bad requests at which an alert fires at the latest: the burn rate can never be above that of 1."""

STEPS: Final = {"30m": "1m", "1h": "1m", "2h": "5m", "6h": "5m", "1d": "5m", "3d": "5m"}
"""Window -> distance of the five-minute rates that it adds up; at five minutes they tile it."""
STEP_SECONDS: Final = {"1m": 60, "5m": 300}

ERROR_RATIOS: Final = {
    "5m": names.REC_SLO_ERROR_5M,
    "30m": names.REC_SLO_ERROR_30M,
    "1h": names.REC_SLO_ERROR_1H,
    "2h": names.REC_SLO_ERROR_2H,
    "6h": names.REC_SLO_ERROR_6H,
    "1d": names.REC_SLO_ERROR_1D,
    "3d": names.REC_SLO_ERROR_3D,
}
BURN_RATES: Final = {
    "5m": names.REC_SLO_BURN_5M,
    "30m": names.REC_SLO_BURN_30M,
    "1h": names.REC_SLO_BURN_1H,
    "2h": names.REC_SLO_BURN_2H,
    "6h": names.REC_SLO_BURN_6H,
    "1d": names.REC_SLO_BURN_1D,
    "3d": names.REC_SLO_BURN_3D,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two windows that must both burn faster than ``factor`` times the rate that the budget is made for."""

    long: str
    short: str
    factor: Decimal
    severity: Severity
    record: str
    """The series that holds each SLO's threshold."""

    @property
    def bad_requests(self) -> str:
        """PromQL of the bad requests within the long window."""
        step = STEPS[self.long]
        return f"sum_over_time({names.REC_SLO_BAD}[{self.long}:{step}]) * {STEP_SECONDS[step]}"


PAIRS: Final = (
    Pair("1h", "5m", Decimal("14.4"), "critical", names.REC_SLO_THRESHOLD_1H),
    Pair("6h", "30m", Decimal(6), "critical", names.REC_SLO_THRESHOLD_6H),
    Pair("1d", "2h", Decimal(3), "warning", names.REC_SLO_THRESHOLD_1D),
    Pair("3d", "6h", Decimal(1), "warning", names.REC_SLO_THRESHOLD_3D),
)
"""2 % of a budget of 30 days in an hour and 5 % in six page somebody; 10 % in one day or three is a ticket."""


def threshold(pair: Pair, objective: Decimal) -> Decimal:
    """Burn rate above which the pair's windows tell: its factor, or less where that could never be reached.

    At worst every request is bad, and the burn rate is 1 / (1 - objective): 20 for an objective of 0.95, but 10 for
    0.9, where 14.4 would keep the alert silent through a total failure.
    """
    highest = REACHABLE / (1 - objective)
    return min(pair.factor, highest.quantize(Decimal("0.000001"), rounding=ROUND_DOWN))


def reason(pair: Pair, objective: Decimal) -> str:
    """Why the threshold is not the pair's factor; empty where it is."""
    reached = threshold(pair, objective)
    if reached == pair.factor:
        return ""
    budget = (1 - objective).normalize()
    needed = (pair.factor * budget * 100).normalize()
    told = REACHABLE * 100
    return (
        f"{pair.factor:f} times an error budget of {budget:f} would be {needed:f} % bad requests; {told:.0f} % are told"
    )
