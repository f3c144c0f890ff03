"""The ledger: durable inbox and append-only journal, in SQLite by default or PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from farthing.domain.clock import Anchor
from farthing.domain.model import Adjustment, SettledWindow
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import PERIODS_LOCK, advisory_lock, open_engine, transaction
from farthing.ledger.ingest import add_batches
from farthing.ledger.partitions import Rooms
from farthing.ledger.posting import Known, Poster
from farthing.ledger.rows import Boot, Entry, Posted, RequestRow

__all__ = ["Boot", "Entry", "Ledger", "Posted", "RequestRow"]


class Ledger:
    """One database; safe to share between threads. Every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._rooms = Rooms(engine)
        self._known = Known()

    @classmethod
    def open(cls, url: str) -> Ledger:
        """The ledger at a SQLAlchemy URL, created or migrated to the current schema.

        Raises LedgerError when the URL is wrong, the database cannot be reached or is newer than this version.
        """
        return cls(open_engine(url))

    def close(self) -> None:
        """Release every connection."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inbox ---------------------------------------------------------------------------------

    def add(self, records: Sequence[RawRecord]) -> int:
        """Store records that are not there yet, durably, before returning; returns how many were new."""
        return self.add_each([records])[0]

    def add_each(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
        """As ``add``, of several batches in one transaction; returns how many of each were new."""
        if not any(batches):
            return [0] * len(batches)
        with self._transaction(write=True) as connection:
            return add_batches(connection, batches)

    def records_after(
        self, last_id: int, limit: int = 5_000, *, done_id: int | None = None
    ) -> list[tuple[int, RawRecord]]:
        """Up to ``limit`` records in order of arrival, after ``last_id``.

        Those of boots that are closed are left out; with ``done_id`` only the ones that arrived up to it. Samples of
        devices are read by ``devices``.
        """
        r = t.records.c
        closed = sa.select(t.boots.c.boot).where(t.boots.c.closed_ns.is_not(None))
        wanted: sa.ColumnElement[bool] = r.boot.not_in(closed)
        if done_id is not None:
            wanted = wanted | (r.id > done_id)
        wanted &= r.kind != "device"
        query = sa.select(t.records).where(r.id > last_id, wanted).order_by(r.id).limit(limit)
        with self._transaction() as connection:
            return [
                (
                    row.id,
                    RawRecord(RecordKey(row.boot, row.process, row.sequence), row.kind, row.event_ns, bytes(row.line)),
                )
                for row in connection.execute(query)
            ]

    def last_id(self) -> int:
        """The record that arrived last; 0 when there is none."""
        with self._transaction() as connection:
            return int(connection.execute(sa.select(sa.func.max(t.records.c.id))).scalar() or 0)

    def next_sequence(self, boot: str, process: int) -> int:
        """The first free sequence of a process of a boot."""
        r = t.records.c
        query = sa.select(sa.func.max(r.sequence)).where(r.boot == boot, r.process == process)
        with self._transaction() as connection:
            last = connection.execute(query).scalar()
        return 0 if last is None else int(last) + 1

    # ---- books ---------------------------------------------------------------------------------

    def post(
        self,
        boot: Boot,
        requests: Sequence[RequestRow],
        windows: Sequence[SettledWindow],
        adjustments: Sequence[Adjustment] = (),
    ) -> Posted:
        """Write a boot, its requests, its settled windows and their adjustments in one transaction.

        Returns what of them was new: what is already in the books is left alone, so recomputing a boot posts
        nothing twice.
        """
        return self.post_each([Entry(boot, tuple(requests), tuple(windows), tuple(adjustments))])[0]

    def post_each(self, entries: Sequence[Entry]) -> list[Posted]:
        """As ``post``, of several boots in one transaction: all of it is in the books when it returns, or nothing."""
        for entry in entries:
            starts = [window.start_ns for window in entry.windows] + [one.start_ns for one in entry.adjustments]
            self._rooms.make("journal", map(entry.boot.anchor.to_wall, starts))
            self._rooms.make("requests", (row.ended_wall_ns for row in entry.requests))
        with self._transaction(write=True) as connection:
            advisory_lock(connection, PERIODS_LOCK, shared=True)
            poster = Poster(connection, self._known, (entry.boot.boot for entry in entries))
            posted = poster.post(entries)
            poster.finish()
        self._known.update(poster.written)
        return posted

    def boots(self) -> list[Boot]:
        """Every boot, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(t.boots).order_by(t.boots.c.started_ns, t.boots.c.boot)).all()
        return [
            Boot(
                boot=row.boot,
                engine=row.engine,
                kind=row.kind,
                model=row.model,
                gpu=row.gpu,
                gpu_count=row.gpu_count,
                price_version=row.price_version,
                anchor=Anchor(row.wall_ns, row.mono_ns),
                started_ns=row.started_ns,
                closed_ns=row.closed_ns,
                bill_nano=row.bill_nano,
                lost=row.lost,
                energy_first_mj=row.energy_first_mj,
                energy_last_mj=row.energy_last_mj,
                refused=row.refused,
                ranks=row.ranks,
                billed_from_ns=row.billed_from_ns,
                covered_ns=row.covered_ns,
                read_id=row.read_id,
                costing=row.costing,
                gpu_uuids=tuple(json.loads(row.gpu_uuids)),
                ended_ns=row.ended_ns,
                given_up_ns=row.given_up_ns,
            )
            for row in rows
        ]

    def price_content(self, version: str) -> str | None:
        """What a version of a price stands for; None when it was never kept."""
        v = t.versions.c
        with self._transaction() as connection:
            return connection.execute(sa.select(v.content).where(v.kind == "price", v.version == version)).scalar()

    def posted_until(self, boot: str) -> int | None:
        """UTC nanoseconds up to where a boot's posted windows reach; None while there are none."""
        w = t.windows.c
        with self._transaction() as connection:
            return connection.execute(sa.select(sa.func.max(w.wall_end_ns)).where(w.boot == boot)).scalar()

    def select(self, query: sa.Select[Any]) -> list[Any]:
        """Rows of a query on the ledger's tables."""
        with self._transaction() as connection:
            return list(connection.execute(query).all())

    # ---- inside --------------------------------------------------------------------------------

    def _transaction(self, *, write: bool = False) -> AbstractContextManager[Connection]:
        return transaction(self.engine, write=write)
