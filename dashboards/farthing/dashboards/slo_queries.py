"""What the dashboard of SLOs asks: the recorded ``slo:`` series of the chosen promises, models and tiers.

What a promise alone has (objective, window, thresholds) is joined to what it has by model on the cluster too: whatever
collects several Prometheus finds each promise once in every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.scopes import BOOKS, PROMISES, SLOS
from farthing.domain import conventions as names
from farthing.promql.scope import by

__all__ = [
    "BURN_ALERTS",
    "KEYS",
    "alerts_firing",
    "alerts_pending",
    "by_promise",
    "kept",
    "objective",
    "of_promise",
    "time_left",
    "worst",
]

BURN_ALERTS: Final = ("SLOErrorBudgetBurningFast", "SLOErrorBudgetBurningSlowly")
"""What tells people that a budget burns; each has a runbook."""
KEYS: Final = (names.LABEL_SLO, names.LABEL_PROMISE, names.LABEL_MODEL, names.LABEL_TIER)
"""What tells one promise to one model apart, with what is promised in words."""

_ON: Final = f"on ({names.LABEL_CLUSTER}, {names.LABEL_SLO}) group_left"


def worst(record: str, operation: str, group: Sequence[str] = (names.LABEL_SLO, names.LABEL_MODEL)) -> str:
    """The recorded series of the chosen promises, of each group the one that ``operation`` (max, min) takes."""
    return f"{operation}{by(group)}({SLOS.now(record)})"


def of_promise(record: str, operation: str) -> str:
    """A number that promises alone have, such as a threshold: of the chosen ones, the least or the greatest."""
    return f"{operation}({PROMISES.now(record)})"


def by_promise(series: str) -> str:
    """The series, of promises and models, with what is promised in words beside it."""
    there = f"({PROMISES.now(names.REC_SLO_OBJECTIVE)} > bool 0)"
    return f"max{by(KEYS)}(({series}) * {_ON} ({names.LABEL_PROMISE}) {there})"


def objective() -> str:
    """What share is promised, once per promise and model that had requests."""
    had = f"{_each(names.REC_SLO_BUDGET_LEFT)} * 0"
    return f"max{by(KEYS)}({had} + {_ON} ({names.LABEL_PROMISE}) {PROMISES.now(names.REC_SLO_OBJECTIVE)})"


def time_left(burn: str = names.REC_SLO_BURN_1H) -> str:
    """Seconds until nothing is left of a budget if it burns on as in ``burn``, of budgets that burn too fast.

    At a burn rate of 1 a full budget lasts for its window; one that burns at 1 or less is never used up, for as much
    as it loses leaves the window again. Of a faster one this is the least: what leaves the window is not counted.
    """
    left = f"clamp_min({_each(names.REC_SLO_BUDGET_LEFT)}, 0)"
    same = f"on ({', '.join((names.LABEL_CLUSTER, names.LABEL_SLO, names.LABEL_MODEL, names.LABEL_TIER))})"
    return f"({left} / {same} ({_each(burn)} > 1)) * {_ON} () {PROMISES.now(names.REC_SLO_WINDOW)}"


def kept() -> str:
    """Promises to a model of whose budget something is left, of those that had requests."""
    return f"sum({_each(names.REC_SLO_BUDGET_LEFT)} >= bool 0)"


def alerts_firing(group: Sequence[str] = ()) -> str:
    """Alerts of burning budgets that fire now."""
    return _alerts("firing", group)


def alerts_pending(group: Sequence[str] = ()) -> str:
    """Those that would, if it goes on."""
    return _alerts("pending", group)


def _each(record: str) -> str:
    """The recorded series of the chosen promises, in brackets: a comparison binds closer than what takes some away."""
    return f"({SLOS.now(record)})"


def _alerts(state: str, group: Sequence[str]) -> str:
    chosen = (f'alertname=~"{"|".join(BURN_ALERTS)}"', f'alertstate="{state}"')
    shown = BOOKS.now("ALERTS", *chosen, f'{names.LABEL_MODEL}=~"$model"', f'{names.LABEL_SLO}=~"$slo"')
    return f"count{by(group)}({shown})"
