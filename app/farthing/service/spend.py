"""Spend of today, the month and its forecast, by tenant, project, model or engine and of everything together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from farthing.books.anomalies import Anomaly, detect
from farthing.books.budgets import Budget, BudgetState, Who, spent_of
from farthing.books.forecast import forecast_month
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, utc
from farthing.domain.spend import ForecastView
from farthing.ledger.repository import Ledger
from farthing.service.hourly_spend import BORNE, Calendar, HourlySpend, Key, settled_through

__all__ = [
    "EVERYTHING",
    "FORETOLD",
    "WHO",
    "SpendBy",
    "SpendGroup",
    "SpendLine",
    "budget_forecasts",
    "budget_states",
    "expected",
    "spend_by",
]

SpendGroup = Literal["tenant", "project", "model", "engine"]
WHO = ("tenant", "project", "model")
EVERYTHING: Key = ()
"""The key of everything together."""

FORETOLD = 20
"""Lines, costliest month first, that have a forecast and are watched for anomalies."""
_KEYS: Mapping[SpendGroup, tuple[str, ...]] = {
    "tenant": ("tenant",),
    "project": ("project", "tenant"),
    "model": ("model",),
    "engine": ("engine",),
}


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one of them spent, in nano-dollars, by time of service."""

    key: Key
    today_nano: int
    yesterday_nano: int
    month_nano: int
    last_month_nano: int | None
    """None when the books began after it."""
    forecast: ForecastView | None
    """Of the whole month; None before a complete hour is known, and for lines beyond the costliest."""
    anomalies: tuple[Anomaly, ...]
    """Of this month and the last, oldest first."""


@dataclass(frozen=True, slots=True)
class SpendBy:
    """Spend of everything and of each, with its days and months."""

    keys: tuple[str, ...]
    calendar: Calendar
    through_hour: int
    """The first hour that is not complete."""
    everything: SpendLine
    lines: tuple[SpendLine, ...]
    """Costliest month first."""
    days: Mapping[str, Counter[Key]]
    """2026-11-26 -> key -> nano-dollars, this month and the two before; everything under the empty key."""
    months: Mapping[str, Counter[Key]]


def spend_by(ledger: Ledger, by: SpendGroup, now_ns: int) -> SpendBy:
    """Spend by tenant, project, model or engine as of a UTC moment in nanoseconds."""
    calendar, keys = Calendar.at(now_ns), _KEYS[by]
    through = settled_through(ledger, now_ns)
    each = HourlySpend(ledger, keys, c.ACCOUNTS if by == "engine" else BORNE)
    whole = HourlySpend(ledger, (), c.ACCOUNTS)
    for spend in (each, whole):
        spend.refresh(calendar.history, calendar.now)
    lines = _lines(each, calendar, through)
    totals = _lines(whole, calendar, through)
    everything = totals[0] if totals else _line(EVERYTHING, whole, calendar, _Sums.of(whole, calendar), None)
    return SpendBy(
        keys=keys,
        calendar=calendar,
        through_hour=through,
        everything=everything,
        lines=tuple(lines),
        days=_by_time(calendar, "%Y-%m-%d", whole, each),
        months=_by_time(calendar, "%Y-%m", whole, each),
    )


def expected(start_hour: int, history: Sequence[int], calendar: Calendar) -> ForecastView | None:
    """What this month will have cost at its end, from complete hours; None while there is none.

    Hours of this month that are not complete count as still to come; a series that ended before the month began is
    carried on to its beginning with hours of unknown spend.
    """
    if not history:
        return None
    gap = max(0, calendar.month - (start_hour + len(history)))
    found = forecast_month([*history, *([None] * gap)], start_hour=start_hour)
    return ForecastView(found.expected_nano, found.low_nano, found.high_nano, found.rest.method)


def budget_states(
    budgets: Sequence[Budget], borne: HourlySpend, whole: HourlySpend, calendar: Calendar
) -> tuple[BudgetState, ...]:
    """What is settled of this month of each budget; ``borne`` is by tenant, project and model."""
    month = borne.sums(calendar.month, calendar.next_month)
    by_who: dict[Who, int] = {(tenant, project, model): nano for (tenant, project, model), nano in month.items()}
    bill = whole.sums(calendar.month, calendar.next_month)[EVERYTHING]
    return spent_of(budgets, by_who, bill)


def budget_forecasts(
    budgets: Sequence[Budget], borne: HourlySpend, everything: ForecastView | None, calendar: Calendar, through: int
) -> dict[str, ForecastView | None]:
    """Name of a budget -> what it will have taken at the month's end; ``everything`` is that of the whole bill."""
    found: dict[str, ForecastView | None] = {}
    for budget in budgets:
        if budget.whole:
            found[budget.name] = everything
            continue
        series = borne.series(_picker(budget), through).get(EVERYTHING)
        found[budget.name] = expected(*series, calendar) if series else None
    return found


def _picker(budget: Budget) -> Callable[[Key], Key | None]:
    """Everything that counts against a budget, under one name."""
    return lambda key: EVERYTHING if budget.covers((key[0], key[1], key[2])) else None


@dataclass(frozen=True, slots=True)
class _Sums:
    today: Counter[Key]
    yesterday: Counter[Key]
    month: Counter[Key]
    last_month: Counter[Key]

    @classmethod
    def of(cls, spend: HourlySpend, calendar: Calendar) -> _Sums:
        return cls(
            spend.sums(calendar.today, calendar.next_month),
            spend.sums(calendar.yesterday, calendar.today),
            spend.sums(calendar.month, calendar.next_month),
            spend.sums(calendar.last_month, calendar.month),
        )


def _lines(spend: HourlySpend, calendar: Calendar, through: int) -> list[SpendLine]:
    sums = _Sums.of(spend, calendar)
    series = spend.series(lambda key: key, through)
    keys = {*series, *sums.today, *sums.month, *sums.last_month}
    ordered = sorted(keys, key=lambda key: (-sums.month[key], -sums.last_month[key], key))
    return [
        _line(key, spend, calendar, sums, series.get(key) if number < FORETOLD else None)
        for number, key in enumerate(ordered)
    ]


def _line(
    key: Key, spend: HourlySpend, calendar: Calendar, sums: _Sums, series: tuple[int, list[int]] | None
) -> SpendLine:
    known = spend.first_hour is not None and spend.first_hour < calendar.month
    found = detect(series[1], start_hour=series[0]) if series else []
    return SpendLine(
        key=key,
        today_nano=sums.today[key],
        yesterday_nano=sums.yesterday[key],
        month_nano=sums.month[key],
        last_month_nano=sums.last_month[key] if known else None,
        forecast=expected(*series, calendar) if series else None,
        anomalies=tuple(one for one in found if one.end_hour is None or one.end_hour > calendar.last_month),
    )


def _by_time(calendar: Calendar, shown: str, *spends: HourlySpend) -> dict[str, Counter[Key]]:
    found: dict[str, Counter[Key]] = {}
    for spend in spends:
        for hour, amounts in spend.hours():
            if hour < calendar.next_month:
                sums = found.setdefault(f"{utc(hour * HOUR):{shown}}", Counter())
                for key, nano in amounts.items():
                    sums[key] += nano
    return dict(sorted(found.items()))
