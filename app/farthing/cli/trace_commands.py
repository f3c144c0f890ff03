"""The command of traces: trace. It imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config, LedgerUrl, Output, OutputOption

__all__ = ["trace"]


def trace(
    name: Annotated[
        str, typer.Argument(metavar="REQUEST|TRACE", help="Id of a request, or of a trace in hexadecimal.")
    ],
    config: Config = None,
    output: OutputOption = Output.table,
    ledger: LedgerUrl = None,
    url: Annotated[str | None, typer.Option(help="Ask the Farthing that is served there instead of a ledger.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="With --url: file with a token; default $FARTHING_TOKEN.")
    ] = None,
) -> None:
    """Show the requests of a trace: when each was queued, prefilled and decoded, and what it cost by phase.

    Beside the settled cost stands the estimate that its span has, and by how much they differ.

    Examples:
      farthing trace chatcmpl-7f3a
      farthing trace 4bf92f3577b34da6a3ce929d0e0e4736 --output json
      farthing trace chatcmpl-7f3a --url https://farthing.example --token-file token
    """
    from farthing.cli.trace import print_remote_trace, print_trace

    if url is not None:
        if ledger is not None or config is not None:
            raise typer.BadParameter("--url asks a service that has settings and a ledger of its own")
        print_remote_trace(url, token_file, name, output.value)
        return
    if token_file is not None:
        raise typer.BadParameter("--token-file goes with --url")
    from farthing.settings import load_settings

    print_trace(load_settings(config), name, output.value, ledger)
