"""``farthing replay``: a recording live or offline."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import typer

from farthing.domain.conventions import PHASES
from farthing.domain.money import from_nano
from farthing.exporters.report import Column, ReportTable, render
from farthing.ledger.repository import Ledger
from farthing.replay.live import ReplayOptions, run_replay
from farthing.replay.offline import cost_recording, to_json
from farthing.replay.recording import load_recording
from farthing.service.server import price_book
from farthing.settings import TOKEN_VARIABLE, Settings, read_secret
from farthing.stack.parts import serve_url

__all__ = ["replay_live", "replay_offline"]


def replay_offline(source: str, settings: Settings, ledger_url: str | None, output: str) -> int:
    """Cost a recording and print it; returns 1 when a check is red, else 0."""
    run = cost_recording(load_recording(source), settings, price_book(settings))
    if ledger_url is not None:
        ledger = Ledger.open(ledger_url)
        try:
            run.write(ledger)
        finally:
            ledger.close()
    result = to_json(run)
    if output == "json":
        typer.echo(json.dumps(result, indent=2))
    elif output == "csv":
        typer.echo(_csv(result), nl=False)
    else:
        typer.echo(render(_table(result, settings.currency), "table", color=sys.stdout.isatty()))
    red = [check for check in run.checks if not check.ok]
    for check in red:
        typer.echo(f"farthing: check {check.name} is red: {check.detail}", err=True)
    return 1 if red else 0


def replay_live(
    source: str,
    settings: Settings,
    *,
    speed: float,
    lead: float,
    loop: bool,
    host: str,
    port: int | None,
    to: str | None,
    engine: str | None,
) -> None:
    """Play a recording until it ends, or for ever with ``loop``."""
    recording = load_recording(source)
    run_replay(
        recording,
        ReplayOptions(
            engine=engine or Path(recording.name).name,
            intake_url=to or serve_url(settings),
            token=read_secret(TOKEN_VARIABLE, settings.serve.token_file),
            certificate=settings.serve.tls_certificate if to in {None, serve_url(settings)} else None,
            host=host,
            port=port or settings.stack.replay_port,
            speed=speed,
            lead_seconds=lead,
            loop=loop,
        ),
    )


def _lines(result: dict[str, Any]) -> list[tuple[str, str, int]]:
    """The identity's lines: account, phase or reason, nano-dollars."""
    lines = [("charged", phase, result["charged_nano_usd"][phase]) for phase in PHASES]
    lines += [("aborted", phase, result["aborted_nano_usd"][phase]) for phase in PHASES]
    lines += [(name, "", result[f"{name}_nano_usd"]) for name in ("starting", "idle", "asleep", "down")]
    lines += [("unattributed", reason, nano) for reason, nano in result["unattributed_nano_usd"].items()]
    lines += [("work in progress", phase, nano) for phase, nano in result["wip_nano_usd"].items()]
    return lines


def _table(result: dict[str, Any], currency: str) -> ReportTable:
    bill = result["bill_nano_usd"]
    fit = result["fit"]
    wape = fit["walk_forward_wape"] if fit else None
    unit = ", ".join(f"{phase} ${usd:.4f}" for phase, usd in result["usd_per_million"].items() if usd is not None)
    requests = ", ".join(f"{count} {outcome}" for outcome, count in result["requests"].items())
    tenants = ", ".join(
        f"{name} ${from_nano(tenant['cost_nano_usd']):.4f}" for name, tenant in result["tenants"].items()
    )
    error = "unknown" if wape is None else f"{wape:.1%}"
    return ReportTable(
        title=f"{result['engine']}, {result['window'][0]} to {result['window'][1]}",
        columns=(
            Column("account", "Account"),
            Column("part", "Phase or reason"),
            Column("cost", "Cost", "money"),
            Column("share", "Share", "ratio"),
        ),
        rows=tuple((account, part, nano, nano / bill if bill else None) for account, part, nano in _lines(result)),
        total=("Bill", f"residual {result['residual_nano_usd']}", bill, 1.0),
        notes=(
            f"Busy {result['busy_seconds']:.1f} s is metered; phases are {fit['method'] if fit else 'unknown'}, "
            f"walk-forward error {error}.",
            f"Per million tokens: {unit}.",
            f"Requests: {requests}. Energy: {result['energy_joules']} J.",
            f"Tenants: {tenants}.",
            *(f"{'ok ' if check['ok'] else 'RED'} {check['name']}: {check['detail']}" for check in result["checks"]),
        ),
        currency=currency,
    )


def _csv(result: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("engine", "account", "part", "nano_usd"))
    writer.writerows((result["engine"], *line) for line in _lines(result))
    writer.writerow((result["engine"], "bill", "", result["bill_nano_usd"]))
    return text.getvalue()
