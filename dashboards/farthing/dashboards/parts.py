"""What dashboards are put together from, in our own words: queries, bands, columns, panels, sections, variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Annotation", "Band", "Column", "Link", "Panel", "Query", "Section", "Variable"]


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the name of what it returns (``{{label}}`` stands for a label's value)."""

    expr: str
    legend: str = ""
    exemplars: bool = False
    """Ask for the traces of single observations too; only of Farthing's own histograms, which keep them."""


@dataclass(frozen=True, slots=True)
class Band:
    """From ``start`` (in the panel's unit) on, a value is fine, worth care, or broken.

    Below the first band a value is fine, unless ``otherwise`` of the panel says that low is bad.
    """

    start: float
    meaning: Literal["fine", "careful", "broken"]


@dataclass(frozen=True, slots=True)
class Link:
    """Where to go from a panel or a cell; a URL may name variables (``$__url_time_range``) and a cell's fields."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Column:
    """A value column of a table: what it shows, in which unit."""

    title: str
    unit: str
    expr: str
    bands: tuple[Band, ...] = ()
    """Colour the cell's text."""
    decimals: int | None = None
    unknown: str | None = None
    """What stands in a cell without a value; None: the table's own word."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without its place; only the theme makes and reads ``document``."""

    title: str
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a dashboard: rows of panels, each row with its height and each panel with its width."""

    title: str
    rows: tuple[tuple[int, tuple[tuple[int, Panel], ...]], ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of the dashboard, filled by a query, with All as its default."""

    name: str
    label: str
    query: str
    chosen: str = ""
    """What is chosen instead of All when the dashboard opens."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Moments that are marked on every graph: the times at which a query has an answer."""

    name: str
    expr: str
    title: str
    text: str
    colour: str
    needs: frozenset[str] = frozenset()
    """Variables in ``expr``: a dashboard without one of them does not have the annotation."""
    shown: bool = True
    """Whether it is switched on when the dashboard opens."""
