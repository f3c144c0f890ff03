"""What the commands of the ledger do: backup, restore, verify, prune and erase-user."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import typer
from rich.progress import MofNCompleteColumn

from farthing.cli.progress import bars
from farthing.domain.model import Check
from farthing.exporters.report import Cell, Column, Output, ReportTable, render
from farthing.ledger.backup import back_up, open_existing, restore
from farthing.ledger.erase import erase_user
from farthing.ledger.prune import Retention, prune
from farthing.ledger.verify import verify
from farthing.settings import Settings, read_secret
from farthing_probe.attribution import pseudonym

__all__ = ["run_backup", "run_erase", "run_prune", "run_restore", "run_verify"]

SALT_VARIABLE = "FARTHING_PROBE_SALT"
SALT_FILE_VARIABLE = "FARTHING_PROBE_SALT_FILE"


def run_backup(settings: Settings, file: Path, ledger_url: str | None, *, force: bool) -> None:
    """Back the ledger up, and say what is in the file."""
    with bars(MofNCompleteColumn()) as report:
        made = back_up(ledger_url or settings.ledger, file, made_ns=time.time_ns(), force=force, progress=report)
    size = file.stat().st_size
    typer.echo(f"{file}: {made.rows:,} rows of {len(made.tables)} tables, {size:,} bytes, schema {made.revision}")


def run_restore(settings: Settings, file: Path, ledger_url: str | None, output: Output) -> int:
    """Restore a backup and verify the ledger; returns the exit status."""
    url = ledger_url or settings.ledger
    with bars(MofNCompleteColumn()) as report:
        manifest = restore(url, file, progress=report)
    typer.echo(f"{file}: {manifest.rows:,} rows of {len(manifest.tables)} tables restored", err=True)
    return run_verify(settings, url, output)


def run_verify(settings: Settings, ledger_url: str | None, output: Output) -> int:
    """Print every check; returns 0, or 1 when one is red."""
    with open_existing(ledger_url or settings.ledger) as ledger, bars(MofNCompleteColumn()) as report:
        checks = verify(ledger.engine, lambda _name, done, total: report("checks", done, total))
    typer.echo(_rendered(_check_table(checks), output))
    red = next((check for check in checks if not check.ok), None)
    if red is not None:
        typer.echo(f"farthing: ledger does not verify: {red.name}: {red.detail}", err=True)
    return 0 if red is None else 1


def run_prune(settings: Settings, ledger_url: str | None, output: Output, *, dry_run: bool) -> None:
    """Prune, and print what went or would go."""
    kept = settings.retention
    retention = Retention(kept.records_days, kept.requests_days, kept.windows_days, kept.journal_days)
    with open_existing(ledger_url or settings.ledger) as ledger, bars(MofNCompleteColumn()) as report:
        pruned = prune(ledger.engine, retention, now_ns=time.time_ns(), dry_run=dry_run, progress=report)
    rows: list[tuple[Cell, ...]] = [(part.table, part.period, part.rows, part.bytes) for part in pruned.parts]
    columns = (
        Column("table", "Table"),
        Column("period", "Period"),
        Column("rows", "Rows", "integer"),
        Column("bytes", "Bytes, about", "integer"),
    )
    total = ("Total", "", sum(part.rows for part in pruned.parts), sum(part.bytes for part in pruned.parts))
    notes = (pruned.note,) if pruned.note else ("Sums, closings and statements stay as they are.",)
    title = "Would be pruned" if dry_run else "Pruned"
    table = ReportTable(columns, tuple(rows), total, notes, title=title, currency=settings.currency)
    typer.echo(_rendered(table, output))


def run_erase(settings: Settings, user: str, salt_file: Path | None, ledger_url: str | None) -> None:
    """Erase a user, and say how many records named it."""
    name = sys.stdin.readline().rstrip("\r\n") if user == "-" else user
    given = os.environ.get(SALT_FILE_VARIABLE)
    salt = read_secret(SALT_VARIABLE, salt_file or (Path(given) if given else None))
    names = [name, pseudonym(name.encode(), salt.encode())] if salt and name else [name]
    with open_existing(ledger_url or settings.ledger) as ledger:
        erased = erase_user(ledger.engine, names, now_ns=time.time_ns())
    typer.echo(f"records that named the user, and do not any more: {erased.records:,}")
    for column, rows in erased.elsewhere.items():
        typer.echo(f"{rows:,} requests have that name in their {column}, which is not a user's; it stays", err=True)
    if not salt:
        typer.echo("without the probe's salt only the name itself was looked for; see --salt-file", err=True)


# ---- inside ------------------------------------------------------------------------------------------


def _check_table(checks: tuple[Check, ...]) -> ReportTable:
    columns = (Column("check", "Check"), Column("ok", "OK"), Column("detail", "Detail"))
    rows = tuple((check.name, "yes" if check.ok else "NO", check.detail) for check in checks)
    return ReportTable(columns, rows, title="Ledger")


def _rendered(table: ReportTable, output: Output) -> str:
    return render(table, output, color=sys.stdout.isatty()).rstrip("\n")
