"""Panels about what tokens cost, how that is known, what is paid for and serves nobody, and what is saved."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import gpu_queries, queries, theme
from farthing.dashboards import money_queries as money
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.panels.cost import NOTHING, SETTLING_STEP, USD
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "aborted_share",
    "capacity",
    "engines",
    "identity",
    "nothing_over_time",
    "phases",
    "recent_and_saturated",
    "saved",
    "unallocated",
    "unattributed",
    "units",
]

DEAR: Final = (Band(3, "careful"), Band(10, "broken"))
"""Alone, an output token costs some 30 times what it costs among 128 requests (docs/accuracy.md)."""
MODELLED_ERROR: Final = 0.10
"""Walk-forward error beyond which a split counts as estimated (costing.fit)."""


def recent_and_saturated() -> Panel:
    """What a million tokens cost of late, and in a full engine."""
    recent = queries.engine_gauge(names.METRIC_RECENT_UNIT_COST, "avg", (names.LABEL_PHASE,))
    full = queries.engine_gauge(names.METRIC_SATURATED_UNIT_COST, "avg", (names.LABEL_PHASE,))
    return theme.over_time(
        "Cost per million tokens of late, and in a full engine",
        "Mean of the chosen engines: what a million tokens cost in the company that requests had over the last five "
        "minutes of work, and what the same work would cost in a full engine (modelled). The gap is the price of "
        "emptiness: fewer engines, or more traffic on each, close it. Images have no price in a full engine.",
        USD,
        [Query(recent, "{{phase}} of late"), Query(full, "when full, {{phase}}")],
        min_step=SETTLING_STEP,
    )


def phases() -> Panel:
    """A table of phases: what a million tokens cost, between which bounds, and how that was found."""
    return theme.listing(
        "Cost per million tokens in range, and how it is known",
        "What requests' work cost in the time range by the tokens computed; least and most: how far the split of busy "
        "time into phases is in doubt. Modelled: the part whose time is metered and split by a fit that misses by less "
        "than 10 %. The rest is estimated, by a worse fit or from an engine's counters alone, or assumed in its first "
        "minute: load the probe where little is modelled. The bill itself is metered.",
        {names.LABEL_PHASE: "Phase"},
        (
            Column("In range", USD, money.unit_cost_in_range(), decimals=4),
            Column("Least", USD, money.unit_cost_in_range_bound("low"), decimals=4),
            Column("Most", USD, money.unit_cost_in_range_bound("high"), decimals=4),
            Column("Modelled", "percentunit", money.share_of_method(names.MODELLED), decimals=1),
            Column("Cost of all", USD, money.work_in_range(), decimals=2),
        ),
        footer=False,
        panel_links=(to_dashboard(names.DASHBOARD_FARTHING, "Farthing itself"),),
    )


def engines() -> Panel:
    """A table of engines and phases: what a million tokens cost, and how dear emptiness makes them."""
    recent = names.METRIC_RECENT_UNIT_COST
    return theme.listing(
        "Cost per million tokens, by engine",
        "Over the last five minutes of work of each engine, whoever bore it; least and most: its interval, as the "
        "split into phases is modelled. Times the price when full: how dear emptiness is; fill or release the largest "
        "first. Error: how far the split misses the next window; beyond 10 % it counts as estimated.",
        {names.LABEL_ENGINE: "Engine", names.LABEL_PHASE: "Phase"},
        (
            Column("Times the price when full", "none", money.dearness(), DEAR, 1),
            Column("Of late", USD, money.engine_phase_gauge(recent), decimals=3),
            Column("Least", USD, money.unit_cost_bound("low"), decimals=3),
            Column("Most", USD, money.unit_cost_bound("high"), decimals=3),
            Column("When full", USD, money.engine_phase_gauge(names.METRIC_SATURATED_UNIT_COST), decimals=3),
            Column("Error of the split", "percentunit", money.fit_error(), (Band(MODELLED_ERROR, "careful"),), 1),
        ),
        row_links={names.LABEL_ENGINE: of_cell(names.DASHBOARD_ENGINE, "This engine", "instance")},
        panel_links=(runbook("FarthingUnitCostJump"),),
        footer=False,
    )


def nothing_over_time() -> Panel:
    """Dollars per hour that served nobody, by account, over time."""
    return theme.over_time(
        "Cost per hour that served nobody",
        "What was paid and answered no request. Idle: release engines or fill them with batch work. Starting: scale "
        "less often. Asleep: their GPUs are paid for. Down: an engine that crashed keeps its GPUs. Aborted: clients "
        "hang up. See the runbooks of FarthingIdleCostHigh, FarthingStartingCostHigh and FarthingAsleepCostHigh.",
        USD,
        [Query(queries.cost_rate((names.LABEL_ACCOUNT,), NOTHING), "{{account}}")],
        stacked=True,
        min_step=SETTLING_STEP,
        panel_links=(
            runbook("FarthingIdleCostHigh"),
            runbook("FarthingStartingCostHigh"),
            runbook("FarthingAsleepCostHigh"),
        ),
    )


def unattributed(settings: Settings) -> Panel:
    """Dollars that no request explained, by reason."""
    limit = settings.alerts.unattributed_ratio
    return theme.bars(
        "Unattributed in range, by reason",
        f"Busy cost that no request explained at first; expected below {limit:.1%} of busy cost. {names.REASON_LOST}: "
        f"look at the probe's spool. {names.REASON_UNMETERED}: traffic bypasses the probe. {names.REASON_FAILED}: the "
        "engine failed with its requests. See the runbook of FarthingUnattributedHigh.",
        USD,
        [Query(money.unattributed_by_reason(), "{{reason}}")],
        unknown="none",
        panel_links=(runbook("FarthingUnattributedHigh"), to_dashboard(names.DASHBOARD_FARTHING, "Farthing itself")),
    )


def aborted_share() -> Panel:
    """How much of the cost of requests went into aborted ones."""
    return theme.number(
        "Aborted share of requests' cost",
        "Part of what requests cost in the time range that went into those whose client hung up. High: clients' "
        "time-outs are shorter than answers take; see the tenants' dashboard for whose they are, and the runbook of "
        "LLMRequestsAborted. None: nobody hung up.",
        "percentunit",
        [Query(queries.share_of_cost((names.ABORTED,), money.WORK))],
        decimals=2,
        unknown="none",
        panel_links=(to_dashboard(names.DASHBOARD_TENANTS, "Tenants"), runbook("LLMRequestsAborted")),
    )


def unallocated() -> Panel:
    """What GPUs cost that no engine has."""
    return theme.number(
        "GPUs that no engine has",
        "What GPUs cost per hour now that are seen on the chosen hosts and run no engine. Release them, or start an "
        "engine. None: every GPU has one, or the others have no price.",
        USD,
        [Query(gpu_queries.idle_price())],
        decimals=2,
        unknown="none",
        panel_links=(to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy"),),
    )


def capacity() -> Panel:
    """Booked cost of what no engine has and of what is shared."""
    return theme.bars(
        "Capacity beside the engines, since the ledger began",
        "Booked when a month is closed, of all capacities: GPUs that no engine has (unallocated), commitments that "
        "nobody used, and what is shared. Unused commitments: buy less, or move engines onto them. None: no closed "
        "month has any.",
        USD,
        [Query(money.capacity_booked(), "{{account}} {{reason}}")],
        unknown="none",
    )


def identity() -> Panel:
    """Both sides of the identity, and what is between them."""
    return theme.number(
        "Bill = accounts - moved late + work in progress + residual, since the ledger began",
        "The bill is allocation times price, computed without looking at the accounts; moved late is what was "
        "unattributed at first and is in two accounts since its records came. The residual is exactly 0 unless the "
        "books are wrong: charge nobody, and see the runbook of FarthingResidualNotZero.",
        USD,
        [
            Query(money.settled_of(names.METRIC_BILL), "bill"),
            Query(money.settled_of(names.METRIC_COST), "accounts"),
            Query(money.settled_of(names.METRIC_LATE), "moved late"),
            Query(money.settled_of(names.METRIC_WIP), "work in progress"),
            Query(money.settled_of(names.METRIC_RESIDUAL), "residual"),
        ],
        decimals=4,
        panel_links=(runbook("FarthingResidualNotZero"),),
    )


def saved() -> Panel:
    """What caches saved this month."""
    return theme.number(
        "Saved by caches this month",
        "Part of what this month's work of all engines would have cost without prefix, external and image caches that "
        "they saved. It falls when prompts stop sharing their beginnings or the router scatters them: see the runbook "
        "of LLMPrefixCacheCollapsed.",
        "percentunit",
        [Query(money.kpi(names.METRIC_KPI_SHARE, f'{names.LABEL_SHARE}="saved"'))],
        decimals=1,
        panel_links=(runbook("LLMPrefixCacheCollapsed"), to_dashboard(names.DASHBOARD_ENGINE, "Engine")),
    )


def units() -> Panel:
    """What a request and a million tokens cost this month."""
    return theme.number(
        "What one unit costs this month",
        "Direct cost of all engines' work this calendar month (UTC) by finished request, and by a million tokens of "
        "each kind; tokens: prompts and answers together. Compare it with what an API asks, and add the idle share. A "
        "unit that nobody counted is not shown.",
        USD,
        [Query(money.kpi(names.METRIC_KPI_UNIT_COST, group=(names.LABEL_UNIT,)), "{{unit}}")],
        decimals=5,
    )
