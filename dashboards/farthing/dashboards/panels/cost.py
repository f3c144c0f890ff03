"""Panels about money: what is spent now, on what, for whom, and for nothing."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import queries, theme
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.dashboards.scopes import INTERVAL
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "cost_by_account",
    "cost_by_tenant",
    "idle_share",
    "settled_spend",
    "spend_rate",
    "unit_cost",
]

USD: Final = "currencyUSD"
SETTLING_STEP: Final = "30s"
"""Windows of 5 s settle in lumps: a rate over fewer than some six of them is a saw."""

_ECONOMICS: Final = to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics")

# Allocated, paid, and no request of a user to show for it.
NOTHING: Final = (names.IDLE, names.ABORTED, names.STARTING, names.ASLEEP, names.DOWN, names.UNATTRIBUTED)


def spend_rate() -> Panel:
    """What the GPUs cost per hour now."""
    return theme.number(
        "Spend per hour",
        "What the allocated GPUs of the chosen engines cost per hour now, busy or idle. It changes with allocation "
        "and price only: to lower it, release engines. Unknown: no price in farthing.yaml applies.",
        USD,
        [Query(queries.cost_now())],
        decimals=2,
        panel_links=(_ECONOMICS, runbook("FarthingSpendRateJump")),
    )


def idle_share(settings: Settings) -> Panel:
    """How much of the money bought idle GPUs."""
    return theme.number(
        "Idle share",
        "Part of the cost settled in the time range that bought idle GPUs. If it stays high, fewer engines would do, "
        "or batch work could fill them; see the runbook of FarthingIdleCostHigh.",
        "percentunit",
        [Query(queries.share_of_cost((names.IDLE,), names.ACCOUNTS))],
        bands=(Band(settings.alerts.idle_cost_ratio, "broken"),),
        decimals=1,
        panel_links=(_ECONOMICS, to_dashboard(names.DASHBOARD_BATCH, "Batch jobs"), runbook("FarthingIdleCostHigh")),
    )


def settled_spend() -> Panel:
    """Dollars per hour by account and phase, over time."""
    return theme.over_time(
        "Settled spend per hour, by account and phase",
        "The parts add up to the bill. It lags by the time a window takes to settle. A growing idle part: release "
        "engines. Aborted: look for time-outs in clients. Unattributed: see the checks below.",
        USD,
        [Query(queries.cost_rate((names.LABEL_ACCOUNT, names.LABEL_PHASE)), "{{account}} {{phase}}")],
        stacked=True,
        min_step=SETTLING_STEP,
        panel_links=(_ECONOMICS,),
    )


def cost_by_account() -> Panel:
    """Dollars by account and phase, since the ledger began."""
    return theme.bars(
        "Settled cost since the ledger began",
        "The ledger's own sums by account and phase, exact; the time range has no effect. The largest part is where "
        "to look first.",
        USD,
        [Query(queries.cost_settled((names.LABEL_ACCOUNT, names.LABEL_PHASE)), "{{account}} {{phase}}")],
    )


def unit_cost() -> Panel:
    """Dollars per million tokens by phase, over time."""
    return theme.over_time(
        "Cost per million tokens, by phase",
        "Cost of requests' work, aborted ones included, over tokens computed, of work settled lately: prefill per "
        "computed prompt token (cached ones cost nothing), decode per output token, vision per image token. It falls "
        "with company: when it rises at steady traffic, batches have become smaller or contexts longer; see the "
        "runbook of FarthingUnitCostJump.",
        USD,
        [Query(queries.unit_cost("rate", INTERVAL), "{{phase}}")],
        min_step=SETTLING_STEP,
        panel_links=(_ECONOMICS, runbook("FarthingUnitCostJump")),
    )


def cost_by_tenant() -> Panel:
    """A table of tenants with their dollars, requests and tokens."""
    return theme.listing(
        "Cost by tenant",
        "Settled cost of each tenant's requests, aborted ones included, of the chosen models on all instances. "
        f"{names.UNKNOWN}: requests that named no tenant; set the tenant header. {names.OTHER}: tenants beyond the "
        "largest.",
        {names.LABEL_TENANT: "Tenant"},
        (
            Column("Cost in range", USD, queries.tenant_settled(names.METRIC_TENANT_COST)),
            Column("Cost since the ledger began", USD, queries.tenant_total(names.METRIC_TENANT_COST)),
            Column("Requests in range", "short", queries.tenant_settled(names.METRIC_TENANT_REQUESTS)),
            Column(
                "Output tokens in range",
                "short",
                queries.tenant_settled(names.METRIC_TENANT_TOKENS, f'{names.LABEL_KIND}="{names.TOKEN_OUTPUT}"'),
            ),
        ),
        row_links={names.LABEL_TENANT: of_cell(names.DASHBOARD_TENANTS, "This tenant", "tenant")},
        panel_links=(to_dashboard(names.DASHBOARD_TENANTS, "Tenants"),),
    )
