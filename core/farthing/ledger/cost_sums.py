"""Sums of the hourly sums of cost, by whatever they are asked by."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from farthing.ledger import tables as t
from farthing.ledger.database import is_postgresql
from farthing.ledger.repository import Ledger

__all__ = ["cost_sums"]


def cost_sums(
    ledger: Ledger,
    keys: Sequence[str],
    where: Sequence[sa.ColumnElement[bool]] = (),
    amounts: Sequence[str] = ("nano",),
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Values of the key columns of ``cost_hours`` -> sums of the amounts (``nano``, ``late_nano``, ``millijoules``).

    SQLite groups by sorting, which takes ten times as long as reading. Whatever the keys, it is therefore asked for
    the groups that its index has in order, every combination of names that ever bore a cost, and those are added up
    here: there are few of them, however many hours they had. PostgreSQL groups by hash.
    """
    o = t.cost_hours.c
    read = tuple(keys) if is_postgresql(ledger.engine) or "hour" in keys else t.COST_KEYS
    columns = [o[key] for key in read]
    query = sa.select(*columns, *(sa.func.sum(o[name]) for name in amounts)).where(*where).group_by(*columns)
    places = [read.index(key) for key in keys]
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in ledger.select(query):
        key = tuple(row[place] for place in places)
        sums = tuple(int(value) for value in row[len(read) :])
        before = found.get(key)
        found[key] = sums if before is None else tuple(map(sum, zip(before, sums, strict=True)))
    return found
