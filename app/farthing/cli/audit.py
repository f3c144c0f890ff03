"""What the commands of the audit trail do: verify, export, anchors and adopt."""

from __future__ import annotations

import sys
import time
from datetime import date
from pathlib import Path

import typer
from rich.progress import MofNCompleteColumn

from farthing.audit.chain import ANCHORS, DATE, HEAD
from farthing.audit.export import export, proof_of
from farthing.audit.proof import Checked, check_export
from farthing.audit.reading import read_anchors, read_bytes, read_head
from farthing.audit.verify import Kept, Verified, parse_kept, verify
from farthing.audit.writer import AuditWriter
from farthing.cli.progress import bars
from farthing.domain.errors import AuditError
from farthing.exporters.report import Cell, Column, Output, ReportTable, printable, render
from farthing.ledger.backup import open_existing
from farthing.service.audit_comparison import compare
from farthing.settings import Settings
from farthing.settings_audit import read_keys

__all__ = ["run_adopt", "run_anchors", "run_check_export", "run_export", "run_verify"]


def run_verify(
    settings: Settings,
    folder: Path | None,
    kept: Path | None,
    output: Output,
    *,
    since: str,
    until: str,
    with_ledger: bool = False,
) -> int:
    """Verify a trail, by the ledger too if asked to, and print all that is wrong; returns 0, or 1 when something is."""
    keys = read_keys(settings.audit.key_file)
    known, where = _kept(kept), _folder(settings, folder)
    with bars(MofNCompleteColumn()) as report:
        found = verify(where, keys=keys, kept=known, since=_date(since), until=_date(until), progress=report)
        if with_ledger:
            with open_existing(settings.ledger) as ledger:
                compared = compare(where, ledger, settings.costing.window_seconds, time.time_ns(), report)
            found.problems += compared.problems
            found.notes += compared.notes
    typer.echo(render(_table(found), output, color=sys.stdout.isatty()).rstrip("\n"))
    if found.problems:
        typer.echo(printable(f"farthing: audit trail does not verify: {found.problems[0]}"), err=True)
    return 1 if found.problems else 0


def run_anchors(settings: Settings, folder: Path | None) -> None:
    """Print what to keep elsewhere. Raises AuditError when it is not whole."""
    where = _folder(settings, folder)
    head, wrong = read_head(where, ())
    anchors = read_anchors(where, ())
    if head is None or wrong or anchors.wrong:
        raise AuditError(f"audit trail {where}: {HEAD} or {ANCHORS} is not whole; see farthing audit verify")
    typer.echo("".join(one.line.decode("ascii") for one in (*anchors.lines, head)), nl=False)


def run_adopt(settings: Settings, folder: Path | None) -> None:
    """Sign a trail that was written without a key. Raises AuditError where there is none, or it does not verify."""
    keys = read_keys(settings.audit.key_file)
    if not keys:
        raise AuditError("there is nothing to sign with: audit.key_file is not set; set it")
    where = _folder(settings, folder)
    with bars(MofNCompleteColumn()) as report:
        found = verify(where, progress=report)
    if found.problems:
        raise AuditError(f"audit trail {where}: is not signed, it does not verify: {found.problems[0]}")
    writer = AuditWriter(where, clock_ns=time.time_ns, keys=keys, adopt=True)
    try:
        last = writer.n
        writer.append(())
    finally:
        writer.close()
    typer.echo(f"{where}: is signed from now on; {last:,} records were written without a key")


def run_export(
    settings: Settings, folder: Path | None, file: Path, form: str, *, since: str, until: str, tenant: str | None
) -> None:
    """Export records with their proof, and say what is in them."""
    try:
        with bars(MofNCompleteColumn()) as report:
            done = export(
                _folder(settings, folder),
                file,
                form,
                since=_date(since),
                until=_date(until),
                tenant=tenant,
                progress=report,
            )
    except FileExistsError as error:
        raise AuditError(f"{error.filename}: is there already; give another name") from error
    except OSError as error:
        raise AuditError(f"{file}: cannot be written ({error.strerror})") from error
    typer.echo(f"{file}: {done.records:,} records of {done.days} days, proved by {proof_of(file)}", err=True)


def run_check_export(settings: Settings, file: Path, kept: Path | None) -> None:
    """Check an exported file with the proof beside it, and say what it holds and what that is proved by.

    Raises AuditError when it is not so, or nothing that was kept elsewhere is of any of its days.
    """
    done = check_export(file, read_keys(settings.audit.key_file), _kept(kept))
    if kept is not None and not done.held:
        raise AuditError(f"{kept}: says nothing of {file}, {_days(done)}; print it anew with `farthing audit anchors`")
    signed = f"signatures of {done.signed} days checked" if done.signed else "no signature checked"
    signed += f"; {done.unsigned} days are not signed (before adoption)" if done.unsigned else ""
    typer.echo(f"{file}: {done.records:,} records among {done.records + done.others:,}, {_days(done)}; {signed}")
    if kept is not None:
        loose = f"; {kept} says nothing of {len(done.loose)} others" if done.loose else ""
        typer.echo(f"{done.held} days compared with anchors that were kept elsewhere{loose}")
    elif done.signed:
        typer.echo("not compared with anchors that were kept elsewhere: give --anchors")
    else:
        typer.echo("the proof is only of itself: whoever made it could make another; give --anchors, or audit.key_file")


# ---- inside ------------------------------------------------------------------------------------------


def _kept(path: Path | None) -> Kept | None:
    """What was kept elsewhere, if it was given."""
    if path is None:
        return None
    data = read_bytes(path, given=True)
    if data is None:
        raise AuditError(f"{path}: there is no such file; print one with `farthing audit anchors`")
    return parse_kept(data, str(path))


def _days(done: Checked) -> str:
    return f"{done.days} days from {done.first} to {done.last}" if done.days else "of no day"


def _folder(settings: Settings, folder: Path | None) -> Path:
    chosen = folder or settings.audit.folder
    if chosen is None:
        raise AuditError("there is no audit trail: audit.dir is not set; set it, or give --dir")
    return chosen


def _date(text: str) -> str:
    try:
        if DATE.fullmatch(text):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        pass
    raise AuditError(f"{text!r} is no UTC date; write 2026-11-27, say")


def _table(found: Verified) -> ReportTable:
    columns = (Column("file", "File"), Column("line", "Line"), Column("record", "Record"), Column("problem", "Problem"))
    rows: list[tuple[Cell, ...]] = [
        (one.file, "" if one.line is None else str(one.line), "" if one.record is None else str(one.record), one.what)
        for one in found.problems
    ]
    checked = "hashes and signatures" if found.signed else "hashes"
    notes = [f"{found.records:,} records of {found.days} days read, {checked} checked, {len(rows)} problems."]
    if not found.days:
        notes.append("No record was read: the trail has none, or none of the days that --since and --until leave.")
    if found.removed:
        notes.append(f"Days up to {found.removed} were removed, as retention says; their anchors are there.")
    return ReportTable(columns, tuple(rows), notes=(*notes, *found.notes), title="Audit trail")
