"""The PromQL of health at first sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import known, signal
from farthing.dashboards.scopes import BOOKS, INTERVAL, MODELS, RANGE, REQUESTS
from farthing.domain import conventions as names
from farthing.promql.scope import by
from farthing.promql.serving import ended_in

__all__ = ["alerts", "alerts_firing", "failed_in_engines", "least_budget", "not_finished", "served"]

_FIRING: Final = 'alertstate="firing"'
_ALWAYS: Final = f'{names.LABEL_SEVERITY}="none"'
_TO_ACT_ON: Final = f'{names.LABEL_SEVERITY}!="none"'
_ASKED: Final = (names.FINISHED, *names.UNSERVED[names.SLO_AVAILABILITY])
"""Endings of requests that ought to be served."""


def alerts_firing() -> str:
    """Alerts that fire, of any severity: all less the watchdog that always does; without it there is no answer."""
    return f"count({BOOKS.now('ALERTS', _FIRING)}) - count({BOOKS.now('ALERTS', _FIRING, _ALWAYS)})"


def alerts(group: Sequence[str]) -> str:
    """Alerts that fire by their labels."""
    return f"count{by(group)}({BOOKS.now('ALERTS', _FIRING, _TO_ACT_ON)})"


def served() -> str:
    """Part of the requests in the time range that ought to be served and were."""
    return known(f"{ended_in(REQUESTS, RANGE, (names.FINISHED,), ())}\n/ {ended_in(REQUESTS, RANGE, _ASKED, ())}")


def not_finished() -> str:
    """Part of requests that ended so, by each outcome but finished."""
    others = tuple(outcome for outcome in names.REQUEST_OUTCOMES if outcome != names.FINISHED)
    ended = ended_in(REQUESTS, INTERVAL, others, (names.LABEL_OUTCOME,))
    return known(f"{ended}\n/ on () group_left ()\n{ended_in(REQUESTS, INTERVAL, (), ())}")


def failed_in_engines() -> str:
    """Part of the requests that ended in engines, by their own counters, that failed."""
    failed = signal(names.REC_FAILED_RATE, "sum")
    return known(f"{failed}\n/ ({failed} + {signal(names.REC_REQUEST_RATE, 'sum')})")


def least_budget() -> str:
    """What is left of the error budget of which the least is left."""
    return f"min({MODELS.now(names.REC_SLO_BUDGET_LEFT)})"
