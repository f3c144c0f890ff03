"""Panels about the books themselves: do they agree, what do they not explain, how far behind are they."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import queries, theme
from farthing.dashboards.links import runbook, to_dashboard
from farthing.dashboards.parts import Band, Panel, Query
from farthing.domain import conventions as names
from farthing.promql.money import BUSY_ACCOUNTS
from farthing.settings import Settings

__all__ = ["checks", "residual", "unattributed_share"]

_ITSELF: Final = to_dashboard(names.DASHBOARD_FARTHING, "Farthing itself")


def checks() -> Panel:
    """Which reconciliations agree."""
    return theme.verdicts(
        "Reconciliation checks",
        "Whether the books agree with the bill and with the engines' own counters, on every chosen engine. Broken: "
        "numbers of that engine are not to be charged until the reason is found; `farthing report` gives the detail.",
        [Query(queries.checks(), "{{check}}")],
        panel_links=(_ITSELF, runbook("FarthingReconciliationRed")),
    )


def residual() -> Panel:
    """Bill minus every line."""
    return theme.number(
        "Bill minus its lines",
        "Exactly 0 unless the books are wrong; anything else is a defect of Farthing and worth a report.",
        "currencyUSD",
        [Query(queries.engine_gauge(names.METRIC_RESIDUAL, "sum"))],
        decimals=2,
        panel_links=(_ITSELF, runbook("FarthingResidualNotZero")),
    )


def unattributed_share(settings: Settings) -> Panel:
    """How much of the busy cost no request explains."""
    limit = settings.alerts.unattributed_ratio
    return theme.number(
        "Unattributed share of busy cost",
        f"Busy cost of the time range that no request explains; expected below {limit:.1%}. Above: records are lost "
        "(look at the probe's spool) or traffic bypasses the probe; see the runbook of FarthingUnattributedHigh. None: "
        "nothing was booked to that account.",
        "percentunit",
        [Query(queries.share_of_cost((names.UNATTRIBUTED,), BUSY_ACCOUNTS))],
        bands=(Band(limit, "broken"),),
        decimals=2,
        unknown="none",
        panel_links=(_ITSELF, runbook("FarthingUnattributedHigh")),
    )
