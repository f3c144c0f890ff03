"""The commands of the ledger: backup, restore, verify, prune, erase-user. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config, LedgerUrl, Output, OutputOption

__all__ = ["ledger_group"]

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", dir_okay=False)]


ledger_group = typer.Typer(
    name="ledger", help="Look after the ledger: back up, restore, verify, prune, erase.", no_args_is_help=True
)


@ledger_group.command("backup")
def backup(
    file: File,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    config: Config = None,
    ledger: LedgerUrl = None,
) -> None:
    """Write the whole ledger, as it is at one moment, into one file, while the service goes on.

    It can be restored into SQLite and PostgreSQL, whichever it came from.

    Example: farthing ledger backup ledger-2026-11-26.zip
    """
    from farthing.cli.ledger import run_backup
    from farthing.settings import load_settings

    run_backup(load_settings(config), file, ledger, force=force)


@ledger_group.command("restore")
def restore(file: File, config: Config = None, ledger: LedgerUrl = None, output: OutputOption = Output.table) -> None:
    """Fill an empty ledger with a backup, all or nothing, and verify it. Exit status 1 when a check is red.

    The file is read to its end first; one that is not whole or was altered is refused.

    Example: farthing ledger restore ledger-2026-11-26.zip --ledger sqlite:///restored.db
    """
    from farthing.cli.ledger import run_restore
    from farthing.settings import load_settings

    raise typer.Exit(run_restore(load_settings(config), file, ledger, output.value))


@ledger_group.command("verify")
def verify(config: Config = None, ledger: LedgerUrl = None, output: OutputOption = Output.table) -> None:
    """Compare everything that the ledger tells twice; exit status 1 names the first row that disagrees.

    Example: farthing ledger verify --output json
    """
    from farthing.cli.ledger import run_verify
    from farthing.settings import load_settings

    raise typer.Exit(run_verify(load_settings(config), ledger, output.value))


@ledger_group.command("prune")
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    config: Config = None,
    ledger: LedgerUrl = None,
    output: OutputOption = Output.table,
) -> None:
    """Delete rows of closed periods that are older than the settings' retention; no figure changes.

    What they came to is sealed first, and the ledger verified before that.

    Example: farthing ledger prune --dry-run
    """
    from farthing.cli.ledger import run_prune
    from farthing.settings import load_settings

    run_prune(load_settings(config), ledger, output.value, dry_run=dry_run)


@ledger_group.command("erase-user")
def erase_user(
    user: Annotated[
        str,
        typer.Argument(metavar="USER", help="The user as records name it, or plain with the salt; -: standard input."),
    ],
    salt_file: Annotated[
        Path | None,
        typer.Option(
            help="The probe's salt, to find the pseudonym of a plain name; default $FARTHING_PROBE_SALT_FILE."
        ),
    ] = None,
    config: Config = None,
    ledger: LedgerUrl = None,
) -> None:
    """Remove a user from every record that names one; costs, statements and hashes stay as they are.

    Example: farthing ledger erase-user ada@example.com --salt-file probe.salt
    """
    from farthing.cli.ledger import run_erase
    from farthing.settings import load_settings

    run_erase(load_settings(config), user, salt_file, ledger)
