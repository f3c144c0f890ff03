"""The ledger: durable inbox and append-only journal, in SQLite by default or PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from farthing.domain.clock import Anchor
from farthing.domain.conventions import PHASES, POLICY_VERSION
from farthing.domain.errors import LedgerError
from farthing.domain.model import Adjustment, Fit, SettledWindow
from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger import tables as t

__all__ = ["Boot", "Ledger", "Posted", "RequestRow"]

_SOURCE = "gpu_allocation"
"""The account that every window's money comes from: double entry's other side."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One life of an engine instance, as it is billed."""

    boot: str
    engine: str
    kind: str
    model: str
    gpu: str
    gpu_count: int
    price_version: str
    anchor: Anchor
    started_ns: int
    """UTC nanoseconds."""
    closed_ns: int | None = None
    """UTC nanoseconds of its end, once nothing can change any more."""
    bill_nano: int = 0
    """Allocation x price from its start to the end of its last window, computed without the windows."""
    lost: int = 0
    """Records that never arrived, came after its end, or are of a rank or process that it did not announce."""
    energy_first_mj: int | None = None
    energy_last_mj: int | None = None
    refused: int = 0
    """Records that intake refused, and that were not mended since."""

    @property
    def energy_mj(self) -> int | None:
        """Millijoules by the devices' counters; None without samples."""
        if self.energy_first_mj is None or self.energy_last_mj is None:
            return None
        return self.energy_last_mj - self.energy_first_mj


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting added; the rest was in the books already."""

    windows: list[SettledWindow]
    requests: list[RequestRow]
    adjustments: list[Adjustment] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request for the ``requests`` table, without its cost: that grows window by window."""

    key: RecordKey
    engine: str
    request_id: str
    ended_wall_ns: int
    tenant: str
    project: str
    workload: str
    tier: str
    model: str
    outcome: str
    status: int
    seen_by: str
    trace_id: str
    prompt_computed: int | None
    prompt_cached: int | None
    image_tokens: int | None
    output_tokens: int | None


class Ledger:
    """One database; safe to share between threads. Every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Ledger:
        """The ledger at a SQLAlchemy URL, created or migrated to the current schema.

        Raises LedgerError when the URL is wrong, the database cannot be reached or is newer than this version.
        """
        try:
            parsed = make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            engine = sa.create_engine(parsed, pool_pre_ping=True)
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "connect", _sqlite_pragmas)
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except ModuleNotFoundError as error:
            raise LedgerError(f"ledger {_safe(url)}: needs {error.name}; pip install 'farthing[postgres]'") from error
        except (ArgumentError, SQLAlchemyError, OSError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise LedgerError(
                f"ledger {_safe(url)}: cannot be opened ({reason}); check the URL and its folder"
            ) from error
        except Exception as error:  # alembic raises plain exceptions for an unknown revision
            raise LedgerError(f"ledger {_safe(url)}: cannot be migrated ({error})") from error
        return cls(engine)

    def close(self) -> None:
        """Release every connection."""
        self.engine.dispose()

    # ---- inbox ---------------------------------------------------------------------------------

    def add(self, records: Sequence[RawRecord]) -> int:
        """Store records that are not there yet, durably, before returning; returns how many were new."""
        if not records:
            return 0
        rows = [
            {
                "boot": record.key.boot,
                "process": record.key.process,
                "sequence": record.key.sequence,
                "kind": record.kind,
                "event_ns": record.event_ns,
                "line": record.line,
            }
            for record in records
        ]
        with self._transaction() as connection:
            return len(connection.execute(self._insert_new(t.records).returning(t.records.c.id), rows).all())

    def records_after(
        self, last_id: int, limit: int = 5_000, *, done_id: int | None = None
    ) -> list[tuple[int, RawRecord]]:
        """Up to ``limit`` records in order of arrival, after ``last_id``.

        Those of boots that are closed are left out; with ``done_id`` only the ones that arrived up to it.
        """
        r = t.records.c
        closed = sa.select(t.boots.c.boot).where(t.boots.c.closed_ns.is_not(None))
        wanted: sa.ColumnElement[bool] = r.boot.not_in(closed)
        if done_id is not None:
            wanted = wanted | (r.id > done_id)
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
        with self._transaction() as connection:
            self._write_boot(connection, boot)
            added: set[tuple[int, int]] = set()
            if requests:
                q = t.requests.c
                insert = self._insert_new(t.requests).returning(q.process, q.sequence)
                added = {(row[0], row[1]) for row in connection.execute(insert, [_request(row) for row in requests])}
            new = [window for window in windows if not self._posted(connection, window)]
            for window in new:
                self._write_window(connection, boot, window)
            moved = [adjustment for adjustment in adjustments if self._note(connection, adjustment)]
            for adjustment in moved:
                self._write_adjustment(connection, boot, adjustment)
        return Posted(new, [row for row in requests if (row.key.process, row.key.sequence) in added], moved)

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
            )
            for row in rows
        ]

    def select(self, query: sa.Select[Any]) -> list[Any]:
        """Rows of a query on the ledger's tables."""
        with self._transaction() as connection:
            return list(connection.execute(query).all())

    # ---- inside --------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OverflowError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise LedgerError(f"ledger {_safe(str(self.engine.url))}: {reason}") from error

    def _insert_new(self, table: sa.Table) -> Any:
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        return insert(table).on_conflict_do_nothing()

    def _write_boot(self, connection: Connection, boot: Boot) -> None:
        values = {
            "boot": boot.boot,
            "engine": boot.engine,
            "kind": boot.kind,
            "model": boot.model,
            "gpu": boot.gpu,
            "gpu_count": boot.gpu_count,
            "price_version": boot.price_version,
            "wall_ns": boot.anchor.wall_ns,
            "mono_ns": boot.anchor.mono_ns,
            "started_ns": boot.started_ns,
        }
        connection.execute(self._insert_new(t.boots), [values])
        changing = {
            "closed_ns": boot.closed_ns,
            "bill_nano": boot.bill_nano,
            "lost": boot.lost,
            "energy_first_mj": boot.energy_first_mj,
            "energy_last_mj": boot.energy_last_mj,
            "refused": boot.refused,
        }
        connection.execute(sa.update(t.boots).where(t.boots.c.boot == boot.boot).values(**changing))

    def _posted(self, connection: Connection, window: SettledWindow) -> bool:
        w = t.windows.c
        query = sa.select(w.end_ns).where(
            w.boot == window.boot, w.engine_index == window.engine_index, w.start_ns == window.start_ns
        )
        return connection.execute(query).first() is not None

    def _write_window(self, connection: Connection, boot: Boot, window: SettledWindow) -> None:
        where = {"boot": window.boot, "engine_index": window.engine_index, "start_ns": window.start_ns}
        wall = {
            "wall_start_ns": boot.anchor.to_wall(window.start_ns),
            "wall_end_ns": boot.anchor.to_wall(window.end_ns),
        }
        connection.execute(
            sa.insert(t.windows),
            {
                **where,
                **wall,
                "end_ns": window.end_ns,
                "bill_nano": window.bill_nano,
                "busy_ns": window.busy_ns,
                "energy_mj": window.energy_mj,
                **{f"{phase}_ns": window.phase_ns.get(phase, 0) for phase in PHASES},
                **{kind: window.tokens.get(kind, 0) for kind in _WINDOW_TOKENS},
                "fit_version": window.fit_version,
                "features": json.dumps(window.features, sort_keys=True),
            },
        )
        fits = [
            {
                "version": fit.version,
                "boot": window.boot,
                "engine_index": window.engine_index,
                "method": fit.method,
                "evidence": _fit_evidence(fit),
            }
            for fit in (window.fit, window.energy_fit)
            if fit is not None
        ]
        if fits:
            connection.execute(self._insert_new(t.fits), fits)
        self._write_lines(connection, boot, window, "settled")
        shares = [(r.key, r.cost_nano, r.energy_mj, r.saved_nano) for r in window.requests]
        self._add_to_requests(connection, shares)

    def _note(self, connection: Connection, adjustment: Adjustment) -> bool:
        """Whether the adjustment was not in the books; it is noted then."""
        row = {
            "boot": adjustment.boot,
            "engine_index": adjustment.engine_index,
            "start_ns": adjustment.start_ns,
            "process": adjustment.key.process,
            "sequence": adjustment.key.sequence,
        }
        insert = self._insert_new(t.adjustments).returning(t.adjustments.c.sequence)
        return bool(connection.execute(insert, [row]).all())

    def _write_adjustment(self, connection: Connection, boot: Boot, adjustment: Adjustment) -> None:
        self._write_lines(connection, boot, adjustment, "adjusted")
        self._add_to_requests(connection, [(adjustment.key, adjustment.cost_nano, adjustment.energy_mj, 0)])

    def _write_lines(self, connection: Connection, boot: Boot, source: SettledWindow | Adjustment, state: str) -> None:
        lines = [
            {
                "boot": source.boot,
                "engine_index": source.engine_index,
                "start_ns": source.start_ns,
                "wall_start_ns": boot.anchor.to_wall(source.start_ns),
                "wall_end_ns": boot.anchor.to_wall(source.end_ns),
                "engine": boot.engine,
                "debit": posting.account,
                "credit": _SOURCE,
                "phase": posting.phase,
                "tenant": posting.tenant,
                "model": posting.model,
                "tier": posting.tier,
                "reason": posting.reason,
                "method": posting.method,
                "nano": posting.nano,
                "millijoules": posting.millijoules,
                "state": state,
                "fit_version": source.fit_version,
                "price_version": boot.price_version,
                "policy_version": POLICY_VERSION,
            }
            for posting in source.postings
        ]
        if lines:
            connection.execute(sa.insert(t.journal), lines)

    def _add_to_requests(
        self, connection: Connection, shares: Sequence[tuple[RecordKey, dict[str, int], int, int]]
    ) -> None:
        if not shares:
            return
        q = t.requests.c
        connection.execute(
            sa.update(t.requests)
            .where(
                q.boot == sa.bindparam("b_boot"),
                q.process == sa.bindparam("b_process"),
                q.sequence == sa.bindparam("b_sequence"),
            )
            .values(
                {
                    **{f"{phase}_nano": q[f"{phase}_nano"] + sa.bindparam(f"b_{phase}") for phase in PHASES},
                    "energy_mj": q.energy_mj + sa.bindparam("b_energy"),
                    "saved_nano": q.saved_nano + sa.bindparam("b_saved"),
                }
            ),
            [
                {
                    "b_boot": key.boot,
                    "b_process": key.process,
                    "b_sequence": key.sequence,
                    **{f"b_{phase}": cost_nano.get(phase, 0) for phase in PHASES},
                    "b_energy": energy_mj,
                    "b_saved": saved_nano,
                }
                for key, cost_nano, energy_mj, saved_nano in shares
            ],
        )


_WINDOW_TOKENS = ("prompt_computed", "prompt_cached", "engine_output", "encoder")


def _fit_evidence(fit: Fit) -> str:
    finite = {k: [low, None if high == float("inf") else high] for k, (low, high) in fit.intervals.items()}
    return json.dumps(
        {
            "coefficients": fit.coefficients,
            "intervals": finite,
            "walk_forward_wape": fit.walk_forward_wape,
            "windows": fit.windows,
        },
        sort_keys=True,
    )


def _request(row: RequestRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in RequestRow.__dataclass_fields__ if name != "key"}
    return {"boot": row.key.boot, "process": row.key.process, "sequence": row.key.sequence, **values}


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    # WAL lets the page read while intake writes; FULL makes an acknowledged record survive a power cut
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _safe(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not a database URL)"
