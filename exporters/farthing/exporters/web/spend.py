"""The page's block of spend: what a ``SpendView`` says, as JSON-ready values."""

from __future__ import annotations

from typing import Any

from farthing.domain.clock import SECOND
from farthing.domain.spend import AnomalyView, BudgetView, ForecastView, SpendView

__all__ = ["ANOMALIES_SHOWN", "anomaly_payload", "budget_payload", "milliseconds", "spend_payload"]

ANOMALIES_SHOWN = 20

Payload = dict[str, Any]


def spend_payload(spend: SpendView) -> Payload:
    """Today, the month, its forecast, budgets, the newest anomalies, and who has no price."""
    return {
        "through_ms": milliseconds(spend.through_ns),
        "month": spend.month,
        "today_nano": spend.today_nano,
        "yesterday_nano": spend.yesterday_nano,
        "month_nano": spend.month_nano,
        "last_month_nano": spend.last_month_nano,
        "forecast": _forecast(spend.forecast),
        "budgets": [budget_payload(budget) for budget in spend.budgets],
        "anomalies": [anomaly_payload(anomaly) for anomaly in spend.anomalies[:ANOMALIES_SHOWN]],
        "unpriced": [
            {"engine": one.engine, "model": one.model, "gpu": one.gpu, "reason": one.reason} for one in spend.unpriced
        ],
        "capacity": [
            {"account": account, "reason": reason, "nano": nano}
            for (account, reason), nano in sorted(spend.capacity_nano.items())
        ],
    }


def _forecast(forecast: ForecastView | None) -> Payload | None:
    if forecast is None:
        return None
    return {
        "expected_nano": forecast.expected_nano,
        "low_nano": forecast.low_nano,
        "high_nano": forecast.high_nano,
        "method": forecast.method,
    }


def budget_payload(budget: BudgetView) -> Payload:
    """A budget, what is spent of it, what its month will come to, and the thresholds it passed."""
    return {
        "name": budget.name,
        "monthly_nano": budget.monthly_nano,
        "spent_nano": budget.spent_nano,
        "forecast": _forecast(budget.forecast),
        "events": [{"threshold": threshold, "at_ms": milliseconds(at_ns)} for threshold, at_ns in budget.events],
    }


def anomaly_payload(anomaly: AnomalyView) -> Payload:
    """Hours of unusual spend; ``tenant`` is null for everything together."""
    return {
        "tenant": anomaly.tenant,
        "kind": anomaly.kind,
        "start_ms": milliseconds(anomaly.start_ns),
        "end_ms": None if anomaly.end_ns is None else milliseconds(anomaly.end_ns),
        "observed_nano": anomaly.observed_nano,
        "expected_nano": anomaly.expected_nano,
        "impact_nano": anomaly.impact_nano,
    }


def milliseconds(nanoseconds: int) -> int:
    """Whole milliseconds, rounded down."""
    return nanoseconds * 1_000 // SECOND
