"""``farthing report`` and ``farthing prices``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Literal

import typer

from farthing.exporters.report import Column, ReportTable, render
from farthing.ledger.repository import Ledger
from farthing.service.reports import Group, parse_since, report
from farthing.service.server import price_book
from farthing.settings import Settings

__all__ = ["print_prices", "print_report"]

Output = Literal["table", "json", "csv"]


def print_report(settings: Settings, since: str, by: Group, output: Output, ledger_url: str | None) -> None:
    """Print settled cost since a moment."""
    start = parse_since(since, datetime.now(UTC))
    ledger = Ledger.open(ledger_url or settings.ledger)
    try:
        table = report(ledger, start, by, settings.currency)
    finally:
        ledger.close()
    typer.echo(render(table, output, color=sys.stdout.isatty()).rstrip("\n"))


def print_prices(settings: Settings, output: Output) -> None:
    """Print the price table."""
    rows = [
        (price.gpu, price.nano_per_hour, price.start.isoformat(), price.source) for price in price_book(settings).prices
    ]
    table = ReportTable(
        title="GPU prices",
        columns=(
            Column("gpu", "GPU"),
            Column("per_hour", "Per hour", "money"),
            Column("start", "From"),
            Column("source", "Source"),
        ),
        rows=tuple(rows),
        notes=("Entries under prices: in farthing.yaml replace the defaults of the same GPU.",),
        currency=settings.currency,
    )
    typer.echo(render(table, output, color=sys.stdout.isatty()).rstrip("\n"))
