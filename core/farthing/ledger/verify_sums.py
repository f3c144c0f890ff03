"""The tables of sums against what they sum up: journal, requests and windows, and the seals of what was pruned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.books.periods import bounds, parse_period
from farthing.domain.clock import HOUR
from farthing.domain.conventions import FINISHED, PHASES
from farthing.domain.errors import PeriodError
from farthing.ledger import tables as t
from farthing.ledger.seals import Sealed, add, digest_of, nonzero

__all__ = [
    "USAGE",
    "WHO",
    "WINDOW",
    "Found",
    "Scope",
    "boot_lines_are_the_journals",
    "cost_hours_are_the_journals",
    "cost_hours_digest",
    "difference",
    "journal_costs",
    "named",
    "request_savings",
    "request_usage",
    "saving_hours_are_the_requests",
    "stream",
    "usage_hours_are_the_requests",
    "window_hours_are_the_windows",
    "window_sums",
]

WHO = ("tenant", "project", "model", "tier")
USAGE = ("requests", "prompt_computed", "prompt_cached", "image_tokens", "output_tokens", "uncounted", "one_sided")
WINDOW = tuple(column.name for column in t.window_hours.columns if not column.primary_key)
_ROWS = 2_000

Select = sa.Select[Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What a check came to: how many rows it looked at, and the first that is wrong, if any."""

    rows: int
    bad: str = ""


class Scope:
    """A moment of a ledger, and what of it is sealed."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sealed = Sealed(connection)

    def rows(self, query: Select) -> Sequence[Any]:
        """All rows of a query that has few."""
        return self.connection.execute(query).all()

    def count(self, table: sa.Table) -> int:
        """How many rows a table has."""
        return int(self.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())

    def live(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Rows of boots whose rows of the table are not sealed."""
        return self.live_in(table.c.boot, table.name)

    def live_in(self, boot: sa.ColumnElement[str], table: str) -> sa.ColumnElement[bool]:
        """Boots whose rows of a table are not sealed."""
        s = t.seals.c
        return boot.not_in(sa.select(s.boot).where(s.table_name == table))

    def unsealed(self) -> sa.ColumnElement[bool]:
        """Journal rows that are not sealed."""
        return t.journal.c.period > self.sealed.journal_through


def named(keys: Sequence[str], values: Sequence[Any]) -> str:
    """A row by its key, for people."""
    return ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True) if value != "")


def stream(connection: Connection, query: Select) -> Iterator[Any]:
    """Rows of a query that has many, a few at a time."""
    result = connection.execute(query.execution_options(stream_results=True, max_row_buffer=_ROWS))
    for chunk in result.partitions(_ROWS):
        yield from chunk


def _ordered(connection: Connection, columns: Sequence[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
    """Columns to order by so that every database agrees: texts by their bytes."""
    if connection.dialect.name == "sqlite":
        return list(columns)
    return [sa.collate(column, "C") if isinstance(column.type, sa.String) else column for column in columns]


# ---- the checks --------------------------------------------------------------------------------------


def cost_hours_are_the_journals(scope: Scope) -> Found:
    """Costs by the hour are the sums of the journal, of sealed periods those of the seal, row by row."""
    h, sealed = t.cost_hours.c, scope.sealed
    keys = tuple(column.name for column in t.cost_hours.primary_key.columns)
    amounts = ("nano", "late_nano", "millijoules")
    rows = scope.count(t.cost_hours)
    kept = sa.select(*(h[name] for name in (*keys, *amounts))).where(h.period > sealed.journal_through)
    bad = _first(scope, "cost_hours", difference(kept, journal_costs(scope.unsealed()), keys, amounts), keys)
    if bad:
        return Found(rows, bad)
    coarse = keys[2:]
    sums = Counter[tuple[Any, ...]]()
    query = sa.select(*(h[name] for name in coarse), *(sa.func.sum(h[name]) for name in amounts))
    for row in scope.rows(query.where(h.period <= sealed.journal_through).group_by(*(h[name] for name in coarse))):
        add(sums, row, len(coarse))
    expected = sealed.sums("journal", "cost_hours", len(coarse))
    return Found(rows, _unequal("cost_hours", coarse, sums, expected) or _altered_period(scope))


def boot_lines_are_the_journals(scope: Scope) -> Found:
    """Lines by boot are the sums of the journal, of sealed periods those of the seal."""
    b, j = t.boot_lines.c, t.journal.c
    keys, through = ("boot", "period", "account"), scope.sealed.journal_through
    rows = scope.count(t.boot_lines)
    kept = sa.select(b.boot, b.period, b.account, b.nano).where(b.period > through)
    posted = sa.select(j.boot, j.period, j.debit.label("account"), j.nano).where(scope.unsealed())
    bad = _first(scope, "boot_lines", difference(kept, posted, keys, ("nano",)), keys)
    sums = Counter[tuple[Any, ...]]()
    for row in scope.rows(sa.select(b.boot, b.period, b.account, b.nano).where(b.period <= through)):
        add(sums, row, len(keys))
    return Found(rows, bad or _unequal("boot_lines", keys, sums, scope.sealed.sums("journal", "boot_lines", len(keys))))


def usage_hours_are_the_requests(scope: Scope) -> Found:
    """Requests and tokens by the hour are those of the requests; up to the last sealed hour, in total."""
    u, q = t.usage_hours.c, t.requests.c
    last = scope.sealed.last_hour("requests")
    rows = scope.count(t.usage_hours)
    keys = ("hour", "engine", *WHO, "outcome")
    kept = sa.select(*(u[name] for name in (*keys, *USAGE)))
    counted = request_usage(scope.live(t.requests))
    late = q.ended_wall_ns >= (last + 1) * HOUR
    bad = _first(scope, "usage_hours", difference(kept.where(u.hour > last), counted.where(late), keys, USAGE), keys)
    if not bad:
        coarse = keys[1:]
        found = difference(kept.where(u.hour <= last), counted.where(~late), coarse, USAGE)
        bad = _against_seals(scope, "usage_hours", found, coarse, ("requests", "usage"))
    return Found(rows, bad or _posted_too_early(scope, keys))


def saving_hours_are_the_requests(scope: Scope) -> Found:
    """What caches saved is what they saved the requests, in total: nothing else says in which hour."""
    s = t.saving_hours.c
    keys = ("engine", *WHO)
    kept = sa.select(*(s[name] for name in keys), s.nano)
    found = difference(kept, request_savings(scope.live(t.requests)), keys, ("nano",))
    bad = _against_seals(scope, "saving_hours", found, keys, ("requests", "saved"))
    if not bad:
        w, c = t.window_hours.c, t.cost_hours.c
        hours = sa.select(w.hour).where(w.hour == s.hour, w.engine == s.engine)
        periods = sa.select(c.period).where(c.hour == s.hour, c.engine == s.engine, c.period == s.period)
        strange = sa.select(s.hour, s.period, *(s[name] for name in keys)).where(~hours.exists() | ~periods.exists())
        bad = _first(scope, "saving_hours", strange, ("hour", "period", *keys))
    return Found(scope.count(t.saving_hours), bad)


def window_hours_are_the_windows(scope: Scope) -> Found:
    """Bill, busy time and tokens by the hour are those of the windows; up to the last sealed hour, in total."""
    h, w = t.window_hours.c, t.windows.c
    last = scope.sealed.last_hour("windows")
    kept = sa.select(*(h[name] for name in ("hour", "engine", *WINDOW)))
    summed = window_sums(scope.live(t.windows))
    late = w.wall_end_ns > (last + 1) * HOUR
    keys = ("hour", "engine")
    found = difference(kept.where(h.hour > last), summed.where(late), keys, WINDOW)
    bad = _first(scope, "window_hours", found, keys)
    if not bad:
        found = difference(kept.where(h.hour <= last), summed.where(~late), ("engine",), WINDOW)
        bad = _against_seals(scope, "window_hours", found, ("engine",), ("windows", "sums"))
    return Found(scope.count(t.window_hours), bad)


# ---- the rows behind the sums ------------------------------------------------------------------------


def journal_costs(wanted: sa.ColumnElement[bool]) -> Select:
    """Journal rows as what they add to ``cost_hours``."""
    j = t.journal.c
    late = sa.case((j.nano < 0, -j.nano), else_=0).label("late_nano")
    keys = (((j.wall_end_ns - 1) // HOUR).label("hour"), j.period, j.engine, j.debit.label("account"), j.phase)
    who = (*(j[name] for name in WHO), j.reason, j.method)
    return sa.select(*keys, *who, j.nano, late, j.millijoules).where(wanted)


def request_usage(wanted: sa.ColumnElement[bool]) -> Select:
    """Requests as what they add to ``usage_hours``, whatever they were posted in."""
    q = t.requests.c
    tokens = [sa.func.coalesce(q[name], 0).label(name) for name in USAGE[1:5]]
    unknown = sa.case((q.prompt_computed.is_(None) | q.output_tokens.is_(None), 1), else_=0).label("uncounted")
    one_sided = sa.case(((q.seen_by != "both") & (q.outcome == FINISHED), 1), else_=0).label("one_sided")
    keys = ((q.ended_wall_ns // HOUR).label("hour"), q.engine, *(q[name] for name in WHO), q.outcome)
    return sa.select(*keys, sa.literal(1).label("requests"), *tokens, unknown, one_sided).where(wanted)


def request_savings(wanted: sa.ColumnElement[bool]) -> Select:
    """Requests as what they add to ``saving_hours``, in whatever hour."""
    q = t.requests.c
    return sa.select(q.engine, *(q[name] for name in WHO), q.saved_nano.label("nano")).where(wanted)


def window_sums(wanted: sa.ColumnElement[bool]) -> Select:
    """Windows as what they add to ``window_hours``."""
    w, b = t.windows.c, t.boots.c
    counted = {"bill_nano": w.bill_nano, "busy_ns": w.busy_ns, "windows": sa.literal(1).label("windows")}
    counted |= {f"{phase}_ns": w[f"{phase}_ns"] for phase in PHASES}
    amounts = [counted.get(name, t.windows.c.get(name)) for name in WINDOW]
    keys = (((w.wall_end_ns - 1) // HOUR).label("hour"), b.engine)
    return sa.select(*keys, *amounts).join_from(t.windows, t.boots, w.boot == b.boot).where(wanted)


def cost_hours_digest(connection: Connection, period: str) -> str:
    """SHA-256 over the rows of ``cost_hours`` of a period, in the order of their keys."""
    h = t.cost_hours.c
    keys = _ordered(connection, list(t.cost_hours.primary_key.columns))
    query = sa.select(t.cost_hours).where(h.period == period).order_by(*keys)
    return digest_of(stream(connection, query))[1]


# ---- comparing ---------------------------------------------------------------------------------------


def difference(left: Select, right: Select, keys: Sequence[str], amounts: Sequence[str]) -> Select:
    """(keys, left - right) of every key under which the sums of two queries' amounts differ."""
    kept, found = left.subquery(), right.subquery()
    both = sa.union_all(
        sa.select(*(kept.c[name] for name in (*keys, *amounts))),
        sa.select(*(found.c[name] for name in keys), *((-found.c[name]).label(name) for name in amounts)),
    ).subquery()
    sums = [sa.func.sum(both.c[name]) for name in amounts]
    columns = [both.c[name] for name in keys]
    query = sa.select(*columns, *sums).group_by(*columns)
    return query.having(sa.or_(*(amount != 0 for amount in sums))).order_by(*columns)


def _first(scope: Scope, table: str, query: Select, keys: Sequence[str]) -> str:
    row = scope.connection.execute(query.limit(1)).first()
    if row is None:
        return ""
    off = [str(int(amount)) for amount in row[len(keys) :] if amount]
    by = f" differs from its rows by {', '.join(off)}" if off else " cannot be"
    return f"{table}: {named(keys, row[: len(keys)])}{by}"


def _against_seals(scope: Scope, table: str, difference: Select, keys: Sequence[str], seal: tuple[str, str]) -> str:
    """What the sums have beyond the live rows is what seals say."""
    expected = scope.sealed.sums(*seal, len(keys))
    if not expected:
        return _first(scope, table, difference, keys)
    sums = Counter[tuple[Any, ...]]()
    for row in scope.rows(difference):
        add(sums, row, len(keys))
    return _unequal(table, keys, sums, expected)


def _unequal(
    table: str, keys: Sequence[str], found: Counter[tuple[Any, ...]], expected: Counter[tuple[Any, ...]]
) -> str:
    sums = nonzero(found)
    for key in sorted(sums.keys() | expected.keys()):
        if sums[key] != expected[key]:
            off = sums[key] - expected[key]
            return f"{table}: {named(keys, key[:-1])} differs from its rows and seals by {off}"
    return ""


def _altered_period(scope: Scope) -> str:
    s = t.seals.c
    for period in sorted(scope.sealed.journal_periods):
        sums = sa.select(s.sums).where(s.table_name == "journal", s.period == period)
        if cost_hours_digest(scope.connection, period) not in str(scope.connection.execute(sums).scalar()):
            return f"cost_hours: period {period} is not as it was sealed"
    return ""


def _posted_too_early(scope: Scope, keys: Sequence[str]) -> str:
    """The work of a month is never posted in a month before it."""
    u = t.usage_hours.c
    for (period,) in scope.rows(sa.select(u.period).distinct().order_by(u.period)):
        try:
            parse_period(period)
        except PeriodError as error:
            return f"usage_hours: {error}"
        columns = [u[name] for name in keys]
        early = sa.select(*columns).where(u.period == period, u.hour >= bounds(period)[1] // HOUR)
        if bad := _first(scope, f"usage_hours of {period}", early, keys):
            return bad
    return ""
