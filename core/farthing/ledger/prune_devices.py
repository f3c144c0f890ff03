"""Samples of devices that nothing needs any more: their energy is in the books, and their presence is kept apart.

They are no input of any amount, so no closing cites them and no seal is written for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

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
    """Which records are samples from before a UTC moment that are read and that no boot needs any more.

    A boot needs them until it is closed, also one that waits in the inbox to be read, or for a price. The record that
    arrived last stays: SQLite would give its number to the next one.
    """
    return _old(connection, before_ns, _Waiting())


def delete_samples(engine: Engine, before_ns: int, chunk: int, progress: Callable[[str, int, int], None]) -> None:
    """Delete them, so many a transaction: others write in between. ``progress`` is as in ``prune``."""
    r, after, done, waiting = t.records.c, 0, 0, _Waiting()
    with transaction(engine) as connection:
        count = sa.select(sa.func.count()).select_from(t.records).where(*_old(connection, before_ns, waiting))
        total = int(connection.execute(count).scalar_one())
    while total:
        with transaction(engine, write=True) as connection:
            old = _old(connection, before_ns, waiting)
            query = sa.select(r.id).where(r.id > after, *old).order_by(r.id).limit(chunk)
            ids = list(connection.execute(query).scalars())
            if not ids:
                return
            after = int(ids[-1])
            deleted = connection.execute(sa.delete(t.records).where(r.id >= ids[0], r.id <= after, *old)).rowcount
        done += deleted
        progress(t.records.name, done, max(done, total))


@dataclass(slots=True)
class _Waiting:
    """Boots whose start has arrived and that the books do not have; looked for once, then among new records alone."""

    oldest_ns: int | None = None
    """UTC of the first of them."""
    read_id: int = 0

    def look(self, connection: Connection, last_id: int) -> int | None:
        """The first one's start, of records up to an id."""
        r, b = t.records.c, t.boots.c
        known = sa.select(b.boot).where(b.boot == r.boot).exists()
        scraped = r.boot.startswith(SCRAPED_BOOT, autoescape=True)
        wanted = (r.kind == "started", r.id > self.read_id, r.id <= last_id, ~known, ~scraped)
        found = [self.oldest_ns, *map(_began_ns, connection.execute(sa.select(r.line).where(*wanted)).scalars())]
        self.oldest_ns = min((began for began in found if began is not None), default=None)
        self.read_id = last_id
        return self.oldest_ns


def _old(connection: Connection, before_ns: int, waiting: _Waiting) -> list[sa.ColumnElement[bool]]:
    r, b = t.records.c, t.boots.c
    last = int(connection.execute(sa.select(sa.func.max(r.id))).scalar() or 0)
    probed = ~b.boot.startswith(SCRAPED_BOOT, autoescape=True)
    booked = connection.execute(sa.select(sa.func.min(b.started_ns)).where(b.closed_ns.is_(None), probed)).scalar()
    for oldest in (booked, waiting.look(connection, last)):
        if oldest is not None:
            before_ns = min(before_ns, int(oldest) - BEFORE_NS)
    return [r.kind == DEVICE_KIND, r.event_ns < before_ns, r.id <= last_read(connection), r.id < last]


def _began_ns(line: bytes) -> int | None:
    """UTC nanoseconds of the start that a line tells; None where it is none that anybody can read."""
    try:
        began = json.loads(bytes(line))["wall_ns"]
    except (ValueError, KeyError, TypeError):
        return None
    return began if isinstance(began, int) else None
