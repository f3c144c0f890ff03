"""What ``farthing tokens`` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from farthing.domain.access import Scope
from farthing.exporters.report import Column, ReportTable, render
from farthing.service.access_tokens import add_token, read_tokens

__all__ = ["print_new_token", "print_tokens"]


def print_new_token(path: Path, name: str, scopes: Sequence[Scope], tenants: Sequence[str]) -> None:
    """Add a token; on standard output it stands alone, for a pipe."""
    typer.echo(add_token(path, name, scopes, tenants, datetime.now(UTC)))
    typer.echo(f"token {name!r} is in {path}; it is shown this once", err=True)


def print_tokens(path: Path, output: str) -> None:
    """The tokens of a file, none of which could be used again."""
    tokens = list(read_tokens(path) or ())
    if output == "json":
        shown = [
            {
                "name": token.name,
                "scopes": list(token.scopes),
                "tenants": list(token.tenants),
                "created": token.created.isoformat(),
            }
            for token in tokens
        ]
        typer.echo(json.dumps(shown, indent=2))
        return
    columns = (
        Column("name", "Token"),
        Column("scopes", "Scopes"),
        Column("tenants", "Tenants"),
        Column("created", "Created, UTC"),
    )
    rows = tuple(
        (token.name, ", ".join(token.scopes), ", ".join(token.tenants), f"{token.created:%Y-%m-%d %H:%M}")
        for token in tokens
    )
    notes = () if tokens else (f"No tokens in {path}: nobody is asked for one.",) if not path.exists() else ()
    table = ReportTable(columns, rows, title="Tokens", notes=notes)
    typer.echo(render(table, "csv" if output == "csv" else "table", color=sys.stdout.isatty()).rstrip("\n"))
