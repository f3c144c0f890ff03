"""The commands of the audit trail, which import what they need when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config, Output, OutputOption

__all__ = ["audit_group"]

Folder = Annotated[Path | None, typer.Option("--dir", help="The trail's folder instead of audit.dir.")]


class Form(StrEnum):
    """What is exported."""

    csv = "csv"
    jsonl = "jsonl"


audit_group = typer.Typer(
    name="audit", help="Verify and export the audit trail: who called which model, at what cost.", no_args_is_help=True
)


@audit_group.command("verify")
def verify(
    folder: Folder = None,
    anchors: Annotated[
        Path | None, typer.Option(help="What `farthing audit anchors` printed once, kept elsewhere: compare with it.")
    ] = None,
    since: Annotated[str, typer.Option(help="First UTC day whose records are read.")] = "0001-01-01",
    until: Annotated[str, typer.Option(help="Last UTC day whose records are read.")] = "9999-12-31",
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Compare its requests with those of the settings' ledger, too.")
    ] = False,
    config: Config = None,
    output: OutputOption = Output.table,
) -> None:
    """Read the trail and name the place of whatever was changed, removed, put in or cut off; exit status 1 then.

    It may run while the trail is written. With audit.key_file signatures are checked.

    Example: farthing audit verify --anchors kept-2026-11-26.txt
    """
    from farthing.cli.audit import run_verify
    from farthing.settings import load_settings

    settings = load_settings(config)
    days = {"since": since, "until": until}
    raise typer.Exit(run_verify(settings, folder, anchors, output.value, **days, with_ledger=ledger))


@audit_group.command("anchors")
def anchors(folder: Folder = None, config: Config = None) -> None:
    """Print what to keep where nobody who can write the trail can write: one line a day, and the last record.

    Example: farthing audit anchors --dir /var/lib/farthing/audit
    """
    from farthing.cli.audit import run_anchors
    from farthing.settings import load_settings

    run_anchors(load_settings(config), folder)


@audit_group.command("adopt")
def adopt(folder: Folder = None, config: Config = None) -> None:
    """Sign a trail that was written before there was audit.key_file, once; without that, nothing is written after it.

    It has to verify. A record says from where on it is signed. If it was signed before, somebody put another in its
    place: do not adopt that.

    Example: farthing audit adopt
    """
    from farthing.cli.audit import run_adopt
    from farthing.settings import load_settings

    run_adopt(load_settings(config), folder)


@audit_group.command("export")
def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What is made; its proof is FILE.proof.", dir_okay=False)
    ],
    since: Annotated[str, typer.Option("--from", help="First UTC day of recording.")],
    until: Annotated[str, typer.Option("--to", help="Last UTC day of recording.")],
    tenant: Annotated[str | None, typer.Option(help="Only requests of this tenant.")] = None,
    form: Annotated[Form | None, typer.Option("--format", help="csv or jsonl; default: as FILE ends.")] = None,
    folder: Folder = None,
    config: Config = None,
) -> None:
    """Write records into a file, and what proves that they are the trail's, without showing the others.

    Example: farthing audit export acme.csv --from 2026-11-01 --to 2026-11-30 --tenant acme
    """
    from farthing.cli.audit import run_export
    from farthing.settings import load_settings

    chosen = form.value if form else file.suffix.removeprefix(".")
    if chosen not in {one.value for one in Form} or file.suffix != f".{chosen}":
        raise typer.BadParameter(f"{file} has to end with .csv or .jsonl, as its --format is")
    run_export(load_settings(config), folder, file, chosen, since=since, until=until, tenant=tenant)


@audit_group.command("check-export")
def check_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What was exported, with FILE.proof beside it.")],
    anchors: Annotated[
        Path | None, typer.Option(help="What `farthing audit anchors` printed, kept elsewhere: the proof has to fit.")
    ] = None,
    config: Config = None,
) -> None:
    """Check an exported file with its proof: every record, their order, and the anchors that they lead to.

    Whose trail those anchors are of is shown by audit.key_file, or by anchors that were kept elsewhere.

    Example: farthing audit check-export acme.csv --anchors kept-2026-11-30.txt
    """
    from farthing.cli.audit import run_check_export
    from farthing.settings import load_settings

    run_check_export(load_settings(config), file, anchors)
