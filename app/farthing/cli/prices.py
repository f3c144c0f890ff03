"""``farthing prices``: what GPUs cost from when to when, who says so, and where nothing is known."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Literal

import typer

from farthing.books.moments import moment_ns, moment_text
from farthing.books.price_lines import PriceLine, price_lines
from farthing.domain.errors import ConfigError
from farthing.exporters.report import Cell, Column, ReportTable, render
from farthing.service.pricing import price_book
from farthing.settings import Settings

__all__ = ["UNPRICED", "prices_table", "print_prices"]

Output = Literal["table", "json", "csv"]
UNPRICED = "unpriced"

_COLUMNS = (
    Column("entry", "Entry"),
    Column("name", "Name"),
    Column("gpu", "GPU"),
    Column("gpus", "GPUs", "integer"),
    Column("kind", "Kind"),
    Column("per_hour", "Per GPU-hour", "money"),
    Column("amortised", "Amortised part", "money"),
    Column("host_share", "Host's part", "ratio"),
    Column("rate", "Exchange rate"),
    Column("start", "From"),
    Column("end", "To"),
    Column("source", "Source"),
)
_ALWAYS = {"gpu", "per_hour", "start", "source"}


def print_prices(settings: Settings, output: Output, at: str | None = None) -> None:
    """Print all prices, or those of a moment (a UTC date or time); ConfigError when ``at`` is neither."""
    table = prices_table(settings, None if at is None else _moment(at))
    if output == "table":
        table = _without_empty_columns(table)
    typer.echo(render(table, output, color=sys.stdout.isatty()).rstrip("\n"))


def prices_table(settings: Settings, at_ns: int | None) -> ReportTable:
    """Prices, capacities and exchange rates of the settings; of one UTC moment, or all."""
    lines = price_lines(price_book(settings), at_ns)
    notes = ["Entries under prices: in farthing.yaml replace the defaults of the same GPU."]
    if any(line.entry == "capacity" for line in lines):
        notes.append("A capacity's price per GPU-hour is its whole cost divided by its GPUs, used or not.")
    if any(line.unpriced for line in lines):
        notes.append("Unpriced: work of that time has no cost until a price is entered for it.")
    return ReportTable(
        title="GPU prices" if at_ns is None else f"GPU prices at {moment_text(at_ns)}",
        columns=_COLUMNS,
        rows=tuple(_row(line) for line in lines),
        notes=tuple(notes),
        currency=settings.currency,
    )


def _row(line: PriceLine) -> tuple[Cell, ...]:
    return (
        line.entry,
        line.name,
        line.gpu,
        line.gpus,
        line.kind,
        UNPRICED if line.unpriced else line.nano_per_gpu_hour,
        line.amortised_nano_per_gpu_hour,
        None if line.host_share is None else float(line.host_share),
        None if line.rate is None else f"{line.rate.normalize():f}",
        None if line.start_ns is None else moment_text(line.start_ns),
        None if line.end_ns is None else moment_text(line.end_ns),
        line.source,
    )


def _without_empty_columns(table: ReportTable) -> ReportTable:
    """For people: a column in which nothing stands takes only room."""
    shown = [
        i
        for i, column in enumerate(table.columns)
        if column.key in _ALWAYS or any(row[i] not in {None, "", 0} for row in table.rows)
    ]
    return ReportTable(
        title=table.title,
        columns=tuple(table.columns[i] for i in shown),
        rows=tuple(tuple(row[i] for i in shown) for row in table.rows),
        notes=table.notes,
        currency=table.currency,
    )


def _moment(text: str) -> int:
    try:
        return moment_ns(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--at {text!r}: give a UTC date or time such as 2026-11-01 or 2026-11-01T13:00:00Z"
        ) from error
