"""What Farthing exports of spend, budgets, forecasts and key figures: its own watch on a ledger of five weeks.

The ledger's hourly sums are those of the recordings, as often as they fit into an hour and for as many engines as the
world has, by the time of day.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from tests.dashboards.laps import Floats, Series, read_exposition
from tests.dashboards.recorded_books import HOURLY, PROJECTS, Row
from tests.exporters.snapshots import snapshot

from farthing.books.periods import period_of
from farthing.domain import conventions as names
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.money import NANO
from farthing.exporters.prometheus import DEFAULT_TOP_TENANTS, SnapshotCollector, exposition
from farthing.exporters.prometheus_seats import Seats
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.engine_notes import Unpriced, note_unpriced
from farthing.ledger.many_rows import add_to
from farthing.ledger.repository import Ledger
from farthing.service.spend_watch import SpendWatch
from farthing.settings import Settings

__all__ = ["recorded_spend"]

STEP_SECONDS = 300
"""How far apart what is exported is computed; it is once a minute in the service."""
DAYS = 35
"""Of history: last month's end, too."""
DAILY = tuple(0.6 + 0.4 * (8 <= hour < 20) for hour in range(24))
"""How much is asked in each hour of the day, by what is asked in the busiest."""
ODD = ("acme", 5, 6.0)
"""A tenant that for so many hours until now has spent so many times what it usually does."""
CAPACITY = (
    (names.UNALLOCATED, "rack-1", 640),
    (names.UNUSED_COMMITMENT, "reserved-2026", 310),
    (names.SHARED, "platform", 120),
)
"""(account, capacity or pool, dollars) that were booked when last month was closed."""

UNPRICED = ("borrowed-1", "llama-8b", "RTX-9999", 1)
"""Name, model, GPU and number of GPUs of an engine that nobody gave a price."""

Of = Mapping[str, tuple[dict[str, list[Row]], float]]
"""Engine kind -> the hourly sums of one lap, and how many laps all its engines come through in an hour."""


def recorded_spend(settings: Settings, books: Of, times: Floats) -> dict[Series, Floats]:
    """The series of spend at the times.

    ``books``: engine kind -> the hourly sums of one lap, and how many laps all its engines come through in an hour.
    """
    ledger = Ledger.open("sqlite://")
    now = [0]
    watch = SpendWatch(ledger, settings, lambda: now[0])
    begin = int(times[0]) // 3600
    pictures: list[dict[Series, float]] = []
    steps = np.unique((times // STEP_SECONDS).astype(int)) * STEP_SECONDS
    try:
        _book_history(ledger, books, begin)
        note_unpriced(ledger, Unpriced(*UNPRICED, since_ns=begin * HOUR, reason="no price of RTX-9999"))
        booked = begin * 3600
        for at in steps:
            while booked < at:
                hour = booked // 3600
                until = min(int(at), (hour + 1) * 3600)
                _book(ledger, {hour: (until - booked) / 3600 * _share(hour)}, books, odd=_is_odd(hour, int(times[-1])))
                booked = until
            now[0] = int(at) * SECOND
            pictures.append(_exported(watch))
    finally:
        ledger.close()
    place = np.searchsorted(steps, times, side="right") - 1
    names_of = dict.fromkeys(series for picture in pictures for series in picture)
    return {series: np.array([one.get(series, np.nan) for one in pictures])[place] for series in names_of}


def _is_odd(hour: int, end_seconds: int) -> bool:
    return hour > end_seconds // 3600 - ODD[1]


def _exported(watch: SpendWatch) -> dict[Series, float]:
    # only the spend of this snapshot is looked at
    shown = replace(snapshot(1), spend=watch.update())
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: shown, Seats(DEFAULT_TOP_TENANTS, held=PROJECTS)))
    text = exposition(registry, "")[0].decode()
    return {key: value for key, value in read_exposition(text).items() if key[0] in SPEND}


SPEND = frozenset(
    {
        *(names.METRIC_BILL_TODAY, names.METRIC_BILL_MONTH, names.METRIC_SPEND_FORECAST, names.METRIC_SPEND_TODAY),
        *(names.METRIC_SPEND_MONTH, names.METRIC_ANOMALY, names.METRIC_BUDGET, names.METRIC_BUDGET_SPENT),
        *(names.METRIC_BUDGET_RATIO, names.METRIC_BUDGET_EVENT, names.METRIC_UNPRICED, names.METRIC_CAPACITY),
        *(names.METRIC_KPI_UNIT_COST, names.METRIC_KPI_SHARE),
    }
)


def _share(hour: int) -> float:
    return DAILY[hour % 24]


def _book_history(ledger: Ledger, books: Of, end: int) -> None:
    start = end - DAYS * 24
    _book(ledger, {hour: _share(hour) for hour in range(start, end)}, books)
    period = period_of(start * HOUR)
    sums: dict[tuple[Any, ...], tuple[int, ...]] = {
        (start, period, "", account, "", "", "", "", "", reason, ""): (dollars * NANO, 0, 0)
        for account, reason, dollars in CAPACITY
    }
    with transaction(ledger.engine, write=True) as connection:
        add_to(connection, t.cost_hours, sums)


def _book(
    ledger: Ledger,
    hours: Mapping[int, float],
    books: Of,
    *,
    odd: bool = False,
) -> None:
    """Add to the sums of some hours: hour -> how much of its busiest."""
    with transaction(ledger.engine, write=True) as connection:
        for table in HOURLY:
            found: dict[tuple[Any, ...], tuple[int, ...]] = {}
            for key, amounts in _rows(table, hours, books, odd=odd):
                before = found.get(key, (0,) * len(amounts))
                found[key] = tuple(a + b for a, b in zip(before, amounts, strict=True))
            add_to(connection, table, found)


def _rows(
    table: Any, hours: Mapping[int, float], books: Of, *, odd: bool
) -> Iterator[tuple[tuple[Any, ...], tuple[int, ...]]]:
    keys = [column.name for column in table.primary_key.columns]
    amounts = [column.name for column in table.columns if not column.primary_key]
    for kind, (of_lap, laps) in books.items():
        for row in of_lap[table.name]:
            times = laps * (ODD[2] if odd and row.get("tenant") == ODD[0] else 1.0)
            for hour, share in hours.items():
                placed = {**row, "hour": hour, "engine": kind}
                if "period" in row:
                    placed["period"] = period_of(hour * HOUR)
                yield tuple(placed[name] for name in keys), tuple(round(row[name] * times * share) for name in amounts)
