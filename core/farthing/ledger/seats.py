"""Which tenants and tiers have series of their own in ``/metrics``: no counter may fall at a restart."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.posting import insert_new
from farthing.ledger.repository import Ledger

__all__ = ["keep_seats", "kept_seats"]


def keep_seats(ledger: Ledger, label: str, values: Collection[str]) -> None:
    """Remember that values of a label have series of their own; those that are remembered stay.

    Raises LedgerError when the ledger cannot be written; then none of them is.
    """
    with transaction(ledger.engine, write=True) as connection:
        rows = [{"label": label, "value": value} for value in sorted(values)]
        connection.execute(insert_new(connection, t.metric_seats), rows)


def kept_seats(ledger: Ledger, label: str) -> frozenset[str]:
    """The values of a label that have series of their own."""
    s = t.metric_seats.c
    return frozenset(row.value for row in ledger.select(sa.select(s.value).where(s.label == label)))
