"""The commands of the books: periods, statements, explanations. They import what they need when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config, LedgerUrl, Output, OutputOption

__all__ = ["explain", "periods", "statements"]

Month = Annotated[str, typer.Argument(metavar="PERIOD", help="A month in UTC, as YYYY-MM.")]
Number = Annotated[str, typer.Argument(metavar="NUMBER", help="A statement's number, for example 2026-11-0001.")]


class Form(StrEnum):
    """What a statement is written as."""

    html = "html"
    csv = "csv"
    parquet = "parquet"
    json = "json"


class Mark(StrEnum):
    """What somebody says of a statement or a line."""

    disputed = "disputed"
    resolved = "resolved"
    withdrawn = "withdrawn"


periods = typer.Typer(name="period", help="Accounting periods: list, draft, close.", no_args_is_help=True)
statements = typer.Typer(name="statement", help="Statements of closed periods.", no_args_is_help=True)


@periods.command("list")
def list_periods(config: Config = None, ledger: LedgerUrl = None, output: OutputOption = Output.table) -> None:
    """List the periods that have anything in them, open or closed.

    Example: farthing period list
    """
    from farthing.cli.books import print_periods
    from farthing.settings import load_settings

    print_periods(load_settings(config), ledger, output.value)


@periods.command("draft")
def draft_period(
    period: Month, config: Config = None, ledger: LedgerUrl = None, output: OutputOption = Output.table
) -> None:
    """Show what closing a period now would charge to whom; writes nothing.

    Example: farthing period draft 2026-11
    """
    from farthing.cli.books import print_draft
    from farthing.settings import load_settings

    print_draft(load_settings(config), period, ledger, output.value)


@periods.command("close")
def close_period(
    period: Month,
    sign_off: Annotated[str, typer.Option(help="Who signs the closing off; stands on every statement.")],
    note: Annotated[str, typer.Option(help="A remark that is kept with the closing.")] = "",
    config: Config = None,
    ledger: LedgerUrl = None,
    output: OutputOption = Output.table,
) -> None:
    """Close a period for ever and issue its numbered statements.

    What becomes known of it later is an adjustment in the next period's statements.

    Example: farthing period close 2026-11 --sign-off "Ada Byron"
    """
    from farthing.cli.books import run_close
    from farthing.settings import load_settings

    run_close(load_settings(config), period, sign_off, note, ledger, output.value)


@statements.command("list")
def list_statements(
    period: Annotated[str | None, typer.Option(help="Only those of one period, as YYYY-MM.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only those of one tenant.")] = None,
    config: Config = None,
    ledger: LedgerUrl = None,
    output: OutputOption = Output.table,
) -> None:
    """List issued statements with their totals and open disputes.

    Example: farthing statement list --period 2026-11
    """
    from farthing.cli.books import print_statements
    from farthing.settings import load_settings

    print_statements(load_settings(config), period, tenant, ledger, output.value)


@statements.command("show")
def show_statement(
    number: Number, config: Config = None, ledger: LedgerUrl = None, output: OutputOption = Output.table
) -> None:
    """Print a statement's lines with their totals.

    Example: farthing statement show 2026-11-0001
    """
    from farthing.cli.books import print_statement
    from farthing.settings import load_settings

    print_statement(load_settings(config), number, ledger, output.value)


@statements.command("export")
def export_statements(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go; made when it is not there.")],
    period: Annotated[str | None, typer.Option(help="All statements of one period, as YYYY-MM.")] = None,
    number: Annotated[str | None, typer.Option(help="One statement by its number.")] = None,
    form: Annotated[list[Form] | None, typer.Option(help="html, csv, parquet or json; default all of them.")] = None,
    config: Config = None,
    ledger: LedgerUrl = None,
) -> None:
    """Write statements as files: HTML to read and print, CSV, Parquet, and the canonical JSON.

    Example: farthing statement export statements/ --period 2026-11 --form html --form csv
    """
    from farthing.cli.books import run_export
    from farthing.settings import load_settings

    run_export(load_settings(config), target, period, number, [one.value for one in form or list(Form)], ledger)


@statements.command("gl")
def general_ledger(
    period: Month, config: Config = None, ledger: LedgerUrl = None, output: OutputOption = Output.table
) -> None:
    """Print a closed period by account of the general ledger, cost centre and tenant; it foots to the bill.

    Example: farthing statement gl 2026-11 --output csv
    """
    from farthing.cli.books import print_general_ledger
    from farthing.settings import load_settings

    print_general_ledger(load_settings(config), period, ledger, output.value)


@statements.command("dispute")
def dispute(
    line: Annotated[str, typer.Argument(metavar="NUMBER[/LINE]", help="A statement, or one of its lines.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    note: Annotated[str, typer.Option(help="Why.")],
    mark: Annotated[Mark, typer.Option(help="disputed, resolved or withdrawn.")] = Mark.disputed,
    config: Config = None,
    ledger: LedgerUrl = None,
) -> None:
    """Mark a statement or a line as disputed, or say how that ended; the statement itself stays as it is.

    Example: farthing statement dispute 2026-11-0001/3 --by "Grace Hopper" --note "Not our project"
    """
    from farthing.cli.books import run_dispute
    from farthing.settings import load_settings

    run_dispute(load_settings(config), line, by, note, mark.value, ledger)


def explain(
    line: Annotated[
        str, typer.Argument(metavar="NUMBER[/LINE]|FILE", help="A statement or a line of it; with --verify a file.")
    ],
    export: Annotated[Path | None, typer.Option(help="Write all evidence of the statement to this file.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute a statement from an evidence file alone, without a ledger.")
    ] = False,
    top: Annotated[int, typer.Option(min=0, help="How many of the costliest requests to list.")] = 10,
    config: Config = None,
    ledger: LedgerUrl = None,
    output: OutputOption = Output.table,
) -> None:
    """Explain a statement's line: formula, requests, windows, fit, price and policy versions, input hashes.

    Examples:
      farthing explain 2026-11-0001/3
      farthing explain 2026-11-0001 --export evidence.zip
      farthing explain evidence.zip --verify
    """
    from farthing.cli.books import run_explain, run_verify
    from farthing.settings import load_settings

    if verify:
        raise typer.Exit(run_verify(Path(line), output.value))
    run_explain(load_settings(config), line, export, top, ledger, output.value)
