"""``farthing check``: is everything configured and reachable, and what is degraded, and why."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import httpx
import typer

from farthing.cli.check_fleet import fleet_findings
from farthing.collectors.discovery.watch import look_once
from farthing.collectors.engines.scrape import probe_engine
from farthing.domain.errors import ConfigError, FarthingError
from farthing.exporters.report import Column, ReportTable, render
from farthing.ledger.repository import Ledger
from farthing.service.server import price_book
from farthing.settings import EngineSettings, Settings

__all__ = ["Finding", "run_check"]

TIMEOUT_SECONDS = 2.0
ASKED_ENGINES = 100
"""Of those that are discovered, one after another; one that is away takes seconds."""
SHOWN_ENGINES = 10
"""Names that one line quotes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``level`` is ok, degraded or failed."""

    subject: str
    level: str
    detail: str


def run_check(settings: Settings, output: str) -> int:
    """Print what was found; returns 0, or the exit status of the first failure."""
    findings: list[Finding] = [Finding("farthing", "ok", f"version {version('farthing')}")]
    exit_code = 0
    asked = len(settings.engines) + ASKED_ENGINES
    settings, discovered = _discover(settings)
    for subject, look in (
        ("ledger", _ledger),
        ("prices", _prices),
        ("service", _service),
        ("notifications", _notifications),
    ):
        try:
            findings.append(Finding(subject, *look(settings)))
        except FarthingError as error:
            findings.append(Finding(subject, "failed", str(error)))
            exit_code = exit_code or error.exit_code
    findings += discovered
    if settings.watches_nothing:
        findings.append(Finding("engines", "degraded", "none configured; farthing up replays a recorded H100"))
    for engine in settings.engines[:asked]:
        try:
            findings += _engine(engine)
        except FarthingError as error:
            findings.append(Finding(f"engine {engine.name}", "failed", str(error)))
            exit_code = exit_code or error.exit_code
    for entry in settings.fleet:
        try:
            findings += [Finding(f"fleet {entry.name}", *said) for said in fleet_findings(entry)]
        except FarthingError as error:
            findings.append(Finding(f"fleet {entry.name}", "failed", str(error)))
            exit_code = exit_code or error.exit_code
    if (more := len(settings.engines) - asked) > 0:
        findings.append(Finding("engines", "ok", f"{more} more are not asked here; farthing status shows all"))
    _print(findings, output)
    for finding in findings:
        if finding.level == "failed":
            typer.echo(f"farthing: {finding.subject}: {finding.detail}", err=True)
    return exit_code


def _discover(settings: Settings) -> tuple[Settings, list[Finding]]:
    """The settings with the engines that are discovered now, and what was found out about their sources."""
    if not settings.discovery.is_active:
        return settings, []
    engines, complaints = asyncio.run(look_once(settings.discovery, settings.engines))
    findings = [Finding("discovery", "degraded", complaint) for complaint in complaints]
    try:
        settings = settings.with_engines((*settings.engines, *engines))
    except ConfigError as error:
        return settings, [*findings, Finding("discovery", "degraded", str(error))]
    shown = ", ".join(engine.name for engine in engines[:SHOWN_ENGINES])
    more = f" and {len(engines) - SHOWN_ENGINES} more" if len(engines) > SHOWN_ENGINES else ""
    found = f"engines found: {len(engines)}" + (f" ({shown}{more})" if shown else "")
    return settings, [Finding("discovery", "ok" if engines else "degraded", found), *findings]


def _ledger(settings: Settings) -> tuple[str, str]:
    ledger = Ledger.open(settings.ledger)
    try:
        return "ok", f"{ledger.engine.url.render_as_string(hide_password=True)}, {len(ledger.boots())} boots"
    finally:
        ledger.close()


def _prices(settings: Settings) -> tuple[str, str]:
    book = price_book(settings)
    for engine in settings.engines:
        if engine.gpu or engine.capacity:
            book.tariff(engine.gpu, engine.gpu_count, engine=engine.name).nano_per_hour(time.time_ns())
    missing = [e.name for e in settings.engines if not e.gpu and not e.capacity and not e.probe]
    if missing:
        return "degraded", f"engines without a GPU to price: {', '.join(missing)}; set engines[].gpu"
    if not settings.prices and not settings.capacity:
        return "degraded", "list prices of a public cloud; enter your own under prices:"
    return "ok", f"entries of prices: {len(book.prices)}, of capacity: {len(settings.capacity)}"


def _service(settings: Settings) -> tuple[str, str]:
    url = f"http://{settings.serve.host}:{settings.serve.port}/readyz"
    try:
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return "degraded", f"farthing serve does not answer at {url} ({error}); start it with farthing serve"
    return ("ok", url) if answer.is_success else ("degraded", f"{url}: {answer.text.strip()}")


def _notifications(settings: Settings) -> tuple[str, str]:
    """Whether anybody is told of alerts, and could be: Alertmanager finds out about a missing secret too late."""
    notify = settings.notify
    if not notify.receivers and settings.alerts.webhook_url is None:
        return "degraded", "nobody is told of alerts; name receivers under notify:, or alerts.webhook_url"
    without = [str(path) for path in notify.secret_files if not _holds_something(path)]
    if without:
        return (
            "degraded",
            f"secrets that are empty or cannot be read here: {', '.join(without)}; Alertmanager needs them",
        )
    if notify.dead_mans_switch is None:
        return "degraded", "nobody notices when alerts stop; set notify.dead_mans_switch"
    return "ok", f"receivers: {', '.join(receiver.name for receiver in notify.receivers) or 'the webhook'}"


def _holds_something(path: Path) -> bool:
    try:
        return bool(path.expanduser().read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return False


def _engine(engine: EngineSettings) -> list[Finding]:
    name = f"engine {engine.name}"
    found = probe_engine(
        str(engine.url), metrics_path=engine.metrics_path, kind=engine.kind, probe_reports=engine.probe
    )
    known = f"{found.kind} {found.version or 'of unknown version'} serving {found.model or 'an unnamed model'}"
    findings = [Finding(name, "ok", known)]
    return findings + [Finding(name, "degraded", sentence) for sentence in found.degraded]


def _print(findings: list[Finding], output: str) -> None:
    if output == "json":
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    table = ReportTable(
        columns=(Column("subject", "Subject"), Column("level", "State"), Column("detail", "Detail")),
        rows=tuple((f.subject, f.level, f.detail) for f in findings),
        title="Farthing check",
    )
    shown = render(table, "csv" if output == "csv" else "table", color=sys.stdout.isatty())
    typer.echo(shown.rstrip("\n"))
