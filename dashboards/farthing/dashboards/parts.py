"""What dashboards are put together from, in our own words: queries, bands, columns, panels, sections, variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Band", "Column", "Panel", "Query", "Section", "Variable"]


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the name of what it returns (``{{label}}`` stands for a label's value)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """From ``start`` (in the panel's unit) on, a value is worth care, or broken."""

    start: float
    meaning: Literal["careful", "broken"]


@dataclass(frozen=True, slots=True)
class Column:
    """A value column of a table: what it shows, in which unit."""

    title: str
    unit: str
    expr: str


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
