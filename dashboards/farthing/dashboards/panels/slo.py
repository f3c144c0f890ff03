"""Panels about promises: which are kept, how fast error budgets burn, what goes wrong, and who is told."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import links, queries, slo_queries, theme
from farthing.dashboards.look import BROKEN, CALM, CAREFUL
from farthing.dashboards.parts import Band, Column, Link, Panel, Query
from farthing.domain import conventions as names

__all__ = [
    "alerts",
    "alerts_firing",
    "bad_share",
    "budget_left",
    "budget_left_over_time",
    "burn_by_tier",
    "burn_day",
    "burn_days",
    "burn_hour",
    "burn_hours",
    "events",
    "fastest_burn",
    "gone_soonest",
    "least_left",
    "promises",
    "promises_kept",
    "requests_ended",
]

_BY_TIER: Final = (names.LABEL_CLUSTER, names.LABEL_SLO, names.LABEL_MODEL, names.LABEL_TIER)
_LEGEND: Final = "{{slo}} {{model}}"
_BURNS: Final = (Band(1, "careful"),)
"""At 1 a budget lasts for its window exactly. Where people are told is another number for each promise."""
_OUTCOMES: Final = {
    names.FINISHED: CALM,
    names.ABORTED_EARLY: CAREFUL,
    names.REJECTED: "purple",
    names.FAILED: BROKEN,
    names.FAILED_EARLY: "dark-red",
    names.INVALID: "blue",
}
"""Aborted has its colour everywhere."""
_LEFT: Final = (Band(0, "careful"), Band(0.25, "fine"))
_FAST: Final = links.runbook(slo_queries.BURN_ALERTS[0])
_SLOW: Final = links.runbook(slo_queries.BURN_ALERTS[1])
_ANATOMY: Final = links.to_dashboard(names.DASHBOARD_LATENCY, "Where the time goes")
NOT_AT_THIS_RATE: Final = "not at this rate"


def promises_kept() -> Panel:
    """How many promises hold, of how many."""
    return theme.number(
        "Promises kept",
        "Promises to a model of whose error budget something is left, and all that had requests within their window. "
        "Fewer kept than all: the table below says which one, and to which model.",
        "none",
        [
            Query(slo_queries.kept(), "kept"),
            Query(f"count({slo_queries.worst(names.REC_SLO_BUDGET_LEFT, 'min')})", "all"),
        ],
    )


def least_left() -> Panel:
    """The budget of which the least is left."""
    return theme.number(
        "Least budget left",
        "Of the error budget of which the least is left, over its own window or as much of that as Prometheus keeps. "
        "Below a quarter: hold back whatever may make it worse, such as a new release. Below 0 the promise is broken.",
        "percentunit",
        [Query(slo_queries.worst(names.REC_SLO_BUDGET_LEFT, "min", ()))],
        bands=_LEFT,
        low="broken",
        decimals=1,
    )


def fastest_burn() -> Panel:
    """The fastest burn of the last hour."""
    return theme.number(
        "Fastest burn, last hour",
        "How many times as fast as it may the fastest budget burned over the last hour; at 1 it lasts exactly for its "
        "window. Above 1 for long it will be gone before. Open the runbook once an alert fires. Unknown: no requests.",
        "suffix:×",
        [Query(slo_queries.worst(names.REC_SLO_BURN_1H, "max", ()))],
        bands=_BURNS,
        decimals=1,
        panel_links=(_FAST,),
    )


def gone_soonest() -> Panel:
    """When the first budget will be used up."""
    return theme.number(
        "First budget gone in",
        "Until nothing is left of some budget, if it burns on as in the last hour; at the earliest, as what leaves the "
        f"window gives some back. {NOT_AT_THIS_RATE.capitalize()}: every budget burns no faster than it may. Days: "
        "plan; hours: act now, by the runbook.",
        "s",
        [Query(f"min({slo_queries.time_left()})")],
        bands=(Band(6 * 3600, "careful"), Band(3 * 86_400, "fine")),
        low="broken",
        unknown=NOT_AT_THIS_RATE,
        panel_links=(_FAST,),
    )


def alerts_firing() -> Panel:
    """How many alerts of burning budgets fire."""
    return theme.number(
        "Burn alerts",
        "Alerts of burning error budgets that fire now, and that will if it goes on (pending). None: nobody has been "
        "told of anything. Otherwise the list below names promise and model; follow the runbook.",
        "none",
        [Query(slo_queries.alerts_firing(), "firing"), Query(slo_queries.alerts_pending(), "pending")],
        bands=(Band(1, "careful"),),
        unknown="none",
        panel_links=(_FAST, _SLOW),
    )


def promises() -> Panel:
    """Every promise to every model, the fastest burn first."""

    def burn(title: str, record: str) -> Column:
        series = slo_queries.worst(record, "max", _BY_TIER)
        return Column(title, "suffix:×", slo_queries.by_promise(series), _BURNS, decimals=2)

    def told(title: str, unit: str, record: str, bands: tuple[Band, ...] = (), decimals: int | None = None) -> Column:
        series = slo_queries.worst(record, "max", _BY_TIER)
        return Column(title, unit, slo_queries.by_promise(series), bands, decimals)

    return theme.listing(
        "Every promise",
        "One line per promise and model that had requests. Objective: the share of requests that was promised. Burn: "
        "how many times as fast as it may the budget burned over that time. Act on what burns above 1 over an hour and "
        "over a day: open its model for where the time goes. Gone in: if it burns on as in the last hour.",
        {
            names.LABEL_SLO: "Promise",
            names.LABEL_PROMISE: "Promised",
            names.LABEL_MODEL: "Model",
            names.LABEL_TIER: "Tier",
        },
        (
            burn("Burn 1 h", names.REC_SLO_BURN_1H),
            burn("Burn 5 m", names.REC_SLO_BURN_5M),
            burn("Burn 6 h", names.REC_SLO_BURN_6H),
            burn("Burn 1 d", names.REC_SLO_BURN_1D),
            burn("Burn 3 d", names.REC_SLO_BURN_3D),
            told("Budget left", "percentunit", names.REC_SLO_BUDGET_LEFT, decimals=1),
            Column(
                "Gone in",
                "s",
                slo_queries.by_promise(slo_queries.time_left()),
                unknown=NOT_AT_THIS_RATE,
            ),
            Column("Objective", "percentunit", slo_queries.objective(), decimals=2),
            told("Bad in its window", "percentunit", names.REC_SLO_ERROR_WINDOW, decimals=2),
            told("Requests/s", "reqps", names.REC_SLO_EVENTS, decimals=2),
        ),
        row_links={
            names.LABEL_SLO: links.of_cell(names.DASHBOARD_SLO, "This promise only", "slo"),
            names.LABEL_MODEL: links.of_cell(names.DASHBOARD_LATENCY, "Where its time goes", "model"),
        },
        panel_links=(_FAST, _SLOW),
        footer=False,
    )


def budget_left() -> Panel:
    """What is left of every budget."""
    return theme.bars(
        "Error budget left, by promise",
        "Share of each error budget that is left, now: full at the beginning, empty when the promise is broken, below "
        "0 when more was used than there is. Spend what is left on releases and experiments; stop them near 0.",
        "percentunit",
        [Query(slo_queries.worst(names.REC_SLO_BUDGET_LEFT, "min"), _LEGEND)],
        decimals=1,
    )


def budget_left_over_time() -> Panel:
    """How the budgets went down."""
    return theme.over_time(
        "Error budget left, over time",
        "A cliff is an incident: find it among the marks of restarts, alerts and releases. A steady slope is a service "
        "too slow for its promise: add engines, or promise less. It rises where old misses leave the window.",
        "percentunit",
        [Query(slo_queries.worst(names.REC_SLO_BUDGET_LEFT, "min"), _LEGEND)],
        bands=_LEFT,
        low="broken",
        full=1,
        min_step="5m",
    )


def burn_hour() -> Panel:
    """Burn rates of the pair of windows that pages soonest."""
    return _burn(
        "Burn over 1 h, and over 5 m",
        (("1 h", names.REC_SLO_BURN_1H), ("5 m", names.REC_SLO_BURN_5M)),
        "Both windows above it page somebody: an hour says that it matters, five minutes that it still goes on. Only "
        "the hour above: it is over. Only five minutes: wait for more.",
        what="pages",
        threshold=names.REC_SLO_THRESHOLD_1H,
        runbook=_FAST,
    )


def burn_hours() -> Panel:
    """Burn rates of the pair of windows that pages on what is slower."""
    return _burn(
        "Burn over 6 h, and over 30 m",
        (("6 h", names.REC_SLO_BURN_6H), ("30 m", names.REC_SLO_BURN_30M)),
        "Both above it page somebody. Above 1 and below the line nobody is called, yet the budget will not last.",
        what="pages",
        threshold=names.REC_SLO_THRESHOLD_6H,
        runbook=_FAST,
    )


def burn_day() -> Panel:
    """Burn rates of the pair of windows that opens a ticket."""
    return _burn(
        "Burn over 1 d, and over 2 h",
        (("1 d", names.REC_SLO_BURN_1D), ("2 h", names.REC_SLO_BURN_2H)),
        "Both above it open a ticket. Look for what happens at the same hour each day: batch work, a tenant's jobs.",
        what="ticket",
        threshold=names.REC_SLO_THRESHOLD_1D,
        runbook=_SLOW,
        min_step="5m",
    )


def burn_days() -> Panel:
    """Burn rates of the pair of windows that tells of a promise that cannot be kept."""
    return _burn(
        "Burn over 3 d, and over 6 h",
        (("3 d", names.REC_SLO_BURN_3D), ("6 h", names.REC_SLO_BURN_6H)),
        "Both above it open a ticket: at this rate the promise of the whole window is broken. Add engines, or promise "
        "what can be kept.",
        what="ticket",
        threshold=names.REC_SLO_THRESHOLD_3D,
        runbook=_SLOW,
        min_step="5m",
    )


def bad_share() -> Panel:
    """How many requests miss their promise."""
    return theme.over_time(
        "Requests that miss their promise",
        "Share of the requests of the last five minutes that were too slow or not answered, by promise and model; no "
        "line where there were no requests. High for all promises to a model: it is overloaded. First token only: its "
        "queue. Between tokens only: large batches or long prefills.",
        "percentunit",
        [Query(slo_queries.worst(names.REC_SLO_ERROR_5M, "max"), _LEGEND)],
        panel_links=(_ANATOMY,),
    )


def events() -> Panel:
    """Good and bad requests per second."""
    return theme.over_time(
        "Good and bad requests",
        "Requests per second over five minutes; each counts once for every promise that it is under. Few requests make "
        "shares jump: no alert fires below ten bad ones. Bad ones that grow with traffic: capacity; at steady traffic: "
        "look for a restart or a release.",
        "reqps",
        [
            Query(f"sum({slo_queries.worst(names.REC_SLO_GOOD, 'sum')})", "good"),
            Query(f"sum({slo_queries.worst(names.REC_SLO_BAD, 'sum')})", "bad"),
        ],
        stacked=True,
        colours={"good": CALM, "bad": BROKEN},
    )


def requests_ended() -> Panel:
    """How requests ended."""
    return theme.over_time(
        "How requests ended",
        "Requests per second by outcome, seen at the engines' edge. Rejected: no room; add engines or limit a tenant. "
        "Failed: see the engine's log. Aborted before the first token: clients gave up waiting, which counts as bad. "
        "Invalid requests are their sender's fault and count for no promise.",
        "reqps",
        [Query(queries.requests_ended(), "{{outcome}}")],
        stacked=True,
        colours=_OUTCOMES,
        panel_links=(links.runbook("LLMRequestsRejected"), links.runbook("LLMRequestsFailing")),
    )


def burn_by_tier() -> Panel:
    """The fastest burn of each tier."""
    return theme.over_time(
        "Fastest burn, by tier",
        "The fastest of each tier's budgets over the last hour; without a tier: promises to all. Interactive above 1 "
        "while batch is idle: give batch work lower priority or other hours. All above 1: too few engines.",
        "suffix:×",
        [Query(slo_queries.worst(names.REC_SLO_BURN_1H, "max", (names.LABEL_TIER,)), "{{tier}}")],
        bands=_BURNS,
    )


def alerts() -> Panel:
    """Which alerts fire, of which promise to which model."""
    keys = {"alertname": "Alert", names.LABEL_SLO: "Promise", names.LABEL_MODEL: "Model", names.LABEL_TIER: "Tier"}
    return theme.listing(
        "Which alerts fire?",
        "Alerts of burning error budgets that fire, with a link to what to do. Empty: none does. A fast one holds back "
        "the slow one of the same promise and model in Alertmanager, so that one trouble is one message.",
        keys,
        (Column("Firing", "none", slo_queries.alerts_firing(tuple(keys))),),
        row_links={
            "alertname": Link("What to do", f"{names.RUNBOOK_BASE}${{__value.raw}}.md"),
            names.LABEL_MODEL: links.of_cell(names.DASHBOARD_LATENCY, "Where its time goes", "model"),
        },
        panel_links=(_FAST, _SLOW),
        footer=False,
        unknown="none",
    )


def _burn(
    title: str,
    windows: tuple[tuple[str, str], tuple[str, str]],
    advice: str,
    *,
    what: str,
    threshold: str,
    runbook: Link,
    min_step: str | None = None,
) -> Panel:
    """Burn rates over two windows, and from which rate on both of them tell somebody."""
    return theme.over_time(
        title,
        f"How many times as fast as it may each budget burns. The line {what} is the lowest threshold of the chosen "
        f"promises. {advice}",
        "suffix:×",
        [
            *(Query(slo_queries.worst(record, "max"), f"{_LEGEND} {window}") for window, record in windows),
            Query(slo_queries.of_promise(threshold, "min"), what),
        ],
        bands=_BURNS,
        min_step=min_step,
        colours={what: BROKEN},
        panel_links=(runbook,),
    )
