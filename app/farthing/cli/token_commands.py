"""The commands of tokens: add, list, remove. They import what they need when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli.options import Config, Output, OutputOption
from farthing.domain.access import Scope

__all__ = ["token_group"]

token_group = typer.Typer(
    name="tokens", help="Let programs and people in, each with a token of its own.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Of the token, as lists and errors call it.")]
TokensFile = Annotated[
    Path | None, typer.Option("--file", help="Tokens file instead of the settings'.", dir_okay=False)
]


@token_group.command("add")
def add(
    name: Name,
    scope: Annotated[list[Scope], typer.Option(help="What it opens; may be repeated.")],
    tenant: Annotated[
        list[str] | None, typer.Option(help="Whose rows read-tenant opens; may be repeated.", show_default=False)
    ] = None,
    config: Config = None,
    file: TokensFile = None,
) -> None:
    """Make a token and print it, once: only its hash is kept. A running service takes it at once.

    Scopes: ingest delivers records, read-tenant sees the rows of --tenant, read-all sees everything, admin may do all.

    Examples:
      farthing tokens add acme --scope read-tenant --tenant acme
      farthing tokens add gpu-node-7 --scope ingest
    """
    from farthing.cli.tokens import print_new_token
    from farthing.settings import load_settings

    print_new_token(file or load_settings(config).tokens_file, name, scope, tenant or [])


@token_group.command("list")
def show(config: Config = None, file: TokensFile = None, output: OutputOption = Output.table) -> None:
    """Print names, scopes, tenants and ages of tokens; the tokens themselves are not kept.

    Example: farthing tokens list --output json
    """
    from farthing.cli.tokens import print_tokens
    from farthing.settings import load_settings

    print_tokens(file or load_settings(config).tokens_file, output.value)


@token_group.command("remove")
def remove(name: Name, config: Config = None, file: TokensFile = None) -> None:
    """Let a token open nothing any more, at once; its sessions end with it.

    Example: farthing tokens remove gpu-node-7
    """
    from farthing.service.access_tokens import remove_token
    from farthing.settings import load_settings

    remove_token(file or load_settings(config).tokens_file, name)
