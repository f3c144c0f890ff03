"""Cost alerts: money that buys nothing, or that the books cannot explain."""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import ENGINE_SPEND, FLEET_SPEND, amount, by_instance, dashboard_url, percent_text
from farthing.alerts.rules import SLOW_SECONDS, TEAM_FINANCE, TEAM_PLATFORM, TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.promql.money import cost_in, cost_share, unattributed_share
from farthing.promql.scope import FLEET
from farthing.settings import Settings

__all__ = ["cost"]

WASTE_RANGE: Final = "6h"
"""Longer than a quiet evening hour, shorter than a night that costs."""
WASTE_SECONDS: Final = 1800
BUSY_RANGE: Final = "1h"
UNATTRIBUTED_SECONDS: Final = 600
RESIDUAL_SECONDS: Final = 60
UNPRICED_SECONDS: Final = 300


def cost(settings: Settings) -> RuleGroup:
    """The cost alerts; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_COST_ALERTS,
        (
            _idle_cost_high(settings),
            _asleep_cost_high(settings),
            _starting_cost_high(settings),
            _unattributed_high(settings),
            _residual_not_zero(settings),
            _engine_unpriced(settings),
        ),
        SLOW_SECONDS,
    )


def _share_of_account(account: str, ratio: float, settings: Settings) -> str:
    """The part of all settled cost that an account is, beyond ``ratio`` and worth telling."""
    return (
        f"{cost_share(FLEET, WASTE_RANGE, (account,))}\n> {ratio!r}\n"
        f"and\n{cost_in(FLEET, WASTE_RANGE, (account,))} > {settings.alerts.waste_usd.normalize():f}"
    )


def _wasted(account: str) -> str:
    """Template: what the account cost in the range."""
    return amount(cost_in(FLEET, WASTE_RANGE, (account,)))


def _idle_cost_high(settings: Settings) -> AlertRule:
    """Most of the fleet's cost is waiting. It inhibits LLMGPUAllocatedIdle, which says the same of one engine."""
    return AlertRule(
        name="FarthingIdleCostHigh",
        expr=_share_of_account(names.IDLE, settings.alerts.idle_cost_ratio, settings),
        for_seconds=WASTE_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary="{{ $value | humanizePercentage }} of the fleet's cost is idle time",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of what the engines cost in six hours, {_wasted(names.IDLE)}, "
            f"bought idle time; told from {percent_text(settings.alerts.idle_cost_ratio)} on. "
            f"The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _asleep_cost_high(settings: Settings) -> AlertRule:
    """Sleeping engines keep their GPUs, which scaling to zero would give back. Nothing inhibits it."""
    return AlertRule(
        name="FarthingAsleepCostHigh",
        expr=_share_of_account(names.ASLEEP, settings.alerts.asleep_cost_ratio, settings),
        for_seconds=WASTE_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary="{{ $value | humanizePercentage }} of the fleet's cost is of engines asleep",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of what the engines cost in six hours, {_wasted(names.ASLEEP)}, "
            f"bought sleep; told from {percent_text(settings.alerts.asleep_cost_ratio)} on. "
            f"The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _starting_cost_high(settings: Settings) -> AlertRule:
    """Engines start too often, or too slowly: what scaling to zero costs. Nothing inhibits it."""
    return AlertRule(
        name="FarthingStartingCostHigh",
        expr=_share_of_account(names.STARTING, settings.alerts.starting_cost_ratio, settings),
        for_seconds=WASTE_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="cost",
        summary="{{ $value | humanizePercentage }} of the fleet's cost is of engines starting",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of what the engines cost in six hours, {_wasted(names.STARTING)}, "
            f"bought starts; told from {percent_text(settings.alerts.starting_cost_ratio)} on. "
            f"The fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )


def _unattributed_high(settings: Settings) -> AlertRule:
    """Work that no request explains. It speaks for the check of it, which FarthingReconciliationRed leaves out."""
    return AlertRule(
        name="FarthingUnattributedHigh",
        expr=by_instance(f"{unattributed_share(FLEET, BUSY_RANGE)}\n> {settings.alerts.unattributed_ratio!r}"),
        for_seconds=UNATTRIBUTED_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="cost",
        summary="{{ $labels.engine }}: no request explains {{ $value | humanizePercentage }} of busy cost",
        description=(
            "No request explains {{ $value | humanizePercentage }} of what {{ $labels.engine }} cost while it worked, "
            f"over an hour; expected is less than {percent_text(settings.alerts.unattributed_ratio)}. "
            f"The engine costs {ENGINE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _residual_not_zero(settings: Settings) -> AlertRule:
    """The books are wrong. It speaks for the check of the same, which FarthingReconciliationRed leaves out."""
    return AlertRule(
        name="FarthingResidualNotZero",
        expr=f"{names.METRIC_RESIDUAL} != 0",
        for_seconds=RESIDUAL_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="cost",
        summary='{{ $labels.engine }}: bill and accounts differ by ${{ $value | printf "%.9f" }}',
        description=(
            "The accounts of {{ $labels.engine }} and its work in progress do not add up to its bill: "
            '${{ $value | printf "%.9f" }} are left. '
            f"No report of it is to be trusted until that is 0. The engine costs {ENGINE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_FARTHING),
    )


def _engine_unpriced(settings: Settings) -> AlertRule:
    """An engine that costs nobody knows what. It speaks for the check of the same."""
    return AlertRule(
        name="FarthingEngineUnpriced",
        expr=f"{names.METRIC_UNPRICED} == 1",
        for_seconds=UNPRICED_SECONDS,
        severity="warning",
        team=TEAM_FINANCE,
        component="cost",
        summary="{{ $labels.engine }} has no price",
        description=(
            "No price applies to {{ $labels.engine }}, which serves {{ $labels.model }}: {{ $value }} engine of "
            f"which every amount leaves out the cost. The engines that have a price cost {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_ECONOMICS),
    )
