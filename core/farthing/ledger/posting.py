"""Writing to the books: boots, requests, windows and the journal, with the sums that reports read.

Everything here works on one connection inside one transaction of the ledger's. A line is posted in the period of its
service, or in the first open one when that is closed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from farthing.books.periods import period_of, posting_period
from farthing.domain.clock import HOUR
from farthing.domain.conventions import ADJUSTED, FINISHED, GPU_ALLOCATION, PHASES, POLICY_VERSION, SETTLED
from farthing.domain.model import Adjustment, Fit, SettledWindow
from farthing.ledger import tables as t
from farthing.ledger.partitions import make_room
from farthing.ledger.request_costs import RequestCosts
from farthing.ledger.rows import Boot, RequestRow

__all__ = ["Poster", "add_to", "closed_through", "insert_new", "keep_version"]

_WINDOW_TOKENS = ("prompt_computed", "prompt_cached", "engine_output", "encoder")
_REQUEST_TOKENS = ("prompt_computed", "prompt_cached", "image_tokens", "output_tokens")


def insert_new(connection: Connection, table: sa.Table) -> Any:
    """An INSERT that passes over rows whose key is there already."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def add_to(connection: Connection, table: sa.Table, sums: dict[tuple[Any, ...], tuple[int, ...]]) -> None:
    """Add to a table of sums: key columns -> amounts, in the order of the table's columns."""
    if not sums:
        return
    keys = [column.name for column in table.primary_key.columns]
    values = [column.name for column in table.columns if not column.primary_key]
    rows = [
        dict(zip((*keys, *values), (*key, *amounts), strict=True)) for key, amounts in sorted(sums.items(), key=_key)
    ]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert: Any = dialect.insert(table)
    added = {name: table.c[name] + insert.excluded[name] for name in values}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=added), rows)


def closed_through(connection: Connection) -> str | None:
    """The last closed period; None while none is."""
    return connection.execute(sa.select(sa.func.max(t.closings.c.period))).scalar()


def keep_version(connection: Connection, kind: str, version: str, content: str) -> None:
    """Remember what a version of a price or a policy stands for."""
    connection.execute(insert_new(connection, t.versions), [{"kind": kind, "version": version, "content": content}])


class Poster:
    """Writes one boot's news; make one for each transaction."""

    def __init__(self, connection: Connection, boot: Boot) -> None:
        self._connection = connection
        self._boot = boot
        self._closed_through = closed_through(connection)
        self._costs: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._lines: Counter[tuple[str, str, str]] = Counter()
        self._usage: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        self._savings: Counter[tuple[Any, ...]] = Counter()
        self._windows: defaultdict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        self._journal: list[dict[str, Any]] = []
        self._shares = RequestCosts(boot.boot)

    def boot(self) -> None:
        """Write the boot as it stands; who it is was said the first time.

        One that is read once more has said less than the books hold until it is where it was: it changes nothing.
        """
        boot, b = self._boot, t.boots.c
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
            "ranks": boot.ranks,
            "billed_from_ns": boot.billed_from_ns,
            "costing": boot.costing,
        }
        self._connection.execute(insert_new(self._connection, t.boots), [values])
        changing = {
            "closed_ns": boot.closed_ns,
            "bill_nano": boot.bill_nano,
            "lost": boot.lost,
            "energy_first_mj": boot.energy_first_mj,
            "energy_last_mj": boot.energy_last_mj,
            "refused": boot.refused,
            "covered_ns": boot.covered_ns,
            "price_version": boot.price_version,
            "read_id": boot.read_id,
            "gpu_uuids": json.dumps(boot.gpu_uuids),
            "ended_ns": boot.ended_ns,
            "given_up_ns": boot.given_up_ns,
            "costing": sa.case((b.costing == "", boot.costing), else_=b.costing),
        }
        newer = sa.update(t.boots).where(b.boot == boot.boot, b.read_id <= boot.read_id)
        self._connection.execute(newer.values(**changing))

    def requests(self, rows: Sequence[RequestRow]) -> list[RequestRow]:
        """Write those that are not there yet, and return them."""
        if not rows or self._sealed(t.requests):
            return []
        make_room(self._connection, "requests", (row.ended_wall_ns for row in rows))
        q = t.requests.c
        insert = insert_new(self._connection, t.requests).returning(q.process, q.sequence)
        added = {(row[0], row[1]) for row in self._connection.execute(insert, [_request(row) for row in rows])}
        new = [row for row in rows if (row.key.process, row.key.sequence) in added]
        for row in new:
            self._count(row)
        return new

    def windows(self, windows: Sequence[SettledWindow]) -> list[SettledWindow]:
        """Post those that are not there yet, and return them."""
        if not windows or self._sealed(t.windows):
            return []
        new = [window for window in windows if not self._posted(window)]
        for window in new:
            self._window(window)
        return new

    def adjustments(self, adjustments: Sequence[Adjustment]) -> list[Adjustment]:
        """Post those that are not there yet, and return them."""
        if not adjustments or self._sealed(t.windows):
            return []
        new = [adjustment for adjustment in adjustments if self._note(adjustment)]
        for adjustment in new:
            self._post(adjustment, ADJUSTED)
            start = self._boot.anchor.to_wall(adjustment.start_ns)
            self._shares.add(start, [(adjustment.key, adjustment.cost_nano, adjustment.energy_mj, 0)])
        return new

    def finish(self) -> None:
        """Write the journal's lines and add to the sums."""
        if self._journal:
            make_room(self._connection, "journal", (line["wall_start_ns"] for line in self._journal))
            self._connection.execute(sa.insert(t.journal), self._journal)
        self._shares.write(self._connection)
        tokens = ("requests", *_REQUEST_TOKENS, "uncounted", "one_sided")
        window_counts = [column.name for column in t.window_hours.columns if not column.primary_key]
        connection = self._connection
        add_to(connection, t.cost_hours, {key: (*amounts,) for key, amounts in self._costs.items()})
        add_to(connection, t.boot_lines, {key: (nano,) for key, nano in self._lines.items()})
        add_to(connection, t.usage_hours, {k: tuple(n[name] for name in tokens) for k, n in self._usage.items()})
        add_to(connection, t.saving_hours, {key: (nano,) for key, nano in self._savings.items()})
        add_to(
            connection, t.window_hours, {k: tuple(n[name] for name in window_counts) for k, n in self._windows.items()}
        )

    # ---- inside --------------------------------------------------------------------------------

    def _period(self, service_ns: int) -> str:
        return posting_period(period_of(service_ns), self._closed_through)

    def _sealed(self, table: sa.Table) -> bool:
        """Whether the boot's rows of a table were pruned: then all of them were in the books already."""
        s = t.seals.c
        query = sa.select(s.number).where(s.table_name == table.name, s.boot == self._boot.boot)
        return self._connection.execute(query).first() is not None

    def _posted(self, window: SettledWindow) -> bool:
        w = t.windows.c
        query = sa.select(w.end_ns).where(
            w.boot == window.boot, w.engine_index == window.engine_index, w.start_ns == window.start_ns
        )
        return self._connection.execute(query).first() is not None

    def _window(self, window: SettledWindow) -> None:
        to_wall = self._boot.anchor.to_wall
        start, end = to_wall(window.start_ns), to_wall(window.end_ns)
        phases = {f"{phase}_ns": window.phase_ns.get(phase, 0) for phase in PHASES}
        tokens = {kind: window.tokens.get(kind, 0) for kind in _WINDOW_TOKENS}
        self._connection.execute(
            sa.insert(t.windows),
            {
                "boot": window.boot,
                "engine_index": window.engine_index,
                "start_ns": window.start_ns,
                "end_ns": window.end_ns,
                "wall_start_ns": start,
                "wall_end_ns": end,
                "bill_nano": window.bill_nano,
                "busy_ns": window.busy_ns,
                "energy_mj": window.energy_mj,
                **phases,
                **tokens,
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
            self._connection.execute(insert_new(self._connection, t.fits), fits)
        hour = (end - 1) // HOUR
        counts = {"bill_nano": window.bill_nano, "busy_ns": window.busy_ns, "windows": 1, **phases, **tokens}
        self._windows[hour, self._boot.engine].update(counts)
        period = self._period(end - 1)
        for saver, nano in window.saved.items():
            self._savings[hour, period, self._boot.engine, *saver] += nano
        self._post(window, SETTLED)
        self._shares.add(start, ((r.key, r.cost_nano, r.energy_mj, r.saved_nano) for r in window.requests))

    def _note(self, adjustment: Adjustment) -> bool:
        """Whether the adjustment was not in the books; it is noted then."""
        row = {
            "boot": adjustment.boot,
            "engine_index": adjustment.engine_index,
            "start_ns": adjustment.start_ns,
            "process": adjustment.key.process,
            "sequence": adjustment.key.sequence,
        }
        insert = insert_new(self._connection, t.adjustments).returning(t.adjustments.c.sequence)
        return bool(self._connection.execute(insert, [row]).all())

    def _post(self, source: SettledWindow | Adjustment, state: str) -> None:
        boot = self._boot
        start, end = boot.anchor.to_wall(source.start_ns), boot.anchor.to_wall(source.end_ns)
        hour, service = (end - 1) // HOUR, period_of(end - 1)
        period = posting_period(service, self._closed_through)
        for p in source.postings:
            self._journal.append(
                {
                    "boot": source.boot,
                    "engine_index": source.engine_index,
                    "start_ns": source.start_ns,
                    "wall_start_ns": start,
                    "wall_end_ns": end,
                    "engine": boot.engine,
                    "debit": p.account,
                    "credit": GPU_ALLOCATION,
                    "phase": p.phase,
                    "tenant": p.tenant,
                    "project": p.project,
                    "model": p.model,
                    "tier": p.tier,
                    "reason": p.reason,
                    "method": p.method,
                    "nano": p.nano,
                    "millijoules": p.millijoules,
                    "state": state if period == service else ADJUSTED,
                    "period": period,
                    "fit_version": source.fit_version,
                    "price_version": boot.price_version,
                    "policy_version": POLICY_VERSION,
                }
            )
            who = (p.tenant, p.project, p.model, p.tier)
            sums = self._costs[hour, period, boot.engine, p.account, p.phase, *who, p.reason, p.method]
            sums[0] += p.nano
            sums[1] += max(0, -p.nano)
            sums[2] += p.millijoules
            self._lines[source.boot, period, p.account] += p.nano

    def _count(self, row: RequestRow) -> None:
        key = (
            row.ended_wall_ns // HOUR,
            self._period(row.ended_wall_ns),
            row.engine,
            *(row.tenant, row.project, row.model, row.tier),
            row.outcome,
        )
        counts = self._usage[key]
        counts["requests"] += 1
        for name in _REQUEST_TOKENS:
            counts[name] += getattr(row, name) or 0
        counts["uncounted"] += row.prompt_computed is None or row.output_tokens is None
        counts["one_sided"] += row.seen_by != "both" and row.outcome == FINISHED


def _key(item: tuple[tuple[Any, ...], Iterable[int]]) -> tuple[Any, ...]:
    return item[0]


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
