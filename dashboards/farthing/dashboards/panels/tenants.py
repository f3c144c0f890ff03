"""Panels about tenants: what each costs and gets, who grew, whose work was for nothing, and what was promised."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import queries, theme
from farthing.dashboards import tenant_queries as tenants
from farthing.dashboards.latency_queries import own_quantile
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.panels.cost import SETTLING_STEP, USD
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "aborted_cost",
    "anomalies",
    "cost_over_time",
    "endings",
    "growth",
    "latency",
    "month",
    "movers",
    "promises",
    "share_of_fleet",
    "showback",
    "spent",
    "unnamed",
]

_KEYS: Final = {names.LABEL_TENANT: "Tenant"}
_THIS_TENANT: Final = {names.LABEL_TENANT: of_cell(names.DASHBOARD_TENANTS, "This tenant", "tenant")}
_ECONOMICS: Final = to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics")
_LATENCY: Final = to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy")
_SLOS: Final = to_dashboard(names.DASHBOARD_SLO, "SLOs and error budgets")
GROWN: Final = (Band(1.5, "careful"), Band(3, "broken"))
"""Of the period before. What counts as an anomaly is told by each tenant's own history; this only guides the eye."""


def spent() -> Panel:
    """What the chosen tenants' work cost today and this month."""
    return theme.number(
        "Settled so far",
        "Cost of the chosen tenants' work of today and of this calendar month (UTC), on all models and tiers, aborted "
        "requests included and without a part of idle time. More than meant: the tables below say who and for what.",
        USD,
        [
            Query(tenants.today_or_month(names.METRIC_SPEND_TODAY), "today"),
            Query(tenants.today_or_month(names.METRIC_SPEND_MONTH), "month"),
        ],
        decimals=2,
        panel_links=(_ECONOMICS,),
    )


def unnamed() -> Panel:
    """How much of the tenants' cost named no tenant."""
    return theme.number(
        "Work without a tenant",
        "Part of what all requests cost in the time range that named no tenant, on the chosen models and tiers; no "
        "choice of tenants changes it. Above a few percent showback is not fair: have clients or the gateway send the "
        "tenant header. None: every request named one.",
        "percentunit",
        [Query(tenants.unnamed_share())],
        bands=(Band(0.05, "careful"),),
        decimals=1,
        unknown="none",
    )


def showback() -> Panel:
    """A table of tenants with their dollars by phase, requests, tokens and energy."""
    usd = [
        Column(title, USD, tenants.of_phase(phase), decimals=2)
        for title, phase in (
            ("Prefill", names.PREFILL),
            ("Decode", names.DECODE),
            ("Vision", names.VISION),
            ("Aborted", names.ABORTED),
        )
    ]
    return theme.listing(
        "Showback in range",
        "Settled cost of each tenant's requests in the time range by phase, of the chosen models and tiers on all "
        f"instances, without a part of idle time. {names.UNKNOWN}: requests that named no tenant; set the tenant "
        f"header. {names.OTHER}: tenants beyond the largest. For invoices take `farthing statement`, which is exact; "
        "here growth is extrapolated to the edges of the range.",
        _KEYS,
        (
            Column("Cost", USD, queries.tenant_settled(names.METRIC_TENANT_COST), decimals=2),
            *usd,
            Column("Requests", "short", queries.tenant_settled(names.METRIC_TENANT_REQUESTS), decimals=0),
            Column("Cost per request", USD, tenants.cost_per_request(), decimals=5),
            Column("Prompt tokens", "short", tenants.tokens(names.TOKEN_PROMPT_COMPUTED)),
            Column("Cached tokens", "short", tenants.tokens(names.TOKEN_PROMPT_CACHED)),
            Column("Output tokens", "short", tenants.tokens(names.TOKEN_OUTPUT)),
            Column("Energy", "joule", queries.tenant_settled(names.METRIC_TENANT_ENERGY)),
        ),
        row_links=_THIS_TENANT,
        panel_links=(_ECONOMICS,),
    )


def cost_over_time() -> Panel:
    """Dollars per hour by tenant, over time."""
    return theme.over_time(
        "Settled cost per hour, by tenant",
        "The chosen tenants' cost as it settles; the parts add up to what their requests cost. One that climbs: see "
        "who grew below, and ask it what changed. Spend of all that falls to nothing: see whether engines are up.",
        USD,
        [Query(tenants.cost_rate(), "{{tenant}}")],
        stacked=True,
        min_step=SETTLING_STEP,
        panel_links=(_ECONOMICS,),
    )


def share_of_fleet() -> Panel:
    """What part of the fleet's cost each tenant's work took."""
    return theme.bars(
        "Share of the fleet's cost, in range",
        "Part of what all engines cost in the time range, idle time and all, that each tenant's work took. What is "
        "missing to the whole served nobody: see token economics before dividing it among tenants.",
        "percentunit",
        [Query(tenants.share_of_fleet(), "{{tenant}}")],
        decimals=1,
        panel_links=(_ECONOMICS,),
    )


def movers() -> Panel:
    """A table of tenants: cost in the range and in the one before."""
    return theme.listing(
        "Who grew",
        "Cost in the time range, and in the period before that was as long. Unknown before: the tenant is new, or "
        "Prometheus does not know all of that period. For a tenant that grew, compare its requests and cost per "
        "request above: more traffic, or dearer requests. Choose 24 h or 7 days, so that the hours compare.",
        _KEYS,
        (
            Column("Change", USD, tenants.change(), decimals=2),
            Column("Times as much", "suffix:×", tenants.times(), GROWN, 2),
            Column("In range", USD, queries.tenant_settled(names.METRIC_TENANT_COST), decimals=2),
            Column("Before", USD, tenants.before(), decimals=2),
        ),
        row_links=_THIS_TENANT,
    )


def anomalies(settings: Settings) -> Panel:
    """Tenants whose spend is an anomaly now."""
    return theme.listing(
        "Anomalies that go on now",
        "Dollars beyond what a tenant's own history lets expect, by day and hour of the week, until now. Ask the "
        "tenant; if it is meant, raise its budget. See the runbook of FarthingCostAnomaly. An empty table: nobody "
        "spends more than usual.",
        _KEYS,
        (Column("Beyond expected", USD, tenants.anomalies(), (Band(float(settings.alerts.waste_usd), "broken"),), 2),),
        row_links=_THIS_TENANT,
        panel_links=(runbook("FarthingCostAnomaly"),),
    )


def aborted_cost() -> Panel:
    """Dollars of requests that tenants' clients hung up on."""
    return theme.bars(
        "Cost of aborted requests, in range",
        "What was computed for requests whose client hung up, by tenant; it is the tenant's. High: its time-out is "
        "shorter than its answers take, or people press stop; raise the time-out, or lower max_tokens. See the runbook "
        "of LLMRequestsAborted. None: nobody hung up.",
        USD,
        [Query(tenants.of_phase(names.ABORTED), "{{tenant}}")],
        unknown="none",
        panel_links=(runbook("LLMRequestsAborted"), _LATENCY),
    )


def endings(settings: Settings) -> Panel:
    """A table of tenants: how their requests ended."""
    alerts = settings.alerts
    limits = (
        ("Aborted", names.ABORTED, (Band(alerts.aborted_ratio, "broken"),)),
        ("Finished", names.FINISHED, ()),
        ("Failed", names.FAILED, (Band(alerts.failed_ratio, "broken"),)),
        ("Rejected", names.REJECTED, (Band(alerts.rejected_ratio, "broken"),)),
    )
    return theme.listing(
        "How requests ended, in range",
        "Share of each tenant's requests by how they ended; red from the alerts' thresholds on. Failed or rejected of "
        "one tenant only: look at what it sends. Of all: see the runbooks of LLMRequestsFailing and "
        "LLMRequestsRejected. Unknown: no request of the tenant ever ended so.",
        _KEYS,
        tuple(Column(title, "percentunit", tenants.ended_share(outcome), bands, 1) for title, outcome, bands in limits),
        row_links=_THIS_TENANT,
        panel_links=(runbook("LLMRequestsFailing"), runbook("LLMRequestsRejected"), runbook("LLMRequestsAborted")),
        footer=False,
    )


def latency(histogram: str, title: str, what: str) -> Panel:
    """Median and 95th percentile by tier of what clients saw."""
    return theme.over_time(
        f"{title}, by tier",
        f"{what}, as clients saw it, by the tier of the request. Histograms have no tenant: to tell tenants apart, "
        "give them tiers, or promises of their own, which the table beside counts. Slow in one tier: its prompts are "
        "long. In all: engines are saturated; see the latency anatomy.",
        "s",
        [
            Query(own_quantile(0.95, histogram), "{{tier}} p95", exemplars=True),
            Query(own_quantile(0.5, histogram), "{{tier}} p50"),
        ],
        panel_links=(_LATENCY,),
    )


def promises() -> Panel:
    """A table of promises to tenants: how many requests kept them."""
    return theme.listing(
        "Promises to tenants, in range",
        "Requests that count for a promise to one tenant (slos with a tenant in farthing.yaml; the name says whose), "
        "good and bad. Kept below what is promised: see the error budget on the SLOs' dashboard and the runbook of "
        "SLOErrorBudgetBurningFast. An empty table: no tenant is promised anything of its own.",
        {names.LABEL_SLO: "Promise", names.LABEL_MODEL: "Model"},
        (
            Column("Kept", "percentunit", tenants.promise_kept(), decimals=2),
            Column("Good", "short", tenants.promise_requests(names.GOOD), decimals=0),
            Column("Bad", "short", tenants.promise_requests(names.BAD), decimals=0),
        ),
        row_links={names.LABEL_SLO: of_cell(names.DASHBOARD_SLO, "This promise", "slo")},
        panel_links=(_SLOS, runbook("SLOErrorBudgetBurningFast")),
        footer=False,
    )


def month() -> Panel:
    """Dollars of this month by tenant."""
    return theme.bars(
        "Settled this month, by tenant",
        "Cost of each chosen tenant's work of this calendar month (UTC) so far, with or without a budget, on all "
        "models and tiers. A large one without a budget: give it one in farthing.yaml, so that somebody is told.",
        USD,
        [Query(tenants.today_or_month(names.METRIC_SPEND_MONTH, (names.LABEL_TENANT,)), "{{tenant}}")],
        panel_links=(_ECONOMICS,),
    )


def growth() -> Panel:
    """Cost of tenants in the range and before, as bars of change."""
    return theme.bars(
        "Ten that grew most",
        "Dollars more than in the period before the time range, of the ten tenants with the largest growth. Click a "
        "name in the table beside for what it does. None: nobody cost more than before, or Prometheus does not reach "
        "back so far.",
        USD,
        [Query(f"topk(10, {tenants.change()} > 0)", "{{tenant}}")],
        unknown="none",
    )
