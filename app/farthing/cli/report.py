"""``farthing report``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import typer

from farthing.domain.errors import ConfigError
from farthing.exporters.report import render
from farthing.ledger.repository import Ledger
from farthing.service.reports import Group, report
from farthing.service.scope import parse_moment
from farthing.settings import Settings

__all__ = ["print_report"]

Output = Literal["table", "json", "csv"]


def print_report(  # noqa: PLR0917 - the command's options, in their order
    settings: Settings,
    since: str,
    until: str | None,
    by: Group,
    filters: Mapping[str, str | None],
    output: Output,
    ledger_url: str | None,
) -> None:
    """Print settled cost of the hours from one moment to another, of whatever ``filters`` leave."""
    now = datetime.now(UTC)
    start, end = parse_moment(since, now), None if until is None else parse_moment(until, now, "--until")
    if end is not None and end <= start:
        raise ConfigError(f"--until {until!r} is not after --since {since!r}; give a later moment")
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        table = report(ledger, start, by, settings.currency, until=end, filters=filters)
    typer.echo(render(table, output, color=sys.stdout.isatty()).rstrip("\n"))
