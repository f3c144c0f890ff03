"""What the ledger knows of a period: sums by who and what, boots, closings and statements."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.books.closing import Accrual, ClosingDocument, decode_closing, encode_closing
from farthing.books.facts import Cost, Usage
from farthing.books.periods import bounds, period_of
from farthing.books.statement import Statement, encode_statement, sha256_of
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, utc
from farthing.ledger import tables as t
from farthing.ledger.many_rows import add_to
from farthing.ledger.partitions import make_room
from farthing.ledger.posting import keep_version

__all__ = ["InputHashes", "PeriodBooks"]

_WHO = ("tenant", "project", "model", "tier")
_COUNTS = ("requests", "prompt_computed", "prompt_cached", "image_tokens", "output_tokens", "uncounted")
_DAY_HOURS = 24
_CHUNK = 2_000


class InputHashes:
    """SHA-256 over each boot's input records in order of arrival; goes on from where it stood, as records only grow.

    ``hash_line`` is what of a record is hashed.
    """

    def __init__(self, hash_line: Callable[[bytes], bytes]) -> None:
        self._hash_line = hash_line
        self._states: dict[tuple[str, ...], tuple[Any, int]] = {}

    def through(self, books: PeriodBooks, boots: Sequence[str], read_id: int) -> str:
        """The hexadecimal digest of some boots' records up to an id."""
        key = tuple(boots)
        digest, done_id = self._states.get(key, (hashlib.sha256(), 0))
        if done_id > read_id:
            digest, done_id = hashlib.sha256(), 0
        for _, line in books.inputs(boots, read_id, done_id):
            digest.update(self._hash_line(line))
        self._states[key] = digest, read_id
        return str(digest.hexdigest())


class PeriodBooks:
    """Reads and writes the books of periods on one connection, inside a transaction of the caller's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # ---- reading -------------------------------------------------------------------------------

    def active(self) -> list[str]:
        """Every period that anything was posted in or that was closed, in order.

        Before any is closed also the one that the first boot began in: what lies before a closed one is posted after.
        """
        posted = self._rows(sa.select(t.boot_lines.c.period).distinct())
        closed = self._rows(sa.select(t.closings.c.period))
        begun = [] if closed else self._rows(sa.select(sa.func.min(t.boots.c.started_ns)))
        periods = {row[0] for row in (*posted, *closed)}
        return sorted(periods | {period_of(int(row[0])) for row in begun if row[0] is not None})

    def closed(self) -> list[str]:
        """Closed periods, in order."""
        return [row[0] for row in self._rows(sa.select(t.closings.c.period).order_by(t.closings.c.period))]

    def closing(self, period: str) -> ClosingDocument | None:
        """The document of a closed period."""
        rows = self._rows(sa.select(t.closings.c.document).where(t.closings.c.period == period))
        return decode_closing(bytes(rows[0][0])) if rows else None

    def costs(self, period: str) -> tuple[Cost, ...]:
        """The journal's sums of a posting period, in a fixed order."""
        h = t.cost_hours.c
        keys = (h.account, h.phase, *(h[name] for name in _WHO), h.reason, h.method)
        sums = (sa.func.sum(h.nano), sa.func.sum(h.millijoules))
        found: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
        for service, row in self._by_service(period, t.cost_hours, keys, sums):
            amounts = found[service, *row[: len(keys)]]
            amounts[0] += int(row[-2])
            amounts[1] += int(row[-1])
        return tuple(Cost._make((*key, *amounts)) for key, amounts in sorted(found.items()) if any(amounts))

    def usage(self, period: str) -> tuple[Usage, ...]:
        """The requests of a posting period, in a fixed order."""
        u, s = t.usage_hours.c, t.saving_hours.c
        keys = (*(u[name] for name in _WHO), u.outcome)
        sums = tuple(sa.func.sum(u[name]) for name in _COUNTS)
        found: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for service, row in self._by_service(period, t.usage_hours, keys, sums):
            found[service, *row[: len(keys)]].update(
                {name: int(value) for name, value in zip(_COUNTS, row[len(keys) :], strict=True)}
            )
        saved: Counter[tuple[str, ...]] = Counter()
        saver = tuple(s[name] for name in _WHO)
        for service, row in self._by_service(period, t.saving_hours, saver, (sa.func.sum(s.nano),)):
            saved[service, *row[:-1]] += int(row[-1])
        for key in saved:
            found.setdefault((*key, c.FINISHED), Counter())
        return tuple(
            Usage._make((*key, *(counts[name] for name in _COUNTS), saved[key[:-1]] if key[-1] == c.FINISHED else 0))
            for key, counts in sorted(found.items())
        )

    def days(self, period: str) -> tuple[tuple[str, str, str, int], ...]:
        """(UTC date, tenant, account, nano) of the work of the period itself."""
        h, (start, _) = t.cost_hours.c, bounds(period)
        day = h.hour // _DAY_HOURS
        query = (
            sa.select(day, h.tenant, h.account, sa.func.sum(h.nano))
            .where(h.period == period, h.hour >= start // HOUR)
            .group_by(day, h.tenant, h.account)
        )
        rows = [(_date(int(row[0])), row[1], row[2], int(row[3])) for row in self._rows(query)]
        return tuple(sorted(row for row in rows if row[3]))

    def reach(self, end_ns: int) -> dict[str, dict[int, int]]:
        """boot -> rank -> where its posted windows end (UTC nanoseconds), of those that end by a moment."""
        w = t.windows.c
        query = sa.select(w.boot, w.engine_index, sa.func.max(w.wall_end_ns)).where(w.wall_end_ns <= end_ns)
        found: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for boot, rank, end in self._rows(query.group_by(w.boot, w.engine_index)):
            found[boot][int(rank)] = int(end)
        return found

    def requests(self, boot: str, since_ns: int = 0) -> int:
        """How many requests of a boot, that ended at a moment (UTC nanoseconds) or after it, are in the books."""
        q = t.requests.c
        query = sa.select(sa.func.count()).select_from(t.requests)
        rows = self._rows(query.where(q.boot == boot, q.ended_wall_ns >= since_ns))
        return int(rows[0][0])

    def boot_sums(self, period: str) -> Counter[str]:
        """boot -> nano-dollars posted in a period."""
        b = t.boot_lines.c
        query = sa.select(b.boot, sa.func.sum(b.nano)).where(b.period == period).group_by(b.boot)
        return Counter({boot: int(nano) for boot, nano in self._rows(query)})

    def version(self, kind: str, version: str) -> str | None:
        """What a version of a price or policy stands for; None when it was never kept."""
        v = t.versions.c
        rows = self._rows(sa.select(v.content).where(v.kind == kind, v.version == version))
        return str(rows[0][0]) if rows else None

    def fits(self) -> tuple[tuple[str, str, str], ...]:
        """(engine, method, evidence) of the latest fit of every boot."""
        f, b = t.fits.c, t.boots.c
        query = sa.select(b.engine, f.method, f.version, f.evidence).join(t.boots, b.boot == f.boot)
        return tuple((row[0], row[1], row[3]) for row in self._rows(query.order_by(b.engine, f.version)))

    def unpriced(self) -> list[tuple[int, bytes]]:
        """(id, line) of the starts of boots that never got into the books, as they were received."""
        r = t.records.c
        known = sa.select(t.boots.c.boot)
        query = sa.select(r.id, r.line).where(r.kind == "started", r.boot.not_in(known)).order_by(r.id)
        return [(int(row[0]), bytes(row[1])) for row in self._rows(query)]

    def inputs(self, boots: Sequence[str], read_id: int, after_id: int = 0) -> Iterable[tuple[Any, bytes]]:
        """(row, line) of the records of some boots after an id up to another, in order of arrival."""
        r = t.records.c
        last = after_id
        while True:
            query = sa.select(t.records).where(r.boot.in_(boots), r.id > last, r.id <= read_id).order_by(r.id)
            rows = self._rows(query.limit(_CHUNK))
            for row in rows:
                yield row, bytes(row.line)
            if len(rows) < _CHUNK:
                return
            last = rows[-1].id

    # ---- writing -------------------------------------------------------------------------------

    def post_accruals(self, period: str, accruals: Sequence[Accrual], policy_version: str) -> None:
        """Post what no running engine had in a period; of earlier ones, as adjustments."""
        costs: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
        lines: Counter[tuple[str, str, str]] = Counter()
        rows = []
        for accrual in accruals:
            service = period_of(accrual.end_ns - 1)
            boot = f"{c.CAPACITY_BOOT}{accrual.source}"[:128]
            rows.append(
                {
                    "boot": boot,
                    "engine_index": 0,
                    "start_ns": accrual.start_ns,
                    "wall_start_ns": accrual.start_ns,
                    "wall_end_ns": accrual.end_ns,
                    "engine": accrual.engine,
                    "debit": accrual.account,
                    "credit": c.CAPACITY,
                    "phase": "",
                    "tenant": "",
                    "project": "",
                    "model": "",
                    "tier": "",
                    "reason": accrual.reason,
                    "method": c.METERED,
                    "nano": accrual.nano,
                    "state": c.CLOSED if service == period else c.ADJUSTED,
                    "period": period,
                    "fit_version": "",
                    "price_version": accrual.price_version,
                    "policy_version": policy_version[:64],
                }
            )
            key = (accrual.account, "", "", "", "", "", accrual.reason, c.METERED)
            sums = costs[(accrual.end_ns - 1) // HOUR, period, accrual.engine, *key]
            sums[0] += accrual.nano
            sums[1] += max(0, -accrual.nano)
            lines[boot, period, accrual.account] += accrual.nano
        if rows:
            make_room(self._connection, "journal", (accrual.start_ns for accrual in accruals))
            self._connection.execute(sa.insert(t.journal), rows)
        add_to(self._connection, t.cost_hours, {key: tuple(amounts) for key, amounts in costs.items()})
        add_to(self._connection, t.boot_lines, {key: (nano,) for key, nano in lines.items()})

    def write(self, document: ClosingDocument, closing: dict[str, Any], statements: Sequence[Statement]) -> None:
        """Keep a closing and its statements for ever."""
        data = encode_closing(document)
        facts = document.facts
        self._connection.execute(
            sa.insert(t.closings),
            {
                "period": facts.period,
                "opening_wip_nano": facts.opening_wip_nano,
                "bill_nano": facts.bill_nano,
                "closing_wip_nano": facts.closing_wip_nano,
                "document": data,
                "sha256": sha256_of(data),
                **closing,
            },
        )
        for statement in statements:
            encoded = encode_statement(statement)
            self._connection.execute(
                sa.insert(t.statements),
                {
                    "number": statement.number,
                    "period": statement.period,
                    "tenant": statement.recipient.tenant,
                    "total_nano": statement.total_nano,
                    "document": encoded,
                    "sha256": sha256_of(encoded),
                },
            )
            names = [column.name for column in t.statement_lines.columns if column.name != "number"]
            rows = [
                {"number": statement.number, **{name: getattr(line, name) for name in names}}
                for line in statement.lines
            ]
            if rows:
                self._connection.execute(sa.insert(t.statement_lines), rows)

    def keep_version(self, kind: str, version: str, content: str) -> None:
        """Remember what a version stands for."""
        keep_version(self._connection, kind, version, content)

    # ---- inside --------------------------------------------------------------------------------

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        return self._connection.execute(query).all()

    def _by_service(
        self,
        period: str,
        table: sa.Table,
        keys: tuple[sa.ColumnElement[Any], ...],
        sums: tuple[sa.ColumnElement[Any], ...],
    ) -> Iterable[tuple[str, Sequence[Any]]]:
        """(service period, keys and sums) of what was posted in a period; most of it is the period's own."""
        start = bounds(period)[0] // HOUR
        own = sa.select(*keys, *sums).where(table.c.period == period, table.c.hour >= start).group_by(*keys)
        for row in self._rows(own):
            yield period, tuple(row)
        earlier = (
            sa.select(table.c.hour, *keys, *sums)
            .where(table.c.period == period, table.c.hour < start)
            .group_by(table.c.hour, *keys)
        )
        for row in self._rows(earlier):
            yield period_of(int(row[0]) * HOUR), tuple(row)[1:]


def _date(day: int) -> str:
    return f"{utc(day * _DAY_HOURS * HOUR):%Y-%m-%d}"
