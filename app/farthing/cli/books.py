"""What the commands of the books do: ``farthing period``, ``statement`` and ``explain``."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from farthing.books.periods import parse_period
from farthing.books.policy import load_policy
from farthing.books.statement import PLATFORM_TENANT, Statement
from farthing.domain.clock import utc
from farthing.domain.errors import PeriodError
from farthing.exporters.report import Cell, Column, ReportTable, render
from farthing.exporters.statement import render_statement
from farthing.ledger.repository import Ledger
from farthing.service.closing import Closed, close_period, draft_period, list_periods
from farthing.service.evidence import export_evidence, verify_evidence
from farthing.service.explanation import Explanation, explain_line
from farthing.service.issued import issued_statement, issued_statements, mark_dispute
from farthing.service.known_engines import with_discovered
from farthing.service.pricing import price_book
from farthing.settings import Settings

__all__ = [
    "print_draft",
    "print_general_ledger",
    "print_periods",
    "print_statement",
    "print_statements",
    "run_close",
    "run_dispute",
    "run_explain",
    "run_export",
    "run_verify",
]

PLATFORM = "(platform)"
"""How the platform's own statement is called in lists."""


def print_periods(settings: Settings, ledger_url: str | None, output: str) -> None:
    """Print every period and whether it is closed."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        states = list_periods(ledger)
    rows: list[tuple[Cell, ...]] = []
    for state in states:
        closed = "" if state.closed_ns is None else f"{utc(state.closed_ns):%Y-%m-%d %H:%M}"
        status = "open" if state.closed_ns is None else "closed"
        rows.append(
            (state.period, status, closed, state.signed_by, state.statements, state.bill_nano, state.closing_wip_nano)
        )
    columns = (
        Column("period", "Period"),
        Column("status", "Status"),
        Column("closed", "Closed (UTC)"),
        Column("signed_by", "Signed by"),
        Column("statements", "Statements", "integer"),
        Column("bill", "Bill", "money"),
        Column("closing_wip", "In progress at its end", "money"),
    )
    _print(ReportTable(columns, tuple(rows), title="Periods", currency=settings.currency), output)


def print_draft(settings: Settings, period: str, ledger_url: str | None, output: str) -> None:
    """Print what a period would come to."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        settings = with_discovered(settings, ledger)
        closed = draft_period(
            ledger, period, settings, price_book(settings), load_policy(settings.books.policy), now_ns=time.time_ns()
        )
    _print(_closing_table(closed, f"Draft of {period}"), output)


def run_close(  # noqa: PLR0917 - the command's options
    settings: Settings, period: str, signed_by: str, note: str, ledger_url: str | None, output: str
) -> None:
    """Close a period and print its statements."""
    policy = load_policy(settings.books.policy)
    policy.require(parse_period(period))
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        settings = with_discovered(settings, ledger)
        closed = close_period(
            ledger, period, settings, price_book(settings), policy, signed_by, now_ns=time.time_ns(), note=note
        )
    _print(_closing_table(closed, f"Closed {period}"), output)


def print_statements(
    settings: Settings, period: str | None, tenant: str | None, ledger_url: str | None, output: str
) -> None:
    """Print what was issued."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        found = issued_statements(ledger, period, tenant)
    rows: list[tuple[Cell, ...]] = [
        (one.number, one.period, one.tenant or PLATFORM, one.total_nano, one.sha256[:12], one.disputed) for one in found
    ]
    columns = (
        Column("number", "Number"),
        Column("period", "Period"),
        Column("tenant", "Tenant"),
        Column("total", "Total", "money"),
        Column("sha256", "SHA-256"),
        Column("disputed", "Disputed lines", "integer"),
    )
    total = ("Total", "", "", sum(one.total_nano for one in found), "", sum(one.disputed for one in found))
    _print(ReportTable(columns, tuple(rows), total, title="Statements", currency=settings.currency), output)


def print_statement(settings: Settings, number: str, ledger_url: str | None, output: str) -> None:
    """Print a statement's lines."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        statement = issued_statement(ledger, number)
    if output == "json":
        typer.echo(render_statement(statement, "json"))
        return
    _print(_statement_table(statement), output)


def run_export(  # noqa: PLR0917 - the command's options
    settings: Settings,
    target: Path,
    period: str | None,
    number: str | None,
    forms: Sequence[str],
    ledger_url: str | None,
) -> None:
    """Write statements as files."""
    if (period is None) == (number is None):
        raise PeriodError("give either --period or --number, to say which statements to write")
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        numbers = [number] if number else [one.number for one in issued_statements(ledger, period, None)]
        if not numbers:
            raise PeriodError(f"period {period} has no statements; farthing period list shows which are closed")
        found = [issued_statement(ledger, one) for one in numbers]
    for statement in found:
        for form in forms:
            file = target / f"{statement.number}.{form}"
            try:
                target.mkdir(parents=True, exist_ok=True)
                file.write_bytes(render_statement(statement, form))
            except OSError as error:
                raise PeriodError(f"{file}: cannot be written ({error.strerror}); give another folder") from error
            typer.echo(str(file))


def print_general_ledger(settings: Settings, period: str, ledger_url: str | None, output: str) -> None:
    """Print a closed period by account of the general ledger."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        numbers = [one.number for one in issued_statements(ledger, period, None)]
        found = [issued_statement(ledger, one) for one in numbers]
    if not found:
        raise PeriodError(f"period {period} has no statements; farthing period list shows which are closed")
    sums: Counter[tuple[str, str, str]] = Counter()
    for statement in found:
        tenant = statement.recipient.tenant or PLATFORM
        for line in statement.lines:
            sums[line.gl_account, line.cost_centre or statement.recipient.cost_centre, tenant] += line.amount_nano or 0
    columns = (
        Column("gl_account", "GL account"),
        Column("cost_centre", "Cost centre"),
        Column("tenant", "Tenant"),
        Column("amount", "Amount", "money"),
    )
    rows = tuple((*key, nano) for key, nano in sorted(sums.items()))
    total = ("Total", "", "", sum(sums.values()))
    _print(ReportTable(columns, rows, total, title=f"General ledger {period}", currency=settings.currency), output)


def run_dispute(  # noqa: PLR0917 - the command's options
    settings: Settings, line: str, by: str, note: str, mark: str, ledger_url: str | None
) -> None:
    """Mark a statement or a line."""
    number, place = _place(line)
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        mark_dispute(ledger, number, place, by, mark, note, now_ns=time.time_ns())
    typer.echo(f"{line}: {mark}")


def run_explain(  # noqa: PLR0917 - the command's options
    settings: Settings, line: str, export: Path | None, top: int, ledger_url: str | None, output: str
) -> None:
    """Explain a line, or write a statement's evidence."""
    number, place = _place(line)
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        if export is not None:
            count = export_evidence(ledger, number, export)
            typer.echo(f"{export}: statement {number} with {count} input records")
            return
        if place is None:
            _print(_statement_table(issued_statement(ledger, number)), output)
            return
        explanation = explain_line(ledger, number, place, top)
    if output == "json":
        typer.echo(json.dumps(asdict(explanation), indent=2, default=str))
        return
    for table in _explanation_tables(explanation, settings.currency):
        _print(table, output)


def run_verify(source: Path, output: str) -> int:
    """Recompute a statement from its evidence; returns the exit status."""
    statement, verdicts = verify_evidence(source)
    columns = (Column("check", "Check"), Column("ok", "Result"), Column("detail", "Detail"))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.name, "ok" if one.ok else "differs", one.detail) for one in verdicts
    )
    title = f"Recomputation of statement {statement.number} from {source.name}"
    _print(ReportTable(columns, rows, title=title, currency=statement.currency), output)
    return 0 if all(one.ok for one in verdicts) else 1


# ---- inside --------------------------------------------------------------------------------------


def _place(line: str) -> tuple[str, int | None]:
    number, _, place = line.partition("/")
    if place and not place.isdecimal():
        raise PeriodError(f"{line!r}: give a statement's number and a line's, for example 2026-11-0001/3")
    return number, int(place) if place else None


def _print(table: ReportTable, output: str) -> None:
    if output not in {"table", "json", "csv"}:
        raise ValueError(f"no output {output!r}")
    text = render(table, output, color=sys.stdout.isatty())  # type: ignore[arg-type]  # one of the three
    typer.echo(text.rstrip("\n"))


def _closing_table(closed: Closed, title: str) -> ReportTable:
    facts = closed.document.facts
    columns = (
        Column("number", "Statement"),
        Column("recipient", "For"),
        Column("cost_centre", "Cost centre"),
        Column("lines", "Lines", "integer"),
        Column("total", "Total", "money"),
        Column("payable", "Payable", "money"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            one.number,
            PLATFORM if one.recipient.tenant == PLATFORM_TENANT else one.recipient.name,
            one.recipient.cost_centre,
            len(one.lines),
            one.total_nano,
            one.payable_nano if one.kind == "chargeback" else None,
        )
        for one in closed.statements
    )
    total = sum(one.total_nano for one in closed.statements)
    expected = facts.opening_wip_nano + facts.bill_nano - facts.closing_wip_nano
    notes = (
        f"Opening work in progress {facts.opening_wip_nano} + bill {facts.bill_nano} "
        f"- closing work in progress {facts.closing_wip_nano} = {expected} nano; statements {total} nano.",
        f"Policy {closed.policy.version}: {closed.policy.mode}, {closed.policy.pricing.replace('_', ' ')}.",
        *(f"Unpriced: {one}" for one in facts.unpriced),
    )
    return ReportTable(columns, rows, ("Total", "", "", None, total, None), notes, title, facts.currency)


def _statement_table(statement: Statement) -> ReportTable:
    columns = (
        Column("line", "Line", "integer"),
        Column("section", "Section"),
        Column("service_period", "Service"),
        Column("project", "Project"),
        Column("description", "Description"),
        Column("quantity", "Quantity", "integer"),
        Column("unit", "Unit"),
        Column("amount", "Amount", "money"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            line.line,
            line.section,
            line.service_period,
            line.project,
            line.description,
            line.quantity,
            line.unit if line.quantity is not None else "",
            line.amount_nano,
        )
        for line in statement.lines
    )
    total: tuple[Cell, ...] = (None, "", "", "", "Total", None, "", statement.total_nano)
    title = f"Statement {statement.number} for {statement.recipient.name} ({statement.kind})"
    return ReportTable(columns, rows, total, statement.notes, title, statement.currency)


def _explanation_tables(explanation: Explanation, currency: str) -> list[ReportTable]:
    told = (Column("what", "What"), Column("value", "Value"))
    tables = [
        ReportTable(told, tuple((name, value) for name, value in explanation.told), title=explanation.title),
    ]
    if explanation.requests:
        columns = (
            Column("request_id", "Request"),
            Column("ended", "Ended (UTC)"),
            Column("outcome", "Outcome"),
            Column("tokens", "Tokens", "integer"),
            Column("cost", "Cost", "money"),
            Column("window", "Window and fit"),
        )
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (one.request_id, one.ended, one.outcome, one.tokens, one.nano, one.window) for one in explanation.requests
        )
        note = (f"{explanation.request_count} requests in all; the costliest are shown, at actual cost.",)
        tables.append(ReportTable(columns, rows, None, note, "Costliest requests", currency))
    if explanation.engines:
        columns = (
            Column("boot", "Boot"),
            Column("windows", "Windows", "integer"),
            Column("fit", "Fit"),
            Column("error", "Walk-forward error", "ratio"),
            Column("price", "Price"),
            Column("inputs", "SHA-256 of its input records"),
        )
        rows = tuple((one.boot, one.windows, one.fit, one.error, one.price, one.sha256) for one in explanation.engines)
        tables.append(ReportTable(columns, rows, None, (), "Where it was computed", currency))
    return tables
