"""What ``farthing secrets reveal`` prints."""

from __future__ import annotations

from pathlib import Path

import typer

from farthing.settings import Settings, load_settings
from farthing.stack.layout import StateLayout
from farthing.stack.parts import LOOPBACK, serve_url
from farthing.stack.secret_files import FIRST_TOKEN, First, login_link, reveal_first, reveal_secrets

__all__ = ["show_secrets"]


def show_secrets(settings: Settings, folder: Path | None, url: str | None) -> None:
    """Print the login link and Grafana's password, or that they were shown before.

    ``folder`` None: those of the native stack of these settings, at the ports that it was started with.
    """
    layout = StateLayout.of(settings.stack.state_dir)
    if folder is None and layout.settings.exists():
        settings = load_settings(layout.settings)
    if folder is not None:
        # inside the container it listens on every address, and is published on this host's loopback
        settings = settings.model_copy(update={"serve": settings.serve.model_copy(update={"host": LOOPBACK})})
    base = url or serve_url(settings)

    def show(first: First) -> None:
        typer.echo(f"log in      {login_link(base, first.token)}")
        if first.grafana_password:
            typer.echo(f"Grafana     user admin, password {first.grafana_password}")

    if folder is None:
        shown = reveal_first(settings.tokens_file.parent / FIRST_TOKEN, layout.grafana_password, show)
    else:
        shown = reveal_secrets(folder, show)
    if not shown:
        typer.echo("shown before; make another token: farthing tokens add NAME --scope admin", err=True)
