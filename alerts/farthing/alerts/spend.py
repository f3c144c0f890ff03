"""Spend alerts: more is spent than was meant to be."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import (
    FLEET_SPEND,
    MODEL_SPEND,
    amount,
    amount_of,
    dashboard_url,
    money_text,
)
from farthing.alerts.rules import SLOW_SECONDS, TEAM_FINANCE, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.promql.money import model_unit_cost, tenant_tokens_before, tenant_tokens_in
from farthing.promql.scope import FLEET, Scope
from farthing.settings import Settings

__all__ = ["spend"]

LASTING_SECONDS: Final = 300
JUMP_SECONDS: Final = 600
"""A rollout runs old and new engines side by side for a while; that is no jump."""
BASE_RANGE: Final = "1d:5m"
BASE_SAMPLES: Final = 72
"""Six hours of five minutes each: what is compared with less is compared with nothing."""
HISTORY: Final = "6h"
"""A model that is younger has nothing to be compared with."""
UNIT_COST_SECONDS: Final = 900
TRAFFIC_SHARE: Final = 0.5
"""Of the day's mean hour: with less traffic than that, a token is dearer because it has less company."""
TOLD_SECONDS: Final = 86_400
"""How long it is told that a threshold of a budget was passed."""
_WHOSE: Final = (names.LABEL_TENANT, names.LABEL_PROJECT, names.LABEL_MODEL)
_OF_WHOM: Final = (
    "{{ with $labels.tenant }} of tenant {{ . }}{{ end }}{{ with $labels.project }} of project {{ . }}{{ end }}"
    "{{ with $labels.model }} on {{ . }}{{ end }}"
)
"""Template: whose a budget is; nothing for the whole bill's, which has none of the labels."""
_DOLLARS: Final = '{{ $value | printf "$%.2f" }}'


def spend(settings: Settings) -> RuleGroup:
    """The spend alerts; thresholds from ``settings.alerts``, budgets from ``settings.budgets``."""
    return RuleGroup(
        names.GROUP_SPEND_ALERTS,
        (
            _spend_rate_jump(settings),
            _daily_spend_high(settings),
            _monthly_spend_high(settings),
            _monthly_forecast_high(settings),
            _budget_threshold_passed(settings),
            _budget_spent(settings),
            _cost_anomaly(settings),
            _unit_cost_jump(settings),
        ),
        SLOW_SECONDS,
    )


def _spend_rate_jump(settings: Settings) -> AlertRule:
    """The fleet got dearer within a day. The mean is of the sum, so that an engine that is new counts as a jump."""
    fleet = f"sum({names.METRIC_SPEND_RATE})"
    return AlertRule(
        name="FarthingSpendRateJump",
        expr=(
            f"{fleet} > {settings.alerts.spend_jump_ratio!r} * avg_over_time({fleet}[{BASE_RANGE}])\n"
            f"and\ncount_over_time({fleet}[{BASE_RANGE}]) >= {BASE_SAMPLES}"
        ),
        for_seconds=JUMP_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"The fleet costs {_DOLLARS} per hour, far more than over the last day",
        description=(
            f"All engines together cost {_DOLLARS} per hour, more than {settings.alerts.spend_jump_ratio:.10g} times "
            f"{amount(f'avg_over_time({fleet}[{BASE_RANGE}])')} per hour, their mean of the last day."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _daily_spend_high(settings: Settings) -> AlertRule:
    """Today's bill is past its limit. Nothing inhibits it; it ends at midnight UTC."""
    limit = settings.alerts.daily_spend_usd
    return AlertRule(
        name="FarthingDailySpendHigh",
        expr=f"{names.METRIC_BILL_TODAY} > {limit.normalize():f}",
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"Today's bill is {_DOLLARS}",
        description=(
            f"The engines have cost {_DOLLARS} since midnight UTC; meant are at most {money_text(limit)} a day. "
            f"The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _monthly_spend_high(settings: Settings) -> AlertRule:
    """This month's bill is past its limit. Nothing inhibits it; it inhibits FarthingMonthlyForecastHigh."""
    limit = settings.alerts.monthly_spend_usd
    return AlertRule(
        name="FarthingMonthlySpendHigh",
        expr=f"{names.METRIC_BILL_MONTH} > {limit.normalize():f}",
        for_seconds=LASTING_SECONDS,
        severity="critical",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"This month's bill is {_DOLLARS}",
        description=(
            f"The engines have cost {_DOLLARS} this month; meant are at most {money_text(limit)}. "
            f"The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _monthly_forecast_high(settings: Settings) -> AlertRule:
    """Even the forecast's low bound is past the limit: nine to one. FarthingMonthlySpendHigh inhibits it."""
    limit = settings.alerts.monthly_spend_usd
    return AlertRule(
        name="FarthingMonthlyForecastHigh",
        expr=f'{names.METRIC_SPEND_FORECAST}{{{names.LABEL_BOUND}="low"}} > {limit.normalize():f}',
        for_seconds=LASTING_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"This month's bill will be {_DOLLARS} or more",
        description=(
            f"The forecast of this month's bill is at least {_DOLLARS} ({{{{ $labels.bound }}}} bound of its 80 % "
            f"interval); meant are at most {money_text(limit)}. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _budget_threshold_passed(settings: Settings) -> AlertRule:
    """A threshold that the budget itself names, told for a day. FarthingBudgetSpent of the same budget inhibits it."""
    return AlertRule(
        name="FarthingBudgetThresholdPassed",
        expr=(
            f"({names.METRIC_BUDGET_EVENT} > time() - {TOLD_SECONDS}) * 0\n"
            f"+ on ({', '.join(_WHOSE)}) group_left ()\n{names.METRIC_BUDGET_RATIO} < 1"
        ),
        for_seconds=0,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"{{{{ $value | humanizePercentage }}}} of the budget{_OF_WHOM} is spent",
        description=(
            f"This month's spend{_OF_WHOM} passed {{{{ $labels.threshold }}}} of its budget within the last day and is "
            f"{{{{ $value | humanizePercentage }}}} of it now. The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _budget_spent(settings: Settings) -> AlertRule:
    """A budget is used up, until the month ends. Nothing inhibits it; it inhibits its budget's thresholds."""
    return AlertRule(
        name="FarthingBudgetSpent",
        expr=f"{names.METRIC_BUDGET_RATIO} >= 1",
        for_seconds=0,
        severity="critical",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"The budget{_OF_WHOM} is spent: {{{{ $value | humanizePercentage }}}}",
        description=(
            f"This month's spend{_OF_WHOM} is {{{{ $value | humanizePercentage }}}} of its budget. Budgets never "
            f"block: work goes on and costs; the fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _cost_anomaly(settings: Settings) -> AlertRule:
    """A tenant spends otherwise than it uses to. Nothing inhibits it."""
    floor = settings.alerts.waste_usd
    return AlertRule(
        name="FarthingCostAnomaly",
        expr=f"{names.METRIC_ANOMALY} > {floor.normalize():f}",
        for_seconds=0,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"{{{{ $labels.tenant }}}} spends {_DOLLARS} more than expected",
        description=(
            f"Tenant {{{{ $labels.tenant }}}} has cost {_DOLLARS} more than was to be expected of it, and goes on. "
            f"The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_TENANTS),
    )


def _unit_cost_jump(settings: Settings) -> AlertRule:
    """A model's tokens got dearer although as many of them are computed as ever. Nothing inhibits it."""
    ratio = settings.alerts.unit_cost_jump_ratio
    of_one = Scope((f"{names.LABEL_MODEL}=%q",))
    usual = amount_of(model_unit_cost(of_one, "1d"), names.LABEL_MODEL, times=2)
    return AlertRule(
        name="FarthingUnitCostJump",
        expr=(
            f"{model_unit_cost(FLEET, '1h')}\n> {ratio!r} * ({model_unit_cost(FLEET, '1d')})\n"
            f"and\n{tenant_tokens_in(FLEET, '1h')} > {TRAFFIC_SHARE} / 24 * {tenant_tokens_in(FLEET, '1d')}\n"
            f"and\n{tenant_tokens_before(FLEET, HISTORY)}"
        ),
        for_seconds=UNIT_COST_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary=f"{{{{ $labels.model }}}}: a million tokens cost {_DOLLARS}, far more than over the last day",
        description=(
            f"A million tokens of {{{{ $labels.model }}}}, prompts and answers together, cost {_DOLLARS} in the last "
            f"hour: more than {ratio:.10g} times {usual}, their mean of the last day, with as much traffic as ever. "
            f"The engines of this model cost {MODEL_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS, by_model=True),
    )
