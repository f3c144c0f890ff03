"""``farthing secrets``: what a stack in containers needs before its first start. Imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config

__all__ = ["secret_group"]

secret_group = typer.Typer(
    name="secrets", help="Make the secrets of a stack in containers, and show once how to log in.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Option(help="Holds one folder per reader.", file_okay=False)]


@secret_group.command("init")
def init(folder: Folder) -> None:
    """Make what is missing: tokens, passwords, and what Prometheus and Alertmanager demand. Run it before every start.

    Example: farthing secrets init --folder /run/farthing/secrets
    """
    from datetime import UTC, datetime

    from farthing.stack.secret_files import init_secrets

    init_secrets(folder, datetime.now(UTC))


@secret_group.command("reveal")
def reveal(
    config: Config = None,
    folder: Annotated[
        Path | None, typer.Option(help="Of a stack in containers; default: the native stack's.", file_okay=False)
    ] = None,
    url: Annotated[str | None, typer.Option(help="Where a browser reaches Farthing; default: on this host.")] = None,
) -> None:
    """Show the login link and Grafana's password, once: the plain token is removed then.

    Examples:
      farthing secrets reveal
      farthing secrets reveal --folder /run/farthing/secrets
    """
    from farthing.cli.secrets import show_secrets
    from farthing.settings import load_settings

    show_secrets(load_settings(config), folder, url)
