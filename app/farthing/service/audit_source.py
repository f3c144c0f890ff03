"""What the ledger has for an audit trail: requests whose cost is settled, and what administrators did."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from farthing.audit.records import AuditedRequest, stamp
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.conventions import ASSUMED, METHODS, PHASES, SCRAPED_BOOT
from farthing.ledger import tables as t
from farthing.ledger.partitions import DAY
from farthing.ledger.repository import Ledger

__all__ = ["EVER", "PLACES", "PLACE_NANO", "AuditSource", "AuditedBoot", "Done", "Key", "pages"]

KEYS_AT_ONCE, REQUESTS_AT_ONCE = 10_000, 500
"""What is read at once."""
LONGEST_NS = 60 * SECOND
"""What a window lasts at most (``costing.window_seconds``)."""
EVER = 2**62
"""UTC nanoseconds after everything: all requests of a boot that ended are settled."""
_COSTS = tuple(f"{phase}_nano" for phase in PHASES)
PLACES, PLACE_NANO = 8_191, 1_048_573
"""Weights of requests in a sum that tells apart who has the money, and what their nano-dollars are taken modulo there.

Both are prime, and their product is small enough for 64 bits and a billion requests a day, whatever those cost."""
_SAID = (
    *("boot", "process", "sequence", "engine", "request_id", "trace_id", "tenant", "project", "workload", "tier"),
    *("model", "outcome", "status", "prompt_computed", "prompt_cached", "image_tokens", "output_tokens"),
)
Key = tuple[int, int]
"""Process and sequence of a request of a boot."""


@dataclass(frozen=True, slots=True)
class AuditedBoot:
    """How far the requests of a boot are settled."""

    boot: str
    engine: str
    anchor: Anchor
    ranks: int
    covered_ns: int
    """UTC; grows as long as something comes of it."""
    is_over: bool
    """No amount of it can change any more."""
    is_closed: bool
    """Nothing of it can change any more."""


@dataclass(frozen=True, slots=True)
class Done:
    """Something that administrators did: a kind of event, what tells it from others, and what is said of it."""

    kind: str
    key: str
    said: dict[str, Any]
    at_ns: int | None = None
    """UTC nanoseconds when it was done; None: nobody noted that, and it holds still."""


class _Line(msgspec.Struct):
    """The fields of a usage record that ``requests`` has no column for."""

    user: str = ""
    key_pseudonym: str = ""
    engine_index: int = 0
    arrived_ns: int = 0


class AuditSource:
    """Reads one ledger. Every method raises LedgerError when that fails."""

    def __init__(self, ledger: Ledger, window_seconds: int) -> None:
        self._ledger = ledger
        # the work for a request ends with it, or a step after its client hung up
        self._margin_ns = window_seconds * SECOND

    def boots(self) -> list[AuditedBoot]:
        """Every boot that has records of requests."""
        b = t.boots.c
        query = sa.select(
            *(b.boot, b.engine, b.wall_ns, b.mono_ns, b.ranks, b.covered_ns, b.ended_ns, b.closed_ns, b.given_up_ns)
        ).where(sa.not_(b.boot.startswith(SCRAPED_BOOT)))
        return [
            AuditedBoot(
                row.boot,
                row.engine,
                Anchor(row.wall_ns, row.mono_ns),
                row.ranks,
                row.covered_ns,
                is_over=(row.ended_ns, row.closed_ns, row.given_up_ns) != (None, None, None),
                is_closed=row.closed_ns is not None,
            )
            for row in self._ledger.select(query.order_by(b.started_ns, b.boot))
        ]

    def settled_until(self, boot: AuditedBoot) -> int:
        """UTC nanoseconds up to where requests of a boot have all of their cost when they ended; 0: nowhere yet."""
        if boot.is_over:
            return EVER
        w = t.windows.c
        ends = []
        for rank in range(boot.ranks):
            last = sa.select(w.wall_end_ns).where(w.boot == boot.boot, w.engine_index == rank)
            ends += self._ledger.select(last.order_by(w.start_ns.desc()).limit(1))
        return min(int(row[0]) for row in ends) - self._margin_ns if len(ends) == boot.ranks else 0

    def ended(self, after_ns: int, until_ns: int) -> Iterator[list[tuple[str, Key, int]]]:
        """(boot, key, UTC nanoseconds) of all requests that ended after one time and until another, some at once."""
        q = t.requests.c
        columns = (q.ended_wall_ns, q.boot, q.process, q.sequence)
        query = sa.select(*columns).where(q.ended_wall_ns <= until_ns)
        places = pages(self._ledger, query, columns, (after_ns, "\U0010ffff", 0, 0), KEYS_AT_ONCE, of_first=True)
        for rows in places:
            yield [(row.boot, (row.process, row.sequence), row.ended_wall_ns) for row in rows]

    def named(self, boot: AuditedBoot, keys: Iterable[Key]) -> Iterator[list[AuditedRequest]]:
        """Certain requests of a boot, in the order of their keys, some at once."""
        q = t.requests.c
        ordered = sorted(keys)
        for begin in range(0, len(ordered), REQUESTS_AT_ONCE):
            some = ordered[begin : begin + REQUESTS_AT_ONCE]
            by_process: dict[int, list[int]] = {}
            for process, sequence in some:
                by_process.setdefault(process, []).append(sequence)
            which = [sa.and_(q.process == one, q.sequence.in_(those)) for one, those in by_process.items()]
            rows = self._ledger.select(self._query().where(q.boot == boot.boot, sa.or_(*which)))
            yield self._audited(boot, rows)

    def sums(self, boot: str, after_ns: int, until_ns: int) -> dict[int, tuple[int, ...]]:
        """Day (since the epoch, UTC) -> how many requests of a boot ended on it, and their nano-dollars by phase.

        A last sum weighs them by request, so that money which went from one to another is seen.
        """
        q = t.requests.c
        day = q.ended_wall_ns.op("/")(DAY).label("day")
        cost = sum((q[name] for name in _COSTS[1:]), q[_COSTS[0]])
        placed = (cost % PLACE_NANO) * ((q.sequence + q.process) % PLACES)
        query = sa.select(day, sa.func.count(), *(sa.func.sum(q[name]) for name in _COSTS), sa.func.sum(placed))
        query = query.where(q.boot == boot, q.ended_wall_ns > after_ns, q.ended_wall_ns <= until_ns)
        return {int(row[0]): tuple(map(int, row[1:])) for row in self._ledger.select(query.group_by(sa.text("1")))}

    def costs(self, boot: str, after_ns: int, until_ns: int) -> Iterator[dict[Key, tuple[int, ...]]]:
        """Nano-dollars by phase of the requests of a boot that ended after one time and until another, some at once.

        In the order of their keys: by time, SQLite would sort all of the boot for each part.
        """
        q = t.requests.c
        key = (q.process, q.sequence)
        query = sa.select(*key, *(q[name] for name in _COSTS)).where(q.boot == boot)
        query = query.where(q.ended_wall_ns > after_ns, q.ended_wall_ns <= until_ns)
        for rows in pages(self._ledger, query, key, (-1, -1), KEYS_AT_ONCE):
            yield {(row[0], row[1]): tuple(map(int, row[2:])) for row in rows}

    def since(self) -> int | None:
        """UTC nanoseconds when the first request ended that there is; None without any."""
        [row] = self._ledger.select(sa.select(sa.func.min(t.requests.c.ended_wall_ns)))
        return None if row[0] is None else int(row[0])

    def last_id(self) -> int:
        """The record that arrived last."""
        return self._ledger.last_id()

    def done(self) -> Iterator[Done]:
        """What administrators did to the ledger, all of it."""
        for row in self._ledger.select(sa.select(t.versions.c.kind, t.versions.c.version)):
            yield Done(f"{row.kind}_version", row.version, {"version": row.version})
        for row in self._ledger.select(_columns(t.closings, "period", "closed_ns", "signed_by", "sha256")):
            said = {"period": row.period, "closed": stamp(row.closed_ns), "by": row.signed_by, "sha256": row.sha256}
            yield Done("period_closed", row.period, said, row.closed_ns)
        closed = t.statements.outerjoin(t.closings, t.closings.c.period == t.statements.c.period)
        issued = _columns(t.statements, "number", "tenant", "total_nano", "sha256").add_columns(t.closings.c.closed_ns)
        for row in self._ledger.select(issued.select_from(closed)):
            said = {"tenant": row.tenant, "total_nano": row.total_nano, "sha256": row.sha256}
            yield Done("statement_issued", row.number, {"number": row.number, **said}, row.closed_ns)
        for row in self._ledger.select(_columns(t.dispute_marks, "id", "number", "line", "at_ns", "marked_by", "mark")):
            said = {"number": row.number, "line": row.line, "mark": row.mark, "by": row.marked_by}
            yield Done("statement_marked", str(row.id), {**said, "marked": stamp(row.at_ns)}, row.at_ns)
        for row in self._ledger.select(
            _columns(t.seals, "number", "table_name", "period", "boot", "rows", "digest", "pruned_ns")
        ):
            said = {"table": row.table_name, "period": row.period, "boot": row.boot, "rows": row.rows}
            said |= {"sha256": row.digest, "pruned": stamp(row.pruned_ns)}
            yield Done("ledger_pruned", str(row.number), said, row.pruned_ns)
        for row in self._ledger.select(_columns(t.erasures, "number", "records", "at_ns")):
            said = {"records": row.records, "erased": stamp(row.at_ns)}
            yield Done("user_erased", str(row.number), said, row.at_ns)

    # ---- inside --------------------------------------------------------------------------------

    def _query(self) -> sa.Select[Any]:
        q, r = t.requests.c, t.records.c
        same = sa.and_(r.boot == q.boot, r.process == q.process, r.sequence == q.sequence)
        columns = (q[name] for name in (*_SAID, *_COSTS, "ended_wall_ns"))
        return sa.select(*columns, r.line).select_from(t.requests.outerjoin(t.records, same))

    def _audited(self, boot: AuditedBoot, rows: Sequence[Any]) -> list[AuditedRequest]:
        lines = [None if row.line is None else msgspec.json.decode(bytes(row.line), type=_Line) for row in rows]
        windows = self._methods(boot, rows, lines)
        return [_request(row, line, windows, boot) for row, line in zip(rows, lines, strict=True)]

    def _methods(
        self, boot: AuditedBoot, rows: Sequence[Any], lines: Sequence[_Line | None]
    ) -> dict[int, list[tuple[int, int, str]]]:
        """Engine index -> (begin, end, method) of windows that may have split the cost of requests, in order."""
        arrived = [line.arrived_ns for line in lines if line is not None]
        if not arrived:
            return {}
        last = boot.anchor.to_mono(max(row.ended_wall_ns for row in rows)) + self._margin_ns
        w, f = t.windows.c, t.fits.c
        same = sa.and_(f.version == w.fit_version, f.boot == w.boot, f.engine_index == w.engine_index)
        query = (
            sa.select(w.engine_index, w.start_ns, w.end_ns, f.method)
            .select_from(t.windows.outerjoin(t.fits, same))
            .where(w.boot == boot.boot, w.engine_index.in_(range(boot.ranks)))
            .where(w.start_ns >= min(arrived) - LONGEST_NS, w.start_ns <= last)
            .order_by(w.engine_index, w.start_ns)
        )
        found: dict[int, list[tuple[int, int, str]]] = {}
        for row in self._ledger.select(query):
            found.setdefault(row.engine_index, []).append((row.start_ns, row.end_ns, row.method or ASSUMED))
        return found


def pages(
    ledger: Ledger,
    query: sa.Select[Any],
    columns: Sequence[sa.Column[Any]],
    after: tuple[Any, ...],
    at_once: int,
    *,
    of_first: bool = False,
) -> Iterator[Sequence[Any]]:
    """Rows of a query whose first columns are these, in their order from after one place on, some at once.

    ``of_first``: an index of the first column alone is to be read; where one has them all, SQLite would no longer go
    to the place in it.
    """
    while True:
        later = query.where(sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, after)))
        if of_first:
            later = later.where(columns[0] >= after[0])
        rows = ledger.select(later.order_by(*columns).limit(at_once))
        yield rows
        if len(rows) < at_once:
            return
        after = tuple(rows[-1][: len(columns)])


def _columns(table: sa.Table, *names: str) -> sa.Select[Any]:
    return sa.select(*(table.c[name] for name in names)).order_by(*table.primary_key.columns)


def _request(
    row: Any, line: _Line | None, windows: dict[int, list[tuple[int, int, str]]], boot: AuditedBoot
) -> AuditedRequest:
    costs = tuple(int(row._mapping[name]) for name in _COSTS)
    methods: set[str] = set()
    if line is not None and any(costs):
        ended = boot.anchor.to_mono(row.ended_wall_ns)
        its = windows.get(line.engine_index, [])
        first = bisect_left(its, (line.arrived_ns - LONGEST_NS,))
        for begin, end, method in its[first:]:
            if begin > ended:
                break
            if end >= line.arrived_ns:
                methods.add(method)
    return AuditedRequest(
        **{name: row._mapping[name] for name in _SAID},
        ended_ns=row.ended_wall_ns,
        user=None if line is None else line.user,
        key="" if line is None else line.key_pseudonym,
        cost_nano=costs,
        methods=tuple(method for method in METHODS if method in methods),
    )
