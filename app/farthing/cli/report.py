"""``farthing report``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Literal

import typer

from farthing.exporters.report import render
from farthing.ledger.repository import Ledger
from farthing.service.reports import Group, parse_since, report
from farthing.settings import Settings

__all__ = ["print_report"]

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
