"""Panels about the books themselves: do they agree, what do they not explain, how far behind are they."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import queries, theme
from farthing.dashboards.parts import Band, Panel, Query
from farthing.domain import conventions as names

__all__ = ["checks", "residual", "unattributed_share", "watermark_lag", "work_in_progress"]

BUSY: Final = (names.CHARGED, names.ABORTED, names.UNATTRIBUTED)
"""Accounts of busy time."""
UNATTRIBUTED_CAREFUL: Final = 0.005
"""Unattributed cost is expected below half a percent of busy cost."""


def checks() -> Panel:
    """Which reconciliations agree."""
    return theme.verdicts(
        "Reconciliation checks",
        "Whether the books agree with the bill and with the engines' own counters, on every chosen engine. Broken: "
        "numbers of that engine are not to be charged until the reason is found; `farthing report` gives the detail.",
        [Query(queries.checks(), "{{check}}")],
    )


def residual() -> Panel:
    """Bill minus every line."""
    return theme.number(
        "Bill minus its lines",
        "Exactly 0 unless the books are wrong; anything else is a defect of Farthing and worth a report.",
        "currencyUSD",
        [Query(queries.engine_gauge(names.METRIC_RESIDUAL, "sum"))],
        decimals=2,
    )


def unattributed_share() -> Panel:
    """How much of the busy cost no request explains."""
    return theme.number(
        "Unattributed share of busy cost",
        "Busy cost of the time range that no request explains; expected below 0.5 %. Above: records are lost (look at "
        "the probe's spool) or traffic bypasses the probe. None: nothing was booked to that account.",
        "percentunit",
        [Query(queries.share_of_cost((names.UNATTRIBUTED,), BUSY))],
        bands=(Band(UNATTRIBUTED_CAREFUL, "broken"),),
        decimals=2,
        unknown="none",
    )


def work_in_progress() -> Panel:
    """Cost that is not settled yet."""
    return theme.number(
        "Work in progress",
        "Cost of windows whose requests are not all known yet. If it only grows, an engine's records do not arrive.",
        "currencyUSD",
        [Query(queries.engine_gauge(names.METRIC_WIP, "sum"))],
        decimals=4,
    )


def watermark_lag() -> Panel:
    """How far costing is behind."""
    return theme.number(
        "Costing is behind by",
        "Age of the latest moment whose cost is known, of the engine furthest behind. If it only grows, an engine's "
        "records do not arrive: see whether its probe is loaded and intake reachable.",
        "s",
        [Query(queries.engine_gauge(names.METRIC_WATERMARK_LAG, "max"))],
        decimals=0,
    )
