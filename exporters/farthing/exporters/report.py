"""Report rows as a table for people, and as JSON or CSV for programs. Pure: rows in, text out.

Money cells are integer nano-dollars and stay exact in JSON and CSV; only the table rounds, and says so.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal, TypeAlias

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from farthing.domain.money import NANO, from_nano
from farthing.domain.spreadsheets import uncomputed

__all__ = ["Cell", "Column", "Kind", "Output", "ReportTable", "as_text", "exact", "printable", "render"]

Kind: TypeAlias = Literal["text", "integer", "number", "ratio", "money"]
Output: TypeAlias = Literal["table", "json", "csv"]
Cell: TypeAlias = str | int | float | None

UNKNOWN_CELL = "—"
UNPRINTABLE = "\ufffd"
UNBOUNDED_WIDTH = 1_000
"""Columns of a table that is not on a terminal: as wide as its content, so that a pipe never cuts a number."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name for programs, its title for people, and what its cells are.

    ``money`` cells are integer nano-dollars, ``integer`` cells counts, ``number`` cells floats in the unit that the
    title names, ``ratio`` cells 0-1, shown as per cent. Any cell may be None: unknown, never 0.
    """

    key: str
    title: str
    kind: Kind = "text"
    spare: bool = False
    """Left out of the table for people while it holds nothing but zeros; json and csv always have it."""
    data: bool = False
    """In json and csv alone: the table for people has no room for it."""
    fine: bool = False
    """Money of very different sizes, as unit costs are: shown with six decimals, whatever the largest is."""


@dataclass(frozen=True)
class ReportTable:
    """Rows in the order they are shown, an optional line of totals, and notes that belong to the numbers.

    Raises ValueError when a row has not one cell per column, or a money or integer cell is not an integer.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] | None = None
    notes: tuple[str, ...] = ()
    title: str = ""
    currency: str = "USD"

    def __post_init__(self) -> None:
        for row in self._lines():
            if len(row) != len(self.columns):
                raise ValueError(f"row {row!r} has {len(row)} cells for {len(self.columns)} columns")
            for column, cell in zip(self.columns, row, strict=True):
                if column.kind in ("money", "integer") and isinstance(cell, float):
                    raise ValueError(f"column {column.key!r} holds {cell!r}; it counts in integers")

    def _lines(self) -> tuple[tuple[Cell, ...], ...]:
        return self.rows if self.total is None else (*self.rows, self.total)


def render(table: ReportTable, output: Output, *, color: bool = False, width: int | None = None) -> str:
    """The report as text, ending with a newline.

    ``table`` rounds money for display. ``json`` gives each amount as an integer of nano-dollars and as an exact
    decimal string. ``csv`` gives exact decimals and leaves out totals and notes, so that a sum over the file is
    right; text that a spreadsheet would run as a formula gets a leading apostrophe. ``color`` and ``width``
    (columns; None: as wide as the content) concern the table only.
    """
    if output == "json":
        return _json(table)
    if output == "csv":
        return _csv(table)
    if output == "table":
        return _table(table, color, width)
    raise ValueError(f"output {output!r} is not one of table, json, csv")


def _json(table: ReportTable) -> str:
    document = {
        "title": table.title,
        "currency": table.currency,
        "columns": [{"key": column.key, "title": column.title, "kind": column.kind} for column in table.columns],
        "rows": [_json_row(table, row) for row in table.rows],
        "total": None if table.total is None else _json_row(table, table.total),
        "notes": list(table.notes),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _json_row(table: ReportTable, row: Sequence[Cell]) -> dict[str, object]:
    code = table.currency.lower()
    cells: dict[str, object] = {}
    for column, cell in zip(table.columns, row, strict=True):
        if column.kind == "money" and isinstance(cell, int):
            cells[column.key] = {f"nano_{code}": cell, code: exact(cell)}
        else:
            cells[column.key] = cell
    return cells


def _csv(table: ReportTable) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    code = table.currency.lower()
    writer.writerow(f"{column.key}_{code}" if column.kind == "money" else column.key for column in table.columns)
    for row in table.rows:
        writer.writerow(_csv_cell(column, cell) for column, cell in zip(table.columns, row, strict=True))
    return buffer.getvalue()


def _csv_cell(column: Column, cell: Cell) -> Cell:
    if cell is None:
        return ""
    if column.kind == "money" and isinstance(cell, int):
        return exact(cell)
    if not isinstance(cell, str):
        return cell
    # Python's writer does not quote a lone carriage return, and readers take it for the end of the row
    return uncomputed(cell).replace("\r\n", "\n").replace("\r", "\n")


def _table(table: ReportTable, color: bool, width: int | None) -> str:
    table = _without_spare_columns(table)
    places = [_places(table, index) for index in range(len(table.columns))]
    grid = Table(box=box.SIMPLE, pad_edge=False, show_footer=table.total is not None, header_style="bold")
    footer = [""] * len(table.columns) if table.total is None else _shown(table, table.total, places)
    for column, last in zip(table.columns, footer, strict=True):
        grid.add_column(
            Text(column.title),
            footer=Text(last),
            footer_style="bold",
            justify="left" if column.kind == "text" else "right",
            # A name may fold; a number never breaks over two lines.
            overflow="fold",
            no_wrap=column.kind != "text",
        )
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in _shown(table, row, places)))
    title = [Text(printable(table.title), style="bold")] if table.title else []
    notes = (Text(printable(note), style="dim") for note in (*table.notes, *_rounding_notes(table)))
    return as_text((*title, grid, *notes), color=color, width=width or UNBOUNDED_WIDTH)


def as_text(parts: Iterable[RenderableType], *, color: bool, width: int) -> str:
    """Tables and lines one below the other, ``width`` columns wide at the most, without blanks at the ends of lines."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _without_spare_columns(table: ReportTable) -> ReportTable:
    keep = [
        i
        for i, column in enumerate(table.columns)
        if not column.data and (not column.spare or any(line[i] for line in table._lines()))
    ]

    def kept(line: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(line[i] for i in keep)

    return replace(
        table,
        columns=tuple(table.columns[i] for i in keep),
        rows=tuple(kept(row) for row in table.rows),
        total=None if table.total is None else kept(table.total),
    )


def _rounding_notes(table: ReportTable) -> list[str]:
    if not any(column.kind == "money" for column in table.columns):
        return []
    note = f"Amounts are in {table.currency}, rounded to the last digit shown"
    if table.total is not None:
        note += "; the total is rounded once, from the exact sum"
    return [f"{note}. The json and csv outputs are exact to 0.000000001."]


def _places(table: ReportTable, index: int) -> int:
    """Decimals that a money column shows: cents, and more where cents would hide most of the largest amount."""
    if table.columns[index].fine:
        return 6
    amounts = [abs(cell) for row in table._lines() if isinstance(cell := row[index], int)]
    largest = max(amounts, default=0)
    if largest >= 10 * NANO or largest == 0:
        return 2
    return 4 if largest >= NANO // 10 else 6


def _shown(table: ReportTable, row: Sequence[Cell], places: Sequence[int]) -> list[str]:
    return [_shown_cell(column.kind, cell, last) for column, cell, last in zip(table.columns, row, places, strict=True)]


def _shown_cell(kind: Kind, cell: Cell, places: int) -> str:
    if cell is None:
        return UNKNOWN_CELL
    if isinstance(cell, str):
        return printable(cell)
    if kind == "money" and isinstance(cell, int):
        return _rounded(cell, places)
    if kind == "ratio":
        return f"{cell:.1%}"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.2f}"


def _rounded(nano: int, places: int) -> str:
    """An amount with thousands separators; one that is not 0 but rounds to it says so instead of showing 0."""
    unit = Decimal(1).scaleb(-places)
    rounded = from_nano(nano).quantize(unit, rounding=ROUND_HALF_EVEN)
    if rounded == 0 and nano != 0:
        return f"<{unit}" if nano > 0 else f">-{unit}"
    return f"{rounded:,}"


def exact(nano: int) -> str:
    """All nine decimals, never an exponent."""
    return f"{from_nano(nano):.9f}"


def printable(text: str) -> str:
    """Text without control characters: a tenant's name must not move a terminal's cursor or colour it."""
    return "".join(character if character.isprintable() else UNPRINTABLE for character in text)
