"""Samples of devices that nothing needs any more: their energy is in the books, and their presence is kept apart.

They are no input of any amount, so no closing cites them and no seal is written for them.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from farthing.domain.clock import SECOND
from farthing.domain.conventions import SCRAPED_BOOT
from farthing.ledger import tables as t
from farthing.ledger.database import transaction
from farthing.ledger.devices import DEVICE_KIND, last_read

__all__ = ["BEFORE_NS", "delete_samples", "old_samples"]

BEFORE_NS = 120 * SECOND
"""How far before a boot's start its devices' samples are looked at: the last before it says where its energy begins."""


def old_samples(connection: Connection, before_ns: int) -> list[sa.ColumnElement[bool]]:
    """Which records are samples from before a UTC moment that are read and that no open boot needs.

    The record that arrived last stays: SQLite would give its number to the next one.
    """
    r, b = t.records.c, t.boots.c
    probed = ~b.boot.startswith(SCRAPED_BOOT, autoescape=True)
    oldest = connection.execute(sa.select(sa.func.min(b.started_ns)).where(b.closed_ns.is_(None), probed)).scalar()
    if oldest is not None:
        before_ns = min(before_ns, int(oldest) - BEFORE_NS)
    last = connection.execute(sa.select(sa.func.max(r.id))).scalar() or 0
    return [r.kind == DEVICE_KIND, r.event_ns < before_ns, r.id <= last_read(connection), r.id < last]


def delete_samples(engine: Engine, before_ns: int, chunk: int, progress: Callable[[str, int, int], None]) -> None:
    """Delete them, so many a transaction: others write in between. ``progress`` is as in ``prune``."""
    r, after, done = t.records.c, 0, 0
    with transaction(engine) as connection:
        count = sa.select(sa.func.count()).select_from(t.records).where(*old_samples(connection, before_ns))
        total = int(connection.execute(count).scalar_one())
    while total:
        with transaction(engine, write=True) as connection:
            query = sa.select(r.id).where(r.id > after, *old_samples(connection, before_ns)).order_by(r.id).limit(chunk)
            ids = list(connection.execute(query).scalars())
            if not ids:
                return
            after = int(ids[-1])
            wanted = (r.id >= ids[0], r.id <= after, *old_samples(connection, before_ns))
            deleted = connection.execute(sa.delete(t.records).where(*wanted)).rowcount
        done += deleted
        progress(t.records.name, done, max(done, total))
