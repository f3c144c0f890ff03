"""``farthing status``: the stack's parts and every engine's books, from the running service or else the ledger."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import httpx
import typer

from farthing.domain.conventions import DECODE
from farthing.exporters.report import Cell, Column, ReportTable, render
from farthing.exporters.web.payload import snapshot_payload
from farthing.ledger.repository import Ledger
from farthing.service.accountant import Accountant
from farthing.service.asking import ASKING_VARIABLE, asking_headers, trusted_tls
from farthing.service.known_engines import with_discovered
from farthing.service.server import price_book
from farthing.settings import Settings
from farthing.stack.lifecycle import stack_status
from farthing.stack.parts import serve_url

__all__ = ["run_status"]

TIMEOUT_SECONDS = 5.0

Payload = dict[str, Any]


def run_status(settings: Settings, output: str) -> int:
    """Print the status; returns 0, or 1 when the books of an engine do not balance or a check is red."""
    source, payload, note = _payload(settings)
    stack = stack_status(settings)
    if output == "json":
        parts = [{"name": part.name, "state": part.state, "pid": part.pid, "page": part.page} for part in stack.parts]
        typer.echo(json.dumps({"source": source, "stack": parts, **payload}, indent=2))
    else:
        kind = "csv" if output == "csv" else "table"
        if stack.parts and kind == "table":
            rows = tuple((p.name, p.state.lower(), p.pid, p.uptime_seconds, p.page) for p in stack.parts)
            columns = (
                Column("part", "Part"),
                Column("state", "State"),
                Column("pid", "Process", "integer"),
                Column("uptime", "Up, s", "integer"),
                Column("page", "Page"),
            )
            typer.echo(render(ReportTable(columns, rows, title="Stack"), "table", color=sys.stdout.isatty()))
        table = _engines(payload, note)
        typer.echo(render(table, "csv" if kind == "csv" else "table", color=sys.stdout.isatty()).rstrip("\n"))
    red = any(engine["residual_nano"] or _red(engine) for engine in payload["engines"])
    return 1 if red else 0


def _payload(settings: Settings) -> tuple[str, Payload, str]:
    """Where the picture came from, and the picture: live from ``farthing serve``, else settled from the ledger. The
    last is what people are told of it.
    """
    url = f"{serve_url(settings)}/api/v1/snapshot"
    live, why = _live(url, settings)
    if live is not None:
        return url, live, f"Live from {url}."
    ledger = Ledger.open(settings.ledger)
    try:
        known = with_discovered(settings, ledger)
        accountant = Accountant(
            ledger, known, price_book(known), clock_ns=time.time_ns, watched=lambda: settings.engines
        )
        note = f"farthing serve {why}: settled books from the ledger."
        return "ledger", snapshot_payload(accountant.settled_snapshot()), note
    finally:
        ledger.close()


def _live(url: str, settings: Settings) -> tuple[Payload | None, str]:
    """What the service answers, else why it does not."""
    wants = f"wants a token with the scope read-all ({ASKING_VARIABLE})"
    tls = trusted_tls(settings.serve.tls_certificate)
    try:
        answer = httpx.get(url, headers=asking_headers(settings), timeout=TIMEOUT_SECONDS, trust_env=False, verify=tls)
        if answer.status_code in {401, 403}:
            return None, wants
        answer.raise_for_status()
        payload: Payload = answer.json()
    except (httpx.HTTPError, ValueError):
        return None, "does not answer"
    # a tenant's token shows no engines
    return (payload, "") if "engines" in payload else (None, wants)


def _red(engine: Payload) -> list[str]:
    return [check["name"] for check in engine["checks"] if not check["ok"]]


def _engines(payload: Payload, note: str) -> ReportTable:
    columns = (
        Column("engine", "Engine"),
        Column("state", "State"),
        Column("model", "Model"),
        Column("bill", "Bill", "money"),
        Column("now", "M output, now", "money"),
        Column("full", "M output, full", "money"),
        Column("residual", "Residual", "money"),
        Column("lag", "Lag, s", "number"),
        Column("checks", "Red checks"),
    )
    rows: list[tuple[Cell, ...]] = []
    for engine in payload["engines"]:
        lag = engine["watermark_lag_seconds"]
        rows.append(
            (
                engine["name"],
                engine["state"],
                engine["model"],
                engine["bill_nano"],
                engine["recent_unit_cost_nano_per_million"].get(DECODE),
                engine["saturated_unit_cost_nano_per_million"].get(DECODE),
                engine["residual_nano"],
                lag,
                ", ".join(_red(engine)) or "none",
            )
        )
    return ReportTable(columns, tuple(rows), title="Engines", notes=(note,), currency=payload["currency"])
