"""A statement arranged for reading: sections, projects within them, subtotals, summaries. Figures are text already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from farthing.books.statement import ADJUSTMENT, SECTIONS, Statement, StatementLine
from farthing.exporters.statement import wording
from farthing.exporters.statement.figures import amount_places, count, money, per_units, percent, price_places
from farthing.exporters.statement.rows import UNPRICED

__all__ = [
    "Group",
    "Row",
    "Section",
    "Share",
    "Subtotal",
    "by_cost_type",
    "by_model",
    "coding",
    "line_places",
    "sections",
    "shares",
    "sides",
    "summary",
]

MOST_SHARES: Final = 8
"""Rows of a share plot; the rest are summed in one more."""
UNKNOWN: Final = "—"
IDENTITY_LEFT: Final = 3
"""Opening work in progress + bill - closing work in progress."""
NOT_ASSIGNED: Final = "not assigned"
NO_MODEL: Final = "No model (shared and other costs)"


@dataclass(frozen=True, slots=True)
class Row:
    """One line, as text."""

    line: int
    description: str
    details: tuple[str, ...]
    service_period: str
    quantity: str
    unit: str
    unit_price: str
    per: str
    amount: str
    priced: bool


@dataclass(frozen=True, slots=True)
class Subtotal:
    """The sum of the priced lines, and how many lines are not in it; ``amount`` says so where no line is priced."""

    amount: str
    unpriced: int


@dataclass(frozen=True, slots=True)
class Group:
    """The lines of one project in a section."""

    title: str
    cost_centres: str
    rows: tuple[Row, ...]
    subtotal: Subtotal


@dataclass(frozen=True, slots=True)
class Section:
    """One section; ``grouped`` is false where no line has a project."""

    key: str
    title: str
    introduction: str
    grouped: bool
    adjusts: bool
    """Its lines belong to other periods, so the table has a column for them."""
    counted: bool
    """Some line has a quantity or a unit price; otherwise the table has no columns for them."""
    groups: tuple[Group, ...]
    subtotal: Subtotal


@dataclass(frozen=True, slots=True)
class Share:
    """A row of a summary: what it is, its amount as text and in nano-units, and its share of the total.

    ``share`` is empty in every row of a summary that has negative amounts.
    """

    title: str
    amount: str
    nano: int
    share: str
    unpriced: int = 0


def sections(statement: Statement) -> tuple[Section, ...]:
    """The sections that have lines, in the books' order; unknown ones after them, so that no line is left out."""
    places = line_places(statement)
    prices = price_places((line.unit_price_nano for line in statement.lines), statement.decimals)
    present = {line.section for line in statement.lines}
    keys = (*(key for key in SECTIONS if key in present), *sorted(present - set(SECTIONS)))
    return tuple(
        _section(key, [line for line in statement.lines if line.section == key], statement.period, places, prices)
        for key in keys
    )


def line_places(statement: Statement) -> int:
    """Decimals of every amount of lines and their sums."""
    return amount_places((line.amount_nano for line in statement.lines), statement.decimals)


def summary(statement: Statement) -> tuple[Share, ...]:
    """The sections with their sums and shares of the total."""
    order = {key: index for index, key in enumerate(SECTIONS)}
    shown = _summed(statement, lambda line: line.section)
    shown.sort(key=lambda item: (order.get(item[0], len(order)), item[0]))
    return _shares(statement, [(wording.SECTIONS.get(key, key), lines) for key, lines in shown])


def shares(statement: Statement, by: Callable[[StatementLine], str]) -> tuple[Share, ...]:
    """Sums of the lines by what ``by`` says of them, the largest first; two or more beyond eight are one row."""
    ranked = sorted(_summed(statement, by), key=lambda item: (-abs(_sum(item[1])), item[0]))
    kept, rest = ranked[:MOST_SHARES], ranked[MOST_SHARES:]
    if len(rest) == 1:
        kept += rest
    elif rest:
        kept.append((f"{len(rest)} others", [line for _, lines in rest for line in lines]))
    return _shares(statement, kept)


def by_cost_type(line: StatementLine) -> str:
    """For ``shares``: what a line paid for."""
    return wording.cost_type(line.section, line.account, line.phase)


def by_model(line: StatementLine) -> str:
    """For ``shares``: the model."""
    return line.model or NO_MODEL


def coding(statement: Statement) -> tuple[tuple[str, str, Share], ...]:
    """(cost centre, general-ledger account, sum): how the statement is posted in the recipient's own books."""
    keyed: dict[tuple[str, str], list[StatementLine]] = {}
    for line in statement.lines:
        keyed.setdefault((line.cost_centre, line.gl_account), []).append(line)
    ordered = sorted(keyed.items())
    rows = _shares(statement, [("", lines) for _, lines in ordered])
    return tuple(
        (centre or NOT_ASSIGNED, account or NOT_ASSIGNED, share)
        for ((centre, account), _), share in zip(ordered, rows, strict=True)
    )


def sides(identity: Sequence[tuple[str, int]]) -> tuple[Sequence[tuple[str, int]], ...]:
    """The two sides of an identity, which have the same sum; one where it cannot be divided so.

    Of several places to divide it (parts of 0), the one after the opening, the bill and the closing is taken first.
    """
    whole = sum(nano for _, nano in identity)
    for place in (IDENTITY_LEFT, *range(1, len(identity))):
        if 2 * sum(nano for _, nano in identity[:place]) == whole and 0 < place < len(identity):
            return identity[:place], identity[place:]
    return (identity,)


def _section(key: str, lines: Sequence[StatementLine], period: str, places: int, prices: int) -> Section:
    projects: dict[str, list[StatementLine]] = {}
    for line in lines:
        projects.setdefault(line.project, []).append(line)
    groups = tuple(
        Group(
            title=project or "No project",
            cost_centres=", ".join(sorted({line.cost_centre for line in members if line.cost_centre})),
            rows=tuple(_row(line, period, places, prices) for line in members),
            subtotal=_subtotal(members, places),
        )
        for project, members in projects.items()
    )
    return Section(
        key=key,
        title=wording.SECTIONS.get(key, key),
        introduction=wording.SECTION_INTRODUCTIONS.get(key, ""),
        grouped=any(projects),
        adjusts=key == ADJUSTMENT,
        counted=any(line.quantity is not None or line.unit_price_nano is not None for line in lines),
        groups=groups,
        subtotal=_subtotal(lines, places),
    )


def _row(line: StatementLine, period: str, places: int, prices: int) -> Row:
    """A line as text; its details are what its description does not say already, which names the reason itself."""
    told = line.description.lower()
    further = ((line.model, line.model), (line.tier, f"tier {line.tier}"))
    details = [words for word, words in further if word and word.lower() not in told]
    details += [", ".join(word.strip() for word in line.method.split(","))] if line.method else []
    if line.section != ADJUSTMENT and line.service_period != period:
        details.append(f"service period {line.service_period}")
    return Row(
        line=line.line,
        description=line.description,
        details=tuple(details),
        service_period=line.service_period,
        quantity=UNKNOWN if line.quantity is None else count(line.quantity),
        unit=line.unit,
        unit_price=UNKNOWN if line.unit_price_nano is None else money(line.unit_price_nano, prices),
        per="" if line.unit_price_nano is None else per_units(line.unit_size, line.unit),
        amount=UNPRICED if line.amount_nano is None else money(line.amount_nano, places),
        priced=line.amount_nano is not None,
    )


def _subtotal(lines: Iterable[StatementLine], places: int) -> Subtotal:
    known = list(lines)
    unpriced = sum(line.amount_nano is None for line in known)
    return Subtotal(UNPRICED if unpriced == len(known) > 0 else money(_sum(known), places), unpriced)


def _shares(statement: Statement, named: Sequence[tuple[str, Sequence[StatementLine]]]) -> tuple[Share, ...]:
    places = line_places(statement)
    rows = []
    # beside a negative amount the others' shares of the total say more than the whole
    divisible = statement.total_nano > 0 and all(_sum(lines) >= 0 for _, lines in named)
    for title, lines in named:
        subtotal, nano = _subtotal(lines, places), _sum(lines)
        share = UNKNOWN if subtotal.amount == UNPRICED else percent(nano, statement.total_nano)
        rows.append(Share(title, subtotal.amount, nano, share if divisible else "", subtotal.unpriced))
    return tuple(rows)


def _summed(statement: Statement, by: Callable[[StatementLine], str]) -> list[tuple[str, list[StatementLine]]]:
    keyed: dict[str, list[StatementLine]] = {}
    for line in statement.lines:
        keyed.setdefault(by(line), []).append(line)
    return list(keyed.items())


def _sum(lines: Iterable[StatementLine]) -> int:
    return sum(line.amount_nano for line in lines if line.amount_nano is not None)
