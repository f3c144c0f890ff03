"""``farthing backup`` and ``farthing restore``, of the whole stack. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config

__all__ = ["backup", "restore"]

Volumes = Annotated[
    Path | None,
    typer.Option(
        "--volumes", help="Inside a container: the folder that every volume of the Compose stack is mounted in."
    ),
]
Native = Annotated[
    bool | None,
    typer.Option("--native/--compose", help="Which stack; default: the containers that `farthing up` started here."),
]


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Ends with .tar or .tar.gz; in a folder it is named by the time.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Also the plain tokens and passwords; keep such a file safe.")
    ] = False,
    config: Config = None,
    native: Native = None,
    volumes: Volumes = None,
) -> None:
    """Write ledger, Prometheus, Alertmanager, Grafana, settings and hashes of tokens into one file, while they run.

    Example: farthing backup farthing-2026-11-27.tar.gz
    """
    from farthing.cli.backup import run_backup

    raise typer.Exit(run_backup(file, config, force=force, with_secrets=with_secrets, native=native, volumes=volumes))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", dir_okay=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace what the stack has.")] = False,
    config: Config = None,
    native: Native = None,
    volumes: Volumes = None,
    owners: Annotated[
        str, typer.Option(help="With --volumes: whose files each part's are, as part=user:group,… in numbers.")
    ] = "",
) -> None:
    """Fill an empty stack that does not run with a backup, all or nothing; the file is checked to its end first.

    Example: farthing restore farthing-2026-11-27.tar.gz
    """
    from farthing.cli.backup import run_restore

    raise typer.Exit(run_restore(file, config, force=force, native=native, volumes=volumes, owners=owners))
