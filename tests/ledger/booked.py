"""Ledgers with something of everything in them: two recorded boots, a late record, a closed period, a dispute."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from tests.replay.conftest import TEXT, VISION, cost

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.domain import conventions as c
from farthing.domain.model import Adjustment, Posting
from farthing.domain.records import RawRecord
from farthing.ledger import tables as t
from farthing.ledger.append_only import allow, protect
from farthing.ledger.database import transaction
from farthing.ledger.repository import Ledger
from farthing.replay.offline import OfflineRun
from farthing.replay.recording import load_recording
from farthing.service.closing import close_period
from farthing.service.server import price_book
from farthing.settings import Settings

__all__ = ["DAY", "PERIOD", "USER", "close", "content", "fill", "meddle", "run"]

DAY = 86_400_000_000_000
PERIOD = "2026-11"
USER = "8f3ae9d1c07b5542"
"""A pseudonym as the probe makes them."""


@cache
def run(name: str) -> OfflineRun:
    """A recording, costed."""
    costed: OfflineRun = cost(load_recording(name))
    return costed


def fill(ledger: Ledger, *, users: bool = False) -> None:
    """Both recordings' books, with one adjustment; with ``users``, every fifth record names one."""
    for name in (TEXT, VISION):
        recorded = run(name)
        ledger.add([_named(record, place) for place, record in enumerate(recorded.raw)] if users else recorded.raw)
        last = ledger.last_id()
        for entry in recorded.entries:
            boot = _replace(entry.boot, read_id=last)
            ledger.post(boot, entry.requests, entry.windows, entry.adjustments)
    recorded = run(TEXT)
    window = recorded.entry.windows[30]
    request = window.requests[0].key
    row = next(row for row in recorded.entry.requests if row.key == request)
    lost = Posting(c.UNATTRIBUTED, c.DECODE, "", "", row.model, "", c.REASON_LOST, c.MODELLED, -5)
    found = Posting(c.CHARGED, c.DECODE, row.tenant, row.project, row.model, row.tier, "", c.MODELLED, 5)
    late = Adjustment(
        window.boot,
        window.engine_index,
        window.start_ns,
        window.end_ns,
        request,
        (lost, found),
        {c.DECODE: 5},
        0,
        window.fit_version,
    )
    ledger.post(_replace(recorded.entry.boot, read_id=last), (), (), (late,))


def close(ledger: Ledger, period: str = PERIOD, **settings: Any) -> None:
    """Close the period and dispute a line of its second statement."""
    chosen = Settings(**settings)
    end = bounds(period)[1]
    close_period(ledger, period, chosen, price_book(chosen), Policy.default(), "Ada Byron", now_ns=end + DAY)
    mark = {"number": f"{period}-0001", "line": 1, "at_ns": end + 2 * DAY, "marked_by": "Bob", "mark": "disputed"}
    with transaction(ledger.engine, write=True) as connection:
        connection.execute(sa.insert(t.dispute_marks), {**mark, "note": "too much"})


def content(ledger: Ledger, *without: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table but some, by table."""
    return {
        table.name: sorted((tuple(row) for row in ledger.select(sa.select(table))), key=repr)
        for table in t.metadata.sorted_tables
        if table.name not in without
    }


def meddle(ledger: Ledger, update: sa.Update) -> None:
    """Change one row behind the ledger's back, the triggers of its table put aside for that."""
    table = str(update.table)
    with transaction(ledger.engine, write=True) as connection:
        if table in t.APPEND_ONLY:
            allow(connection, table)
        changed = connection.execute(update).rowcount
        if table in t.APPEND_ONLY:
            protect(connection, table)
    assert changed == 1, update


def _named(record: RawRecord, place: int) -> RawRecord:
    if record.kind != "usage" or place % 5:
        return record
    user = USER if place % 10 else "somebody else \u00e9"
    line = record.line.replace(b',"prompt_tokens"', f',"user":"{user}","prompt_tokens"'.encode(), 1)
    return RawRecord(record.key, record.kind, record.event_ns, line)


def _replace(source: Any, **changes: Any) -> Any:
    values = {name: getattr(source, name) for name in source.__dataclass_fields__}
    return type(source)(**values | changes)
