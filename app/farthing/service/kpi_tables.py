"""Key figures of a period as tables: unit costs, parts of the bill, and why it changed."""

from __future__ import annotations

from farthing.books.kpis import Measures, shares, unit_costs
from farthing.books.variance import Variance
from farthing.domain import conventions as c
from farthing.exporters.report import Cell, Column, ReportTable

__all__ = ["share_table", "unit_table", "variance_table"]


def unit_table(measures: Measures, period: str, currency: str) -> ReportTable:
    """What one request, document, image or million tokens cost: the work itself, and with the whole bill."""
    rows: list[tuple[Cell, ...]] = [
        (unit.title, unit.units, unit.direct_nano, unit.loaded_nano, unit.formula) for unit in unit_costs(measures)
    ]
    return ReportTable(
        columns=(
            Column("unit", "Unit"),
            Column("units", "Units", "integer"),
            Column("direct", "Direct cost of one", "money", fine=True),
            Column("loaded", "With the whole bill", "money", fine=True),
            Column("formula", "Computed from"),
        ),
        rows=tuple(rows),
        notes=_notes(measures),
        title=f"Unit costs, {period}",
        currency=currency,
    )


def share_table(measures: Measures, period: str, currency: str) -> ReportTable:
    """Where the bill went."""
    rows: list[tuple[Cell, ...]] = [(share.title, share.nano, share.value, share.formula) for share in shares(measures)]
    nothing = bool(measures.unpriced) and not measures.bill_nano
    return ReportTable(
        columns=(
            Column("part", "Part"),
            Column("cost", "Cost", "money"),
            Column("share", "Share", "ratio"),
            Column("formula", "Computed from"),
        ),
        rows=(("Bill", c.UNPRICED if nothing else measures.bill_nano, None, "every account together"), *rows),
        notes=("What caches saved is no part of the bill; parts of accounts do not add up to it alone.",),
        title=f"Parts of the bill, {period}",
        currency=currency,
    )


def variance_table(found: Variance, old: str, new: str, currency: str) -> ReportTable:
    """Every cost that changed between two periods: by usage, by rate, or without a unit to tell by."""
    rows: list[tuple[Cell, ...]] = [
        (
            " ".join(part.replace("_", " ") for part in line.key if part) or c.UNKNOWN,
            line.old[0],
            line.new[0],
            line.old[1],
            line.new[1],
            line.usage_nano,
            line.rate_nano,
            line.other_nano,
            line.rounding_nano,
            line.change_nano,
        )
        for line in found.lines
    ]
    before, after = (sum(pair[1] for pair in pairs) for pairs in _pairs(found))
    parts = (found.usage_nano, found.rate_nano, found.other_nano, found.rounding_nano, found.change_nano)
    return ReportTable(
        columns=(
            Column("cost_of", "Cost of"),
            Column("old_units", "Units before", "integer"),
            Column("new_units", "Units now", "integer"),
            Column("old", "Before", "money"),
            Column("new", "Now", "money"),
            Column("usage", "By usage", "money"),
            Column("rate", "By rate", "money"),
            Column("other", "Without a unit", "money", spare=True),
            Column("rounding", "Rounding", "money", spare=True),
            Column("change", "Change", "money"),
        ),
        rows=tuple(rows),
        total=("Bill", None, None, before, after, *parts),
        notes=(
            "By usage: change of units x old rate. By rate: units now x change of the rate. Units are tokens of the "
            "phase's kind; a cost that one of the periods does not have changed by usage.",
        ),
        title=f"Why the bill changed: {new} against {old}",
        currency=currency,
    )


def _pairs(found: Variance) -> tuple[list[tuple[int | None, int]], list[tuple[int | None, int]]]:
    return [line.old for line in found.lines], [line.new for line in found.lines]


def _notes(measures: Measures) -> tuple[str, ...]:
    notes = ["Direct is charged and aborted work; with the whole bill, idle and lost time is in it too."]
    if measures.documents is None:
        notes.append("Documents and requests with images are counted request by request: add --documents.")
    if measures.uncounted:
        notes.append(f"{measures.uncounted:,} requests told no tokens; they count as requests only.")
    if measures.unpriced:
        notes.append(
            f"{c.UNPRICED}: {', '.join(measures.unpriced)}; neither their cost nor their requests are in here."
        )
    return tuple(notes)
