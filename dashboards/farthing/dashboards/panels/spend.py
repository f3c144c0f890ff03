"""Panels about spend by the calendar: today, this month, what it will come to, and budgets."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import money_queries as money
from farthing.dashboards import theme
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.panels.cost import USD
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "BUDGET_BANDS",
    "BUDGET_KEYS",
    "budgets",
    "month_ahead",
    "month_forecast",
    "spent_so_far",
    "unpriced_engines",
]

BUDGET_KEYS: Final = {names.LABEL_TENANT: "Tenant", names.LABEL_PROJECT: "Project", names.LABEL_MODEL: "Model"}
BUDGET_BANDS: Final = (Band(0.8, "careful"), Band(1, "broken"))
"""Alerts tell of a budget that is spent; thresholds before that are each budget's own."""


def spent_so_far() -> Panel:
    """Bill of today and of this month."""
    return theme.number(
        "Bill so far",
        "Settled bill of today and of this calendar month (UTC), of all engines, whatever is chosen above. Higher than "
        "meant: see the budgets below, and the runbooks of FarthingDailySpendHigh and FarthingMonthlySpendHigh. "
        "Unknown: nothing is booked yet.",
        USD,
        [
            Query(money.bill_so_far(names.METRIC_BILL_TODAY), "today"),
            Query(money.bill_so_far(names.METRIC_BILL_MONTH), "month"),
        ],
        decimals=2,
        panel_links=(runbook("FarthingDailySpendHigh"), runbook("FarthingMonthlySpendHigh")),
    )


def month_forecast(settings: Settings) -> Panel:
    """What this month will come to."""
    limit = float(settings.alerts.monthly_spend_usd)
    return theme.number(
        "This month will come to",
        "Forecast of the whole month's bill of all engines: expected, and the ends of its 80 % interval. Red from the "
        "month's limit in farthing.yaml on: see the runbook of FarthingMonthlyForecastHigh. Wide bounds: the books are "
        "young.",
        USD,
        [Query(money.forecast(bound), bound) for bound in ("low", "expected", "high")],
        bands=(Band(limit, "broken"),),
        decimals=2,
        panel_links=(runbook("FarthingMonthlyForecastHigh"),),
    )


def unpriced_engines() -> Panel:
    """How many engines no price applies to."""
    return theme.number(
        "Engines without a price",
        "Engines of the fleet that no price applies to: their records are kept, and their cost is in no amount here. "
        "Give their GPU a price in farthing.yaml; see the runbook of FarthingEngineUnpriced.",
        "none",
        [Query(money.unpriced_engines())],
        bands=(Band(1, "broken"),),
        unknown="none",
        panel_links=(runbook("FarthingEngineUnpriced"),),
    )


def month_ahead(settings: Settings) -> Panel:
    """The month's bill and its forecast, over time."""
    return theme.over_time(
        "This month's bill and its forecast",
        "What is settled of this calendar month (UTC), and what all of it will come to with the 80 % interval; the "
        "dashed line is the limit in farthing.yaml. A forecast that climbs: see who grew on the tenants' dashboard. "
        "It falls to the new month's on the first.",
        USD,
        [
            Query(money.bill_so_far(names.METRIC_BILL_MONTH), "settled"),
            *(Query(money.forecast(bound), f"forecast, {bound}") for bound in ("low", "expected", "high")),
        ],
        bands=(Band(float(settings.alerts.monthly_spend_usd), "broken"),),
        min_step="1m",
        panel_links=(to_dashboard(names.DASHBOARD_TENANTS, "Tenants"), runbook("FarthingMonthlyForecastHigh")),
    )


def budgets(*more: str, title: str = "Budgets of this month") -> Panel:
    """A table of budgets: how much of each is spent, and when the last threshold was passed; ``more`` are matchers."""
    return theme.listing(
        title,
        "Spend of this calendar month (UTC) by budget; a line without tenant, project and model is for the whole bill. "
        "Budgets never block: from 100 % on work goes on and costs, so talk to whom it belongs or raise it; see the "
        "runbook of FarthingBudgetSpent. Unknown in the last column: no threshold is passed.",
        BUDGET_KEYS,
        (
            Column("Spent", "percentunit", money.budget_gauge(names.METRIC_BUDGET_RATIO, *more), BUDGET_BANDS, 1),
            Column("Settled", USD, money.budget_gauge(names.METRIC_BUDGET_SPENT, *more), decimals=2),
            Column("Budget", USD, money.budget_gauge(names.METRIC_BUDGET, *more), decimals=2),
            Column("Last threshold passed", "dateTimeAsIso", money.budget_passed_ms(*more)),
        ),
        row_links={names.LABEL_TENANT: of_cell(names.DASHBOARD_TENANTS, "This tenant", "tenant")},
        panel_links=(runbook("FarthingBudgetSpent"), runbook("FarthingBudgetThresholdPassed")),
        footer=False,
    )
