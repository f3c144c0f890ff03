"""Statements as people read them and programs load them: HTML, CSV, Parquet, and the canonical JSON.

Pure: a document in, bytes out. Equal documents give equal bytes, in any process and any time zone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from farthing.books.statement import Statement
from farthing.domain.errors import FarthingError
from farthing.exporters.statement.csv import statement_csv
from farthing.exporters.statement.html import statement_html
from farthing.exporters.statement.json import statement_json
from farthing.exporters.statement.parquet import statement_parquet

__all__ = ["FORMATS", "MEDIA_TYPES", "StatementFormat", "render_statement"]

StatementFormat: TypeAlias = Literal["html", "csv", "parquet", "json"]

_RENDERERS: Final[dict[str, Callable[[Statement], bytes]]] = {
    "html": statement_html,
    "csv": statement_csv,
    "parquet": statement_parquet,
    "json": statement_json,
}
FORMATS: Final = tuple(_RENDERERS)
MEDIA_TYPES: Final = MappingProxyType(
    {
        "html": "text/html; charset=utf-8",
        "csv": "text/csv; charset=utf-8",
        "parquet": "application/vnd.apache.parquet",
        "json": "application/json",
    }
)
"""What a server says that each format is."""


def render_statement(statement: Statement, format: StatementFormat | str) -> bytes:  # noqa: A002 - the option's name
    """The statement in one of FORMATS.

    ``html`` is one file for people, on screen and on A4. ``csv`` and ``parquet`` have a row a line with exact amounts.
    ``json`` is the canonical document, whose SHA-256 names it. Raises FarthingError for another format, for
    ``parquet`` without pyarrow, and for an integer that Parquet cannot hold.
    """
    renderer = _RENDERERS.get(format)
    if renderer is None:
        raise FarthingError(f"statement format {format!r} is not one of {', '.join(FORMATS)}")
    return renderer(statement)
