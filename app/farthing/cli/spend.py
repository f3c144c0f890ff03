"""``farthing spend`` and ``farthing kpis``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import typer

from farthing.books.variance import variance
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.domain.errors import ConfigError
from farthing.exporters.report import ReportTable, render
from farthing.ledger.budget_events import budget_events
from farthing.ledger.engine_notes import unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.service import kpi_tables, spend_tables
from farthing.service.hourly_spend import BORNE, Calendar, HourlySpend
from farthing.service.idle_table import idle_table
from farthing.service.known_engines import with_discovered
from farthing.service.measures import drivers, key_figures
from farthing.service.pricing import price_book
from farthing.service.scope import Scope, hour_of, hour_text, parse_moment
from farthing.service.spend import WHO, SpendGroup, budget_forecasts, budget_states, spend_by
from farthing.settings import Settings

__all__ = ["print_kpis", "print_spend"]

Output = Literal["table", "json", "csv"]


def print_spend(settings: Settings, by: SpendGroup, show: str | None, output: Output, ledger_url: str | None) -> None:
    """Print spend, its days and months, budgets and anomalies; csv prints one table, ``show`` or the first."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        tables, days = _spend_tables(ledger, settings, by)
    if output == "table" and show is None:
        tables["daily"] = days
    _print(tables, show, output)


def print_kpis(  # noqa: PLR0917 - the command's options, in their order
    settings: Settings,
    since: str,
    until: str | None,
    against: str | None,
    filters: Mapping[str, str | None],
    documents: bool,
    show: str | None,
    output: Output,
    ledger_url: str | None,
) -> None:
    """Print key figures of a period, and why its bill differs from an earlier one's of the same length."""
    now = datetime.now(UTC)
    start = parse_moment(since, now)
    end = now if until is None else parse_moment(until, now, "--until")
    if end <= start:
        raise ConfigError(f"--until {until!r} is not after --since {since!r}; give a later moment")
    scope = Scope.of(start, end, filters)
    if until is None:
        # the hour that runs is in it as far as it is settled
        scope = replace(scope, end_hour=hour_of(now) + 1)
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        tables = _kpi_tables(ledger, settings, scope, _before(scope, against, now), documents)
    _print(tables, show, output)


def _spend_tables(ledger: Ledger, settings: Settings, by: SpendGroup) -> tuple[dict[str, ReportTable], ReportTable]:
    """The tables by name, and the days once more as people read them."""
    now_ns, currency = time.time_ns(), settings.currency
    found = spend_by(ledger, by, now_ns)
    tables = {
        "spend": spend_tables.spend_table(found, unpriced_engines(ledger), currency),
        "daily": spend_tables.days_table(found, currency),
        "monthly": spend_tables.months_table(found, currency),
    }
    budgets = [entry.budget for entry in settings.budgets]
    if budgets:
        calendar = found.calendar
        borne, whole = HourlySpend(ledger, WHO, BORNE), HourlySpend(ledger, (), c.ACCOUNTS)
        for spend in (borne, whole):
            spend.refresh(calendar.history, calendar.now)
        states = budget_states(budgets, borne, whole, calendar)
        forecasts = budget_forecasts(budgets, borne, found.everything.forecast, calendar, found.through_hour)
        events = budget_events(ledger, calendar.month_name)
        tables["budgets"] = spend_tables.budget_table(states, forecasts, events, calendar.month_name, currency)
    tables["idle"] = idle_table(ledger, price_book(with_discovered(settings, ledger)), now_ns, currency)
    tables["anomalies"] = spend_tables.anomaly_table(found, currency)
    return tables, spend_tables.days_for_people(found, currency)


def _kpi_tables(
    ledger: Ledger, settings: Settings, scope: Scope, before: Scope, documents: bool
) -> dict[str, ReportTable]:
    measures = key_figures(ledger, scope, documents=documents)
    currency, period = settings.currency, _period(scope)
    changed = variance(drivers(ledger, before), drivers(ledger, scope))
    return {
        "units": kpi_tables.unit_table(measures, period, currency),
        "shares": kpi_tables.share_table(measures, period, currency),
        "variance": kpi_tables.variance_table(changed, _period(before), period, currency),
    }


def _before(scope: Scope, against: str | None, now: datetime) -> Scope:
    """The period to compare with: as many hours from ``against`` on, else from the beginning of the month before."""
    end = scope.end_hour if scope.end_hour is not None else hour_of(now) + 1
    if against is None:
        start = Calendar.at(scope.start_hour * HOUR).last_month
        start += scope.start_hour - Calendar.at(scope.start_hour * HOUR).month
    else:
        start = hour_of(parse_moment(against, now, "--against"))
    length = end - scope.start_hour
    return replace(
        scope, start_hour=start, end_hour=min(start + length, scope.start_hour) if against is None else start + length
    )


def _period(scope: Scope) -> str:
    end = "" if scope.end_hour is None else f" to {hour_text(scope.end_hour)}"
    filters = "".join(f", {key} {name}" for key, name in scope.filters.items())
    return f"{hour_text(scope.start_hour)}{end} UTC{filters}"


def _print(tables: Mapping[str, ReportTable], show: str | None, output: Output) -> None:
    if show is not None and show not in tables:
        raise ConfigError(f"--show {show!r}: there is no such table; give one of {', '.join(tables)}")
    chosen = {show: tables[show]} if show else tables
    if output == "json":
        documents = {name: json.loads(render(table, "json")) for name, table in chosen.items()}
        typer.echo(json.dumps(documents, indent=2, ensure_ascii=False))
    elif output == "csv":
        typer.echo(render(next(iter(chosen.values())), "csv").rstrip("\n"))
    else:
        shown = [table for name, table in chosen.items() if table.rows or name in {show, "spend"}]
        typer.echo("\n\n".join(render(table, "table", color=sys.stdout.isatty()).rstrip("\n") for table in shown))
