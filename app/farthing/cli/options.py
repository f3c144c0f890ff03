"""Options that commands share; it imports nothing heavy, so that ``--help`` stays quick."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Config", "LedgerUrl", "Output", "OutputOption"]


class Output(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings; default $FARTHING_CONFIG, else ./farthing.yaml, else defaults."),
]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", help="Ledger URL instead of the settings'.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table, json or csv.")]
