"""What was spent, by tenant, project, tier, model, engine, account, phase or time; every report foots to the bill.

Reports read hourly sums and never the journal or the requests, so that they take as long for many requests as for few.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, utc
from farthing.domain.errors import ConfigError
from farthing.exporters.report import Cell, Column, ReportTable
from farthing.ledger import tables as t
from farthing.ledger.cost_sums import cost_sums
from farthing.ledger.engine_notes import Unpriced
from farthing.ledger.repository import Ledger
from farthing.service.hourly_spend import BORNE
from farthing.service.scope import Scope, hour_text
from farthing.service.unpriced import unpriced_in

__all__ = ["GROUPS", "Group", "report"]

Group = Literal["tenant", "project", "tier", "model", "engine", "account", "phase", "hour", "day", "month"]
GROUPS: tuple[Group, ...] = (
    "tenant",
    "project",
    "tier",
    "model",
    "engine",
    "account",
    "phase",
    "hour",
    "day",
    "month",
)

_WHO: Mapping[str, tuple[str, ...]] = {"tenant": ("tenant",), "project": ("project", "tenant"), "tier": ("tier",)}
_TIMES = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}
_BUSY = (c.CHARGED, c.ABORTED, c.UNATTRIBUTED)
_SELDOM = (c.ASLEEP, c.DRAINING, *c.CAPACITY_ACCOUNTS)
"""Accounts whose column a table may do without while nothing is in it."""
ENERGY = Column("energy_mj", "Energy, mJ", "integer", data=True)
"""Of what is settled, in millijoules by devices; none where it is not known."""
_MAY_BE_THEIRS = (
    f"{c.UNPRICED}: some engine had no price; what requests cost on it is in no amount here, and whose they were is "
    "not known."
)
_ORDER = {account: number for number, account in enumerate(c.BOOK_ACCOUNTS)}


@dataclass(frozen=True, slots=True)
class _Request:
    """What was asked for, and what every table needs."""

    ledger: Ledger
    scope: Scope
    by: Group
    unpriced: tuple[Unpriced, ...]

    @property
    def accounts(self) -> tuple[str, ...]:
        """Accounts that are shown: to who sees some tenants alone, those of what a tenant bears."""
        return c.BOOK_ACCOUNTS if self.scope.tenants is None else BORNE

    @property
    def whole(self) -> str:
        """What the line of totals is called."""
        return "Bill" if self.scope.tenants is None else "Total"


def report(
    ledger: Ledger,
    since: datetime,
    by: Group,
    currency: str,
    *,
    until: datetime | None = None,
    filters: Mapping[str, str | None] | None = None,
    tenants: frozenset[str] | None = None,
) -> ReportTable:
    """Settled cost of the hours from the one of ``since`` to before the one of ``until``, grouped.

    Its total is the bill of those hours, or with ``filters`` (tenant, project, model, engine) what they leave of it.
    With ``tenants`` it is for somebody who may see their rows alone: it has what they bore, and no account, engine,
    share or total that is anybody else's. Raises ConfigError for such a report of engines.
    """
    scope = Scope.of(since, until, filters, tenants)
    if tenants is not None and (by == "engine" or scope.engine is not None):
        raise ConfigError("engines are shared by tenants: this token sees no cost of one; leave engine out")
    request = _Request(ledger, scope, by, unpriced_in(ledger, scope))
    build = _by_who if by in _WHO else _by_line if by in {"phase", "account"} else _by_account
    columns, rows, total, methods = build(request)
    return ReportTable(
        columns=columns,
        rows=(*rows, *_unpriced_rows(request, columns)),
        total=total,
        notes=_notes(request, methods),
        title=f"Cost by {by}, {_period(ledger, scope)}",
        currency=currency,
    )


_Parts = tuple[tuple[Column, ...], list[tuple[Cell, ...]], tuple[Cell, ...], Counter[str]]
"""Columns, rows, the line of totals, and busy nano-dollars by method."""


def _by_who(request: _Request) -> _Parts:
    """A row for everyone who bore a cost, with what they used; what nobody bore has a row for each account."""
    keys = _WHO[request.by]
    cost: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    others: Counter[str] = Counter()
    methods: Counter[str] = Counter()
    energy: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for line in _lines(request, *keys, "account", "phase", "method"):
        bearer, (account, phase, method, nano, millijoules) = line[: len(keys)], line[len(keys) :]
        energy[bearer][account] += millijoules
        if account in _BUSY:
            methods[method] += nano
        if account in {c.CHARGED, c.ABORTED}:
            cost[bearer][phase if account == c.CHARGED else account] += nano
        else:
            others[account] += nano
    used = ("requests", "prompt_computed", "prompt_cached", "output_tokens")
    counts = _sums(request, t.usage_hours, keys, used)
    saved = _sums(request, t.saving_hours, keys, ("nano",))
    columns = (
        *(Column(key, key.capitalize()) for key in keys),
        Column("requests", "Requests", "integer"),
        Column("prompt_computed", "Prompt tokens", "integer"),
        Column("prompt_cached", "Cached tokens", "integer"),
        Column("output", "Output tokens", "integer"),
        Column("saved", "Saved by caches", "money"),
        ENERGY,
        *(Column(phase, phase.capitalize(), "money") for phase in c.PHASES),
        Column("aborted", "Aborted", "money"),
        Column("cost", "Total", "money"),
        Column("share", "Share", "ratio"),
    )
    # what caches saved stands with the tokens: it is no part of the sums to its right
    bill = sum(parts.total() for parts in cost.values()) + others.total()
    rows: list[tuple[Cell, ...]] = []
    for who in sorted({*cost, *counts}, key=lambda names: (-cost[names].total(), names)):
        parts = cost[who]
        money = [parts[name] for name in (*c.PHASES, c.ABORTED)]
        joules = sum(energy[who][account] for account in (c.CHARGED, c.ABORTED)) or None
        numbers = (*counts.get(who, (0,) * len(used)), *saved.get(who, (0,)), joules)
        rows.append((*(name or None for name in who), *numbers, *money, parts.total(), _share(parts.total(), bill)))
    before, after = (None,) * (len(columns) - len(c.PHASES) - 5), (None,) * (len(c.PHASES) + 1)
    rows += [
        (
            f"({account})",
            *before,
            sum(found[account] for found in energy.values()) or None,
            *after,
            others[account],
            _share(others[account], bill),
        )
        for account in sorted(others, key=_ORDER.__getitem__)
    ]
    sums: list[int | None] = [*_column_sums(rows, range(len(keys), len(columns) - 1))]
    joules_at = columns.index(ENERGY) - len(keys)
    sums[joules_at] = sums[joules_at] or None
    return columns, rows, (request.whole, *([""] * (len(keys) - 1)), *sums, 1.0 if bill else None), methods


def _by_account(request: _Request) -> _Parts:
    """A row for every model, engine or time, with a column for each account."""
    name: Callable[[Any], str] = str
    key = request.by
    if request.by in _TIMES:
        key, shown = "hour", _TIMES[request.by]

        def name(hour: Any) -> str:
            return f"{utc(int(hour) * HOUR):{shown}}"

    cells: defaultdict[str, Counter[str]] = defaultdict(Counter)
    methods: Counter[str] = Counter()
    for value, account, method, nano, _ in _lines(request, key, "account", "method"):
        cells[name(value)][account] += nano
        if account in _BUSY:
            methods[method] += nano
    columns = (
        Column(request.by, request.by.capitalize()),
        *(Column(a, _title(a), "money", spare=a in _SELDOM) for a in request.accounts),
        Column("bill", "Bill", "money"),
    )
    rows: list[tuple[Cell, ...]] = []
    for value in sorted(cells):
        amounts = [cells[value][account] for account in request.accounts]
        rows.append((value or None, *amounts, sum(amounts)))
    return columns, rows, (request.whole, *_column_sums(rows, range(1, len(columns)))), methods


def _by_line(request: _Request) -> _Parts:
    """A row for every account, with its phase and method, or with its reason."""
    keys = ("account", "phase", "method") if request.by == "phase" else ("account", "reason")
    sums: Counter[tuple[str, ...]] = Counter()
    energy: Counter[tuple[str, ...]] = Counter()
    methods: Counter[str] = Counter()
    for account, phase, method, reason, nano, millijoules in _lines(request, "account", "phase", "method", "reason"):
        line = {"account": account, "phase": phase, "method": method, "reason": reason}
        told = tuple(line[key] for key in keys)
        sums[told] += nano
        energy[told] += millijoules
        if account in _BUSY:
            methods[method] += nano
    bill = sums.total()
    columns = (
        *(Column(key, key.capitalize()) for key in keys),
        Column("cost", "Cost", "money"),
        Column("share", "Share", "ratio"),
        ENERGY,
    )
    rows: list[tuple[Cell, ...]] = [
        (*key, sums[key], _share(sums[key], bill), energy[key] or None)
        for key in sorted(sums, key=lambda key: (_ORDER[key[0]], key))
    ]
    total = (request.whole, *([""] * (len(keys) - 1)), bill, 1.0 if bill else None, energy.total() or None)
    return columns, rows, total, methods


def _lines(request: _Request, *keys: str) -> list[tuple[Any, ...]]:
    """(keys …, nano-dollars, millijoules) of the hourly sums of cost."""
    o = t.cost_hours.c
    where = [*request.scope.where(o), *_borne(request.scope, o)]
    found = cost_sums(request.ledger, keys, where, ("nano", "millijoules"))
    return [(*key, *amounts) for key, amounts in found.items()]


def _borne(scope: Scope, columns: Any) -> list[sa.ColumnElement[bool]]:
    return [] if scope.tenants is None else [columns.account.in_(BORNE)]


def _sums(
    request: _Request, table: sa.Table, keys: Sequence[str], amounts: Sequence[str]
) -> dict[tuple[str, ...], tuple[int, ...]]:
    columns = [table.c[key] for key in keys]
    query = sa.select(*columns, *(sa.func.sum(table.c[name]) for name in amounts))
    rows = request.ledger.select(query.where(*request.scope.where(table.c)).group_by(*columns))
    return {tuple(row[: len(keys)]): tuple(int(value) for value in row[len(keys) :]) for row in rows}


def _unpriced_rows(request: _Request, columns: Sequence[Column]) -> list[tuple[Cell, ...]]:
    """A row for every engine without a price: what it cost is not known, and not 0."""
    last = max(i for i, column in enumerate(columns) if column.kind == "money")
    rest = [c.UNPRICED if i == last else None for i in range(1, len(columns))]
    if request.scope.tenants is not None:
        # an engine, and the model that it serves, may be somebody else's
        return [(f"({c.UNPRICED})", *rest)] if request.unpriced else []
    rows: list[tuple[Cell, ...]] = []
    for engine in request.unpriced:
        named = engine.model if request.by == "model" else engine.engine if request.by == "engine" else ""
        rows.append((named or f"({c.UNPRICED}: {engine.engine})", *rest))
    return rows


def _notes(request: _Request, methods: Counter[str]) -> tuple[str, ...]:
    notes = []
    total = methods.total()
    if total:
        parts = ", ".join(f"{method} {nano / total:.1%}" for method, nano in sorted(methods.items()))
        notes.append(f"Busy time is metered; its split over phases is {parts}.")
        notes.append("Work in progress is not in this report.")
    else:
        notes.append("Nothing is settled in this period.")
    scope = request.scope
    filters = scope.filters
    if scope.tenants is not None:
        filters = {"tenant": ", ".join(sorted(scope.tenants)) or "nobody", **filters}
    if filters:
        named = " and ".join(f"{key} {name}" for key, name in filters.items())
        notes.append(f"Only {named}: the total is theirs, not the whole bill.")
    if scope.tenants is not None:
        return (*notes, *([_MAY_BE_THEIRS] if request.unpriced else ()))
    notes += [
        f"{c.UNPRICED}: engine {engine.engine} (model {engine.model}, GPU {engine.gpu or c.UNKNOWN}) since "
        f"{utc(engine.since_ns):%Y-%m-%d %H:%M} UTC; what it cost is in no amount here. {engine.reason}"
        for engine in request.unpriced
    ]
    return tuple(notes)


def _period(ledger: Ledger, scope: Scope) -> str:
    """From and to, in whole hours; what was not limited is limited by what is in the books."""
    o = t.cost_hours.c
    where = scope.hours(o) if scope.tenants is None else [*scope.where(o), *_borne(scope, o)]
    bounds = []
    for bound in (sa.func.min, sa.func.max):
        ((hour,),) = ledger.select(sa.select(bound(o.hour)).where(*where))
        bounds.append(hour)
    first, last = bounds
    start = scope.start_hour or first
    end = scope.end_hour if scope.end_hour is not None else None if last is None else int(last) + 1
    if start is None:
        return "with nothing settled"
    if end is None:
        return f"from {hour_text(int(start))} UTC"
    return f"{hour_text(int(start))} to {hour_text(int(end))} UTC"


def _title(account: str) -> str:
    return account.replace("_", " ").capitalize()


def _share(nano: int, bill: int) -> float | None:
    return nano / bill if bill else None


def _column_sums(rows: Sequence[tuple[Cell, ...]], columns: range) -> list[int]:
    return [sum(cell for row in rows if isinstance(cell := row[i], int)) for i in columns]
