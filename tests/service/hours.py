"""Made-up hourly sums, written as postings write them."""

from __future__ import annotations

from datetime import UTC, datetime

from farthing.books.periods import period_of
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, SECOND
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.many_rows import add_to
from farthing.ledger.repository import Ledger

__all__ = ["MONTH_NS", "NOW_NS", "book", "ns"]


def ns(*moment: int) -> int:
    """UTC nanoseconds of a date and time."""
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * SECOND  # type: ignore[misc,arg-type]


MONTH_NS = ns(2026, 11, 1)
NOW_NS = ns(2026, 11, 26, 10, 30)


def book(
    ledger: Ledger,
    hour: int,
    *,
    tenant: str = "",
    nano: int,
    account: str = c.CHARGED,
    project: str = "",
    model: str = "llama",
    engine: str = "e",
    requests: int = 0,
) -> None:
    """One hourly sum of cost, with the window's bill, and of requests with a thousand tokens of each kind."""
    period = period_of(hour * HOUR)
    phase = c.DECODE if account in {c.CHARGED, c.ABORTED} else ""
    who = (tenant, project, model, "chat" if tenant else "")
    with transaction(ledger.engine, write=True) as connection:
        cost = (nano, 0, 0)
        add_to(connection, t.cost_hours, {(hour, period, engine, account, phase, *who, "", c.MODELLED): cost})
        if account not in c.CAPACITY_ACCOUNTS:
            add_to(connection, t.window_hours, {(hour, engine): (nano, 0, 1, 0, 0, 0, 0, 0, 0, 0)})
        if requests:
            tokens = (1_000 * requests,) * 4
            key = (hour, period, engine, *who, c.FINISHED)
            add_to(connection, t.usage_hours, {key: (requests, *tokens, 0, 0)})
