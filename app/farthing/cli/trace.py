"""``farthing trace``: the requests of a trace as a waterfall, and what each cost by phase beside its estimate."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farthing.cli.report_remote import ask
from farthing.domain import conventions as c
from farthing.domain.clock import MILLISECOND, SECOND, utc
from farthing.domain.errors import ServiceError
from farthing.exporters.report import (
    UNBOUNDED_WIDTH,
    UNKNOWN_CELL,
    Column,
    Output,
    ReportTable,
    as_text,
    exact,
    printable,
    render,
)
from farthing.ledger.repository import Ledger
from farthing.service.report_api import TRACE_PATH
from farthing.service.trace_view import MOST_REQUESTS, Rest, TracedRequest, TraceView, trace_document, trace_view
from farthing.settings import Settings

__all__ = ["print_remote_trace", "print_trace", "trace_table", "waterfall"]

MOST_BYTES: Final = 16 * 2**20
"""Of an answer; the largest that the service gives is smaller."""
BAR: Final = 44
"""Characters of the picture."""
MOST_PARTS: Final = 16
"""Of a request or the rest: there are fewer names of steps, of phases, and of methods of a phase."""
MOST_LETTERS: Final = 1_024
"""Of a name; the longest that the ledger keeps has 512."""
STYLES: Final = {"queue": "yellow", "wait": "yellow", "prefill": "cyan", "decode": "green", "stream": "blue"}


def print_trace(settings: Settings, name: str, output: Output, ledger_url: str | None) -> None:
    """Print a trace from a ledger. Raises TraceError when there is none."""
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        view = trace_view(ledger, name, settings.currency)
    typer.echo(_text(view, output))


def print_remote_trace(url: str, token_file: Path | None, name: str, output: Output) -> None:
    """Print a trace of the service at a URL, of what a token opens there. Raises ServiceError."""
    answer = ask(url, token_file, f"{TRACE_PATH}/{quote(name, safe='')}", {}, MOST_BYTES)
    try:
        view = msgspec.json.decode(answer, type=TraceView)
        text = _text(view, output) if _can_be_ours(view) else ""
    except (ValueError, ArithmeticError, RecursionError) as error:
        # what is shaped otherwise, or has amounts and moments that nothing can have
        raise ServiceError(f"{url}: answers something that is no trace; is Farthing there, of this version?") from error
    if not text:
        raise ServiceError(f"{url}: answers a trace without requests, or with too many; is Farthing there?")
    typer.echo(text)


def _can_be_ours(view: TraceView) -> bool:
    """Whether it is as large as a trace of the service can be: more would take long to draw."""
    parts = (view.trace_id, view.currency, view.rest, *view.requests)
    return 0 < len(view.requests) <= MOST_REQUESTS and all(map(_is_small, parts))


def _is_small(part: object) -> bool:
    """Whether no name in it is longer, and no list in it larger, than one can be."""
    if isinstance(part, str):
        return len(part) <= MOST_LETTERS
    if isinstance(part, tuple):
        return len(part) <= MOST_PARTS and all(map(_is_small, part))
    return not is_dataclass(part) or all(_is_small(getattr(part, field.name)) for field in fields(part))


def _text(view: TraceView, output: Output) -> str:
    """The trace as it is printed, without control characters: names in it are their senders' own words."""
    if output == "json":
        text = msgspec.json.format(msgspec.json.encode(trace_document(view)), indent=2).decode()
        return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)
    if output == "csv":
        return render(trace_table(view), "csv").rstrip("\n")
    on_terminal = sys.stdout.isatty()
    return waterfall(view, color=on_terminal, width=None if on_terminal else UNBOUNDED_WIDTH).rstrip("\n")


def waterfall(view: TraceView, *, color: bool = False, width: int | None = UNBOUNDED_WIDTH) -> str:
    """The trace as text: a bar for every request and for each part of its time, then its costs, exact.

    ``width`` in columns; None: the terminal's.
    """
    head = (Text(line, style="bold") for line in _head(view))
    notes = (Text(note, style="dim") for note in _notes(view))
    return as_text((*head, _times(view), _costs(view), *notes), color=color, width=width or Console().width)


def _head(view: TraceView) -> Iterator[str]:
    count = len(view.requests) + view.more
    name = f"Trace {printable(view.trace_id)}" if view.trace_id else "No trace"
    requests = "1 request" if count == 1 else f"{count:,} requests"
    took = _took(view.end_ns - view.start_ns)
    yield f"{name}: {requests} in {took}, from {utc(view.start_ns):%Y-%m-%d %H:%M:%S.%f} UTC"
    parts = [f"{'settled' if view.state == 'settled' else f'settled so far ({view.state})'} {exact(view.cost_nano)}"]
    if view.estimate_nano is not None:
        parts.append(f"estimated {exact(view.estimate_nano)}")
        if view.state == "settled":
            parts.append(f"difference {_difference(view.cost_nano - view.estimate_nano, view.estimate_nano)}")
    yield f"{', '.join(parts)} {printable(view.currency)}"


def _times(view: TraceView) -> Table:
    grid = Table(box=box.SIMPLE, pad_edge=False, header_style="bold")
    grid.add_column("what", no_wrap=False, overflow="fold")
    grid.add_column(f"0 to {_took(view.end_ns - view.start_ns)}", no_wrap=True, min_width=BAR)
    grid.add_column("at", justify="right", no_wrap=True)
    grid.add_column("took", justify="right", no_wrap=True)
    grid.add_column("how", overflow="fold")
    for request in view.requests:
        begin = request.begin_ns
        known = request.arrived_ns is not None
        grid.add_row(
            Text(printable(request.request_id) or "(no id)", style="bold"),
            _bar(view, begin, request.ended_ns, "white"),
            _took(begin - view.start_ns) if known else UNKNOWN_CELL,
            _took(request.ended_ns - begin) if known else UNKNOWN_CELL,
            _how(request),
        )
        for step in request.steps:
            label = printable(step.name) if step.count == 1 else f"{printable(step.name)} ×{step.count}"
            bar = _bar(view, step.start_ns, step.end_ns, STYLES.get(step.name, "white"))
            at, took = _took(step.start_ns - view.start_ns), _took(step.end_ns - step.start_ns)
            grid.add_row(f"  {label}", bar, at, took, "")
    return grid


def _bar(view: TraceView, start_ns: int, end_ns: int, style: str) -> Text:
    """Where it lies within the trace: one character at least."""
    whole = max(1, view.end_ns - view.start_ns)
    begin = min(BAR - 1, max(0, (start_ns - view.start_ns) * BAR // whole))
    end = min(BAR, max(begin + 1, -(-(end_ns - view.start_ns) * BAR // whole)))
    return Text(" " * begin + "█" * (end - begin), style=style)


def _how(request: TracedRequest) -> str:
    who = "/".join(printable(part) for part in (request.tenant, request.project) if part)
    tokens = (
        f"{_count(request.prompt_tokens)} ({_count(request.cached_tokens)} cached) to {_count(request.output_tokens)}"
    )
    status = f" {request.status}" if request.status else ""
    where = f"{printable(request.model)} on {printable(request.engine)}" if request.engine else printable(request.model)
    return f"{printable(request.outcome)}{status}, {tokens} tokens, {where} for {who}"


def _costs(view: TraceView) -> Table:
    grid = Table(box=box.SIMPLE, pad_edge=False, header_style="bold")
    grid.add_column("request", overflow="fold")
    grid.add_column("cost", no_wrap=True)
    grid.add_column(printable(view.currency), justify="right", no_wrap=True)
    grid.add_column("how it is known", overflow="fold")
    for request in view.requests:
        _add_costs(grid, printable(request.request_id) or "(no id)", request, _known(request))
        if request.difference_nano is not None and request.estimate_nano is not None:
            percent = _percent(request.difference_nano, request.estimate_nano)
            grid.add_row("", "difference", exact(request.difference_nano), percent)
        if request.saved_nano:
            grid.add_row("", "saved", exact(request.saved_nano), "by caches; not money spent")
    if view.rest is not None:
        _add_costs(grid, _others(view.rest), view.rest, view.rest.state)
    return grid


def _add_costs(grid: Table, who: str, part: TracedRequest | Rest, known: str) -> None:
    """What it cost by phase and in all, how that is known, and its estimate if it has one."""
    name = Text(who, style="bold")
    for phase in part.phases:
        grid.add_row(name, printable(phase.phase), exact(phase.nano), printable(", ".join(phase.methods)))
        name = Text("")
    grid.add_row(name, Text("total", style="bold"), Text(exact(part.cost_nano), style="bold"), known)
    if part.estimate_nano is not None:
        grid.add_row("", "estimate", exact(part.estimate_nano), "at the unit prices of the moment")


def _others(rest: Rest) -> str:
    return "(1 more request)" if rest.requests == 1 else f"({rest.requests:,} more requests)"


def _known(request: TracedRequest) -> str:
    if request.state == "in progress":
        known = "work in progress: not all of its windows are settled"
        if request.settles_ns is None:
            return known
        latest = utc(request.settles_ns + 60 * SECOND - 1)
        return f"{known}; they are by {latest:%H:%M} UTC at the latest, while its engine reports"
    if request.state == "given up":
        return "the books of its engine stand still; farthing status says why"
    return "settled" if request.fit_error is None else f"settled; the fit predicts within {request.fit_error:.1%}"


def _notes(view: TraceView) -> Iterator[str]:
    if view.more:
        yield f"{view.more:,} more requests of this trace are not shown one by one; they are in its amounts."
    if any(request.arrived_ns is None for request in view.requests):
        yield "Where times are missing, the record was pruned."
    if view.trace_id:
        yield "Spans of the application and of the engine itself are where its traces are kept."


def trace_table(view: TraceView) -> ReportTable:
    """One row for each request that is shown, and one for the rest."""
    columns = (
        Column("trace_id", "Trace"),
        Column("request_id", "Request"),
        Column("engine", "Engine"),
        Column("tenant", "Tenant"),
        Column("project", "Project"),
        Column("outcome", "Outcome"),
        Column("state", "State"),
        *(Column(phase, phase.capitalize(), "money") for phase in c.PHASES),
        Column("cost", "Cost", "money"),
        Column("estimate", "Estimate", "money"),
        Column("difference", "Difference", "money"),
    )
    rows = []
    for one in view.requests:
        who = (one.trace_id, one.request_id, one.engine, one.tenant, one.project, one.outcome, one.state)
        rows.append((*map(printable, who), *_money(one), one.estimate_nano, one.difference_nano))
    if rest := view.rest:
        who = (printable(view.trace_id), _others(rest), "", "", "", "", rest.state)
        rows.append((*who, *_money(rest), rest.estimate_nano, None))
    return ReportTable(columns, tuple(rows), currency=printable(view.currency))


def _money(part: TracedRequest | Rest) -> tuple[int, ...]:
    """Nano-dollars of each phase, and of all."""
    costs = {phase.phase: phase.nano for phase in part.phases}
    return (*(costs.get(phase, 0) for phase in c.PHASES), part.cost_nano)


def _difference(nano: int, estimate: int) -> str:
    percent = _percent(nano, estimate)
    return f"{exact(nano)} ({percent})" if percent else exact(nano)


def _percent(nano: int, of: int) -> str:
    return f"{nano / of:+.1%}" if of else ""


def _took(ns: int) -> str:
    """Milliseconds below ten seconds, else seconds."""
    return f"{ns / MILLISECOND:,.1f} ms" if abs(ns) < 10_000 * MILLISECOND else f"{ns / MILLISECOND / 1_000:,.2f} s"


def _count(number: int | None) -> str:
    return UNKNOWN_CELL if number is None else f"{number:,}"
