"""A statement's plots as inline SVG: rectangles placed by integers, so equal amounts give equal bytes.

Widths are per cent of the drawing and heights are pixels: a plot fills any page while its text keeps its size. There is
no script, no style attribute and no font in it; colours are classes of the statement's style sheet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

from markupsafe import Markup

from farthing.domain import conventions as c
from farthing.exporters.statement.figures import MONTHS, money

__all__ = ["bar", "colour_class", "daily_plot", "rank", "swatch"]

COLOURS: Final = (*c.BOOK_ACCOUNTS, c.WIP)
"""Accounts that have a colour of their own; others share the last."""
HEIGHT: Final = 170
TOP: Final = 14
BOTTOM: Final = 22
LEFT: Final = 9_500
"""Thousandths of a per cent that the scale's figures take."""
RIGHT: Final = 2_000
FULL: Final = 100_000
GAP: Final = 4
"""A day's bar is this many fifths of the day's width."""
TICKS: Final = 4
WEEK: Final = 7
LABELS: Final = 8
LAST_LABEL: Final = 95_000
"""A label right of this would be cut on a narrow screen."""
MAX_DAYS: Final = 400


def daily_plot(days: Sequence[tuple[str, str, int]], first: str, last: str, currency: str) -> Markup:
    """Stacked bars of (UTC date, account, nano) for each day from ``first`` to ``last`` (ISO dates).

    Negative amounts stack below the line. There is no plot (an empty string) where no day has a cost, and of more than
    400 days.
    """
    stacks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for at, account, nano in days:
        stacks[at][account] += nano
    dates = _dates(min([first, *stacks]), max([last, *stacks]))
    high = max((sum(nano for nano in stacks[at].values() if nano > 0) for at in dates), default=0)
    low = min((sum(nano for nano in stacks[at].values() if nano < 0) for at in dates), default=0)
    if not dates or high == low == 0:
        return Markup("")
    step = _step(high - low)
    top, bottom = -(-high // step) * step, low // step * step
    scale = _Scale(top, bottom)
    parts = [_grid(scale, step)]
    width = (FULL - LEFT - RIGHT) // len(dates)
    for index, at in enumerate(dates):
        parts.extend(_day(scale, LEFT + index * width, width, stacks[at], at))
    parts.extend(_axis(dates, width))
    label = f"Cost per UTC day in {currency}, stacked by account, {dates[0]} to {dates[-1]}"
    return Markup('<svg class="plot" width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        HEIGHT, label, Markup("").join(parts)
    )


def bar(nano: int, largest: int) -> Markup:
    """A horizontal bar: ``nano`` in proportion to ``largest``, both in nano-units; a negative one is pale."""
    share = abs(nano) * FULL // largest if largest else 0
    kind = "bar negative" if nano < 0 else "bar"
    return Markup(
        '<svg class="{}" width="100%" height="9" aria-hidden="true"><rect width="{}" height="9"/></svg>'
    ).format(kind, _per_cent(share))


def swatch(account: str) -> Markup:
    """A legend's square in an account's colour."""
    return Markup(
        '<svg width="10" height="10" aria-hidden="true"><rect class="{}" width="10" height="10"/></svg>'
    ).format(colour_class(account))


def colour_class(account: str) -> str:
    """The class that colours an account in every plot."""
    return f"of-{account}" if account in COLOURS else "of-else"


def rank(account: str) -> int:
    """The place of an account in stacks and legends."""
    return COLOURS.index(account) if account in COLOURS else len(COLOURS)


class _Scale:
    """Pixels from the top of a plot for an amount between ``bottom`` and ``top`` nano-units, in thousandths."""

    def __init__(self, top: int, bottom: int) -> None:
        self.top, self.bottom = top, bottom

    def y(self, nano: int) -> int:
        drawn = (HEIGHT - TOP - BOTTOM) * 1000
        return TOP * 1000 + (self.top - nano) * drawn // (self.top - self.bottom)


def _grid(scale: _Scale, step: int) -> Markup:
    lines = []
    places = next(places for places in range(10) if step % 10 ** (9 - places) == 0)
    for nano in range(scale.bottom, scale.top + 1, step):
        y = _milli(scale.y(nano))
        lines.append(
            Markup('<line class="{}" x1="{}" x2="100%" y1="{}" y2="{}"/>').format(
                "zero" if nano == 0 else "grid", _per_cent(LEFT), y, y
            )
        )
        lines.append(
            Markup('<text class="scale" x="{}" y="{}" dy="0.35em">{}</text>').format(
                _per_cent(LEFT - 1_200), y, money(nano, places)
            )
        )
    return Markup("").join(lines)


def _day(scale: _Scale, x: int, width: int, stack: dict[str, int], at: str) -> list[Markup]:
    order = sorted(stack, key=lambda account: (rank(account), account))
    left, wide = _per_cent(x + width * (5 - GAP) // 10), _per_cent(width * GAP // 5)
    parts = []
    above = below = 0
    for account in order:
        nano = stack[account]
        if not nano:
            continue
        start = above if nano > 0 else below
        upper, lower = scale.y(max(start, start + nano)), scale.y(min(start, start + nano))
        above, below = (above + nano, below) if nano > 0 else (above, below + nano)
        parts.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                colour_class(account),
                left,
                _milli(upper),
                wide,
                _milli(lower - upper),
                f"{at}, {account}: {money(nano, 4)}",
            )
        )
    return parts


def _axis(dates: Sequence[str], width: int) -> list[Markup]:
    every = max(WEEK, -(-len(dates) // LABELS)) if len(dates) > LABELS else 1
    labels = []
    for index in range(0, len(dates), every):
        at = date.fromisoformat(dates[index])
        text = f"{at.day} {MONTHS[at.month - 1][:3]}"
        middle = LEFT + index * width + width // 2
        if middle > LAST_LABEL:
            break
        labels.append(Markup('<text class="day" x="{}" y="{}">{}</text>').format(_per_cent(middle), HEIGHT - 6, text))
    return labels


def _dates(first: str, last: str) -> list[str]:
    """Every date from the first to the last, in ISO form; none when there are more than MAX_DAYS."""
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    number = (end - start).days + 1
    return [(start + timedelta(days=index)).isoformat() for index in range(number)] if number <= MAX_DAYS else []


def _step(extent: int) -> int:
    """A round number of nano-units (1, 2 or 5 times a power of ten), of which about four make the extent."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * TICKS >= extent:
                return factor * power
        power *= 10


def _per_cent(thousandths: int) -> str:
    return f"{_milli(thousandths)}%"


def _milli(thousandths: int) -> str:
    """A number of thousandths as an exact decimal."""
    whole, rest = divmod(thousandths, 1000)
    return f"{whole}.{rest:03d}" if rest else str(whole)
