"""Spend as tables: who spent what, day by day, month by month, against budgets, and where it was not as usual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from farthing.books.budgets import BudgetEvent, BudgetState
from farthing.books.forecast import INTERVAL
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.spend import ForecastView
from farthing.exporters.report import Cell, Column, ReportTable
from farthing.ledger.engine_notes import Unpriced
from farthing.service.hourly_spend import Key
from farthing.service.scope import hour_text
from farthing.service.spend import EVERYTHING, FORETOLD, SpendBy, SpendLine

__all__ = [
    "SHOWN_DAYS",
    "anomaly_table",
    "budget_table",
    "days_for_people",
    "days_table",
    "months_table",
    "spend_table",
]

SHOWN_DAYS = 31
SHOWN_NAMES = 6
_NO_FORECAST = (None, None, None)


def spend_table(found: SpendBy, unpriced: Sequence[Unpriced], currency: str) -> ReportTable:
    """Today, yesterday, this month and the last, and the month's forecast, of each and of everything."""
    columns = (
        *_keys(found),
        Column("today", "Today", "money"),
        Column("yesterday", "Yesterday", "money"),
        Column("month", "Month to date", "money"),
        Column("last_month", "Last month", "money"),
        Column("forecast", "Month, forecast", "money"),
        Column("forecast_low", f"Low ({INTERVAL:.0%})", "money"),
        Column("forecast_high", "High", "money"),
        Column("anomalies", "Anomalies' impact", "money"),
    )
    rows = [_spend_row(line, found) for line in found.lines]
    blank = (None,) * (len(columns) - len(found.keys))
    for engine in unpriced:
        named = {"engine": engine.engine, "model": engine.model}.get(found.keys[0])
        first = named or f"({c.UNPRICED}: {engine.engine})"
        rows.append((first, *(None for _ in found.keys[1:]), c.UNPRICED, *blank[1:]))
    total = found.everything
    nothing = bool(unpriced) and not total.month_nano and not total.last_month_nano
    rest = (c.UNPRICED, *blank[1:]) if nothing else _amounts(total, found)
    return ReportTable(
        columns=columns,
        rows=tuple(rows),
        total=("Whole bill", *("" for _ in found.keys[1:]), *rest),
        notes=_notes(found, unpriced),
        title=f"Spend by {found.keys[0]}, {found.calendar.month_name}",
        currency=currency,
    )


def days_table(found: SpendBy, currency: str) -> ReportTable:
    """The last days, a row for each, with a column for everything and one for each of the costliest."""
    return _series("day", found, dict(list(found.days.items())[-SHOWN_DAYS:]), currency)


def days_for_people(found: SpendBy, currency: str) -> ReportTable:
    """The last days with a column for everything and one for each of the costliest, for reading."""
    shown = found.lines[:SHOWN_NAMES]
    columns = (
        Column("day", "Day"),
        Column("everything", "Whole bill", "money"),
        *(Column(f"name_{number}", _name(line.key), "money") for number, line in enumerate(shown)),
    )
    days = list(found.days.items())[-SHOWN_DAYS:]
    rows: list[tuple[Cell, ...]] = [
        (day, amounts[EVERYTHING], *(amounts[line.key] for line in shown)) for day, amounts in days
    ]
    rest = len(found.lines) - len(shown)
    notes = (f"{rest} more in --show daily.",) if rest else ()
    return ReportTable(columns, tuple(rows), notes=notes, title="Spend by day", currency=currency)


def months_table(found: SpendBy, currency: str) -> ReportTable:
    """This month and the two before."""
    return _series("month", found, found.months, currency)


def budget_table(
    states: Sequence[BudgetState],
    forecasts: Mapping[str, ForecastView | None],
    events: Sequence[BudgetEvent],
    month: str,
    currency: str,
) -> ReportTable:
    """Budgets of a month: what is spent, what is left, what is expected, and which thresholds were passed when."""
    rows: list[tuple[Cell, ...]] = []
    for state in states:
        name, forecast = state.budget.name, forecasts.get(state.budget.name)
        passed = [e for e in events if (e.budget, e.monthly_nano) == (name, state.budget.monthly_nano)]
        told = ", ".join(f"{e.threshold:.0%} {utc(e.at_ns):%m-%d %H:%M}" for e in passed)
        amounts = (state.budget.monthly_nano, state.spent_nano, state.left_nano, state.ratio)
        rows.append((name, *amounts, *_forecast(forecast), told))
    return ReportTable(
        columns=(
            Column("budget", "Budget"),
            Column("monthly", "Monthly", "money"),
            Column("spent", "Spent", "money"),
            Column("left", "Left", "money"),
            Column("ratio", "Used", "ratio"),
            Column("forecast", "Forecast", "money"),
            Column("forecast_low", f"Low ({INTERVAL:.0%})", "money"),
            Column("forecast_high", "High", "money"),
            Column("passed", "Thresholds passed (UTC)"),
        ),
        rows=tuple(rows),
        notes=("Budgets never block. Thresholds are written by farthing serve, once a month each.",),
        title=f"Budgets, {month}",
        currency=currency,
    )


def anomaly_table(found: SpendBy, currency: str) -> ReportTable:
    """Hours of this month and the last in which something did not cost what it usually does, newest first."""
    lines = [("everything", found.everything), *((_name(line.key), line) for line in found.lines)]
    rows = [
        (
            name,
            one.kind.replace("_", " "),
            hour_text(one.start_hour),
            "goes on" if one.end_hour is None else hour_text(one.end_hour),
            one.observed_nano,
            one.expected_nano,
            one.impact_nano,
        )
        for name, line in lines
        for one in line.anomalies
    ]
    return ReportTable(
        columns=(
            Column("who", found.keys[0].capitalize()),
            Column("kind", "Kind"),
            Column("start", "From (UTC)"),
            Column("end", "To (UTC)"),
            Column("observed", "Observed", "money"),
            Column("expected", "Expected", "money"),
            Column("impact", "Impact", "money"),
        ),
        rows=tuple(sorted(rows, key=lambda row: (row[2], row[0]), reverse=True)),
        notes=("Impact is observed less expected: what it cost more than usual, or less.",),
        title="Anomalies of this month and the last",
        currency=currency,
    )


def _spend_row(line: SpendLine, found: SpendBy) -> tuple[Cell, ...]:
    return (*(name or None for name in line.key), *_amounts(line, found))


def _amounts(line: SpendLine, found: SpendBy) -> tuple[Cell, ...]:
    current = [one for one in line.anomalies if one.end_hour is None or one.end_hour > found.calendar.month]
    impact = sum(one.impact_nano for one in current)
    amounts = (line.today_nano, line.yesterday_nano, line.month_nano, line.last_month_nano)
    return (*amounts, *_forecast(line.forecast), impact)


def _forecast(forecast: ForecastView | None) -> tuple[int | None, int | None, int | None]:
    return _NO_FORECAST if forecast is None else (forecast.expected_nano, forecast.low_nano, forecast.high_nano)


def _series(unit: str, found: SpendBy, sums: Mapping[str, Counter[Key]], currency: str) -> ReportTable:
    """Long, a row for each time and name, so that programs read it whatever names there are."""
    rows: list[tuple[Cell, ...]] = []
    names: Sequence[Key] = [line.key for line in found.lines]
    for when, amounts in sums.items():
        rows.append((when, "everything", *("" for _ in found.keys[1:]), amounts[EVERYTHING]))
        rows += [(when, *(name or None for name in key), amounts[key]) for key in names if amounts[key]]
    return ReportTable(
        columns=(Column(unit, unit.capitalize()), *_keys(found), Column("cost", "Cost", "money")),
        rows=tuple(rows),
        notes=(_everything_note(found),),
        title=f"Spend by {unit}",
        currency=currency,
    )


def _keys(found: SpendBy) -> tuple[Column, ...]:
    return tuple(Column(key, key.capitalize()) for key in found.keys)


def _everything_note(found: SpendBy) -> str:
    if found.keys[0] == "engine":
        return "Everything is the whole bill of all engines."
    return "Everything is the whole bill: idle and lost time too, which nobody bears."


def _notes(found: SpendBy, unpriced: Sequence[Unpriced]) -> tuple[str, ...]:
    forecast = found.everything.forecast
    notes = [f"Settled cost by time of service, UTC; complete to {hour_text(found.through_hour)}."]
    if found.keys[0] != "engine":
        notes.append("Each bears charged and aborted work; the whole bill also holds idle and lost time.")
    if forecast is not None:
        notes.append(f"Forecast of the whole bill: {forecast.method}.")
    if len(found.lines) > FORETOLD:
        notes.append(f"Forecasts and anomalies are those of the {FORETOLD} costliest.")
    notes += [
        f"{c.UNPRICED}: engine {engine.engine} (model {engine.model}, GPU {engine.gpu or c.UNKNOWN}) since "
        f"{utc(engine.since_ns):%Y-%m-%d %H:%M} UTC; what it cost is in no amount here. {engine.reason}"
        for engine in unpriced
    ]
    return tuple(notes)


def _name(key: Key) -> str:
    return " / ".join(name or c.UNKNOWN for name in key)
