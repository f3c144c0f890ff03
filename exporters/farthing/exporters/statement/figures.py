"""Figures and dates as finance writes them: thousands separators, a true minus sign, decimals that fit the amounts.

Nothing here depends on locale or time zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from farthing.domain.money import from_nano

__all__ = [
    "EXACT_PLACES",
    "amount_places",
    "count",
    "day",
    "exact",
    "moment",
    "money",
    "per_units",
    "percent",
    "price_places",
    "printable",
    "span",
]

EXACT_PLACES: Final = 9
"""Decimals of a nano-unit."""
MORE_PLACES: Final = (4, 6)
"""Decimals that a table may show beyond those of the currency: few choices, so that statements look alike."""
NEGLIGIBLE: Final = 1_000_000
"""An amount below its table's sum by this factor asks for no further decimals; it shows as less than the last digit."""
SIGNIFICANT: Final = 100
"""The least that three digits can say."""
MINUS: Final = "\u2212"
UNPRINTABLE: Final = "\ufffd"
MILLION: Final = 1_000_000
SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def amount_places(amounts: Iterable[int | None], least: int) -> int:
    """Decimals for all amounts (nano-units) of a table: ``least``, and more where those would hide some.

    An amount is hidden when it would show as 0, unless it is less than a millionth of the table's sum.
    """
    known = [abs(nano) for nano in amounts if nano]
    total = sum(known)
    weighty = min((nano for nano in known if nano * NEGLIGIBLE >= total), default=0)
    return _first(least, lambda unit: weighty == 0 or weighty >= unit)


def price_places(prices: Iterable[int | None], least: int) -> int:
    """Decimals for all unit prices (nano-units) of a table: each exact or with three digits, at most six decimals."""
    known = [abs(nano) for nano in prices if nano]
    return _first(least, lambda unit: all(nano % unit == 0 or nano >= SIGNIFICANT * unit for nano in known))


def _first(least: int, suffices: Callable[[int], bool]) -> int:
    """The fewest decimals whose last digit (in nano-units) suffices; else the most there are."""
    choices = (least, *(places for places in MORE_PLACES if places > least))
    return next((places for places in choices if suffices(10 ** (EXACT_PLACES - places))), choices[-1])


def money(nano: int, places: int) -> str:
    """An amount rounded half to even; one that is not 0 but rounds to it says so instead of showing 0."""
    unit = Decimal(1).scaleb(-places)
    rounded = from_nano(nano).quantize(unit, rounding=ROUND_HALF_EVEN)
    if rounded == 0:
        return f"{Decimal(0):.{places}f}" if nano == 0 else f"<{unit}" if nano > 0 else f">{MINUS}{unit}"
    return f"{rounded:,}".replace("-", MINUS)


def exact(nano: int) -> str:
    """An amount with all nine decimals."""
    return money(nano, EXACT_PLACES)


def count(number: int) -> str:
    """An integer with thousands separators."""
    return f"{number:,}".replace("-", MINUS)


def per_units(size: int, unit: str) -> str:
    """What a unit price is for: ``1M tokens``, ``GPU-hours``, ``1,000 requests``."""
    if size == 1:
        return unit
    number = f"{size // MILLION:,}M" if size % MILLION == 0 else f"{size:,}"
    return f"{number} {unit}".strip()


def percent(part: int, whole: int) -> str:
    """A share with one decimal; a dash where there is no whole."""
    if not whole:
        return "—"
    shown = (Decimal(part) * 100 / Decimal(whole)).quantize(Decimal("0.1"), rounding=ROUND_HALF_EVEN)
    if shown == 0 and part:
        return "<0.1%" if (part > 0) == (whole > 0) else f">{MINUS}0.1%"
    return f"{abs(shown) if shown == 0 else shown}%".replace("-", MINUS)


def day(ns: int) -> str:
    """The UTC day of a moment: ``3 December 2026``."""
    at = _utc(ns)
    return f"{at.day} {MONTHS[at.month - 1]} {at.year}"


def moment(ns: int) -> str:
    """A moment to the minute: ``3 December 2026, 09:14 UTC``."""
    at = _utc(ns)
    return f"{day(ns)}, {at.hour:02d}:{at.minute:02d} UTC"


def span(start_ns: int, end_ns: int) -> str:
    """A stretch of time, its end excluded; whole UTC days read as the first and the last of them."""
    if end_ns > start_ns and start_ns % DAY_NS == end_ns % DAY_NS == 0:
        first, last = _utc(start_ns), _utc(end_ns - DAY_NS)
        if first == last:
            return f"{day(start_ns)} (UTC)"
        within_month = (first.year, first.month) == (last.year, last.month)
        opening = str(first.day) if within_month else day(start_ns)
        return f"{opening} to {day(end_ns - DAY_NS)} (UTC)"
    return f"{moment(start_ns)} to {moment(end_ns)}"


def printable(text: str) -> str:
    """Text without control characters and without marks that reorder what is beside them."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else UNPRINTABLE for character in text)


def _utc(ns: int) -> datetime:
    return datetime.fromtimestamp(ns // SECOND_NS, tz=UTC)
