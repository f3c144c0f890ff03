"""Events of budgets in the ledger: each is written once, whoever sees it first."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from farthing.books.budgets import BudgetEvent
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.posting import insert_new
from farthing.ledger.repository import Ledger

__all__ = ["budget_events", "write_budget_events"]


def write_budget_events(ledger: Ledger, events: Sequence[BudgetEvent]) -> list[BudgetEvent]:
    """Write the events that are not there yet, in one transaction, and return those.

    Two processes that see the same threshold passed write it once: the key decides, and only one of them is told.
    """
    if not events:
        return []
    known = {event.key for month in {event.month for event in events} for event in budget_events(ledger, month)}
    missing = [event for event in events if event.key not in known]
    if not missing:
        return []
    e = t.budget_events.c
    with transaction(ledger.engine, write=True) as connection:
        insert = insert_new(connection, t.budget_events).returning(e.budget, e.monthly_nano, e.month, e.threshold_ppm)
        written = {tuple(row) for row in connection.execute(insert, [_row(event) for event in missing])}
    return [event for event in missing if event.key in written]


def budget_events(ledger: Ledger, month: str) -> tuple[BudgetEvent, ...]:
    """The events of a month, oldest first."""
    e = t.budget_events.c
    query = sa.select(t.budget_events).where(e.month == month).order_by(e.at_ns, e.budget, e.threshold_ppm)
    return tuple(
        BudgetEvent(row.budget, row.monthly_nano, row.month, row.threshold_ppm, row.spent_nano, row.at_ns)
        for row in ledger.select(query)
    )


def _row(event: BudgetEvent) -> dict[str, str | int]:
    return {name: getattr(event, name) for name in BudgetEvent.__dataclass_fields__}
