"""What a ledger holds, as values that two runs can be compared by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from farthing.collectors.wire import decode_raw
from farthing.domain.clock import Anchor
from farthing.domain.records import RawRecord, Usage
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import Recording
from farthing.replay.wire_records import wire_records
from farthing.service.accountant import Accountant
from farthing.service.server import price_book
from farthing.settings import Settings

__all__ = ["ENGINE", "accountant", "content", "journal_sums", "raw_of", "raw_records", "total"]

ENGINE = "h100"
BOOKS = (t.boots, t.fits, t.windows, t.journal, t.requests)


def raw_of(records: Iterable[dict[str, Any]]) -> list[RawRecord]:
    """Wire records as intake would store them."""
    return [decode_raw(json.dumps(record, separators=(",", ":")).encode()) for record in records]


def raw_records(
    recording: Recording, *, boot: str = "b", engine: str = ENGINE, wall_start_ns: int | None = None
) -> list[RawRecord]:
    """A whole recording as intake would store it."""
    timed = wire_records(recording, boot=boot, engine=engine, wall_start_ns=wall_start_ns)
    return raw_of(item.record for item in timed)


def accountant(
    ledger: Ledger, settings: Settings | None = None, ended: Callable[[Usage, Anchor, str], None] | None = None
) -> Accountant:
    """An accountant that has just started on a ledger."""
    chosen = settings or Settings()
    return Accountant(ledger, chosen, price_book(chosen), clock_ns=lambda: 1_795_500_000_000_000_000, ended=ended)


def content(ledger: Ledger, *without: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the books, by table, without the numbers that only say in which order rows were written.

    ``without`` names further columns to leave out.
    """
    found = {}
    for table in BOOKS:
        columns = [column for column in table.columns if column.name not in {"id", "read_id", *without}]
        rows = ledger.select(sa.select(*columns))
        found[table.name] = sorted((tuple(row) for row in rows), key=repr)
    return found


def journal_sums(ledger: Ledger, *columns: str) -> Counter[tuple[Any, ...]]:
    """Nano-dollars of the journal by some of its columns."""
    keys = [t.journal.c[name] for name in columns]
    rows = ledger.select(sa.select(*keys, sa.func.sum(t.journal.c.nano)).group_by(*keys))
    return Counter({tuple(row[:-1]): int(row[-1]) for row in rows})


def total(ledger: Ledger, column: sa.Column[int]) -> int:
    """The sum of a column, 0 when nothing is there."""
    ((value,),) = ledger.select(sa.select(sa.func.coalesce(sa.func.sum(column), 0)))
    return int(value)
