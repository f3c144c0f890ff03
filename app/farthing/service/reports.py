"""What was spent, by tenant, model, engine, phase or day; every report foots to the bill."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND, utc
from farthing.domain.errors import ConfigError
from farthing.exporters.report import Cell, Column, ReportTable
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

__all__ = ["GROUPS", "Group", "parse_since", "report"]

Group = Literal["tenant", "model", "engine", "phase", "day"]
GROUPS: tuple[Group, ...] = ("tenant", "model", "engine", "phase", "day")

_DURATION = re.compile(r"^(\d+)([smhdw])$")
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY_NS = 86_400 * SECOND
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""No ledger reaches further back."""


def parse_since(text: str, now: datetime) -> datetime:
    """When a report starts.

    ``text`` is a duration (``90m``, ``24h``, ``7d``, ``2w``), ``today``, ``month``, ``all``, or a UTC date or time.
    Raises ConfigError naming what was given.
    """
    found = _DURATION.match(text)
    if found:
        try:
            return max(_BEGINNING, now - timedelta(**{_UNIT[found.group(2)]: int(found.group(1))}))
        except OverflowError:
            return _BEGINNING
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"today": midnight, "month": midnight.replace(day=1), "all": _BEGINNING}
    if text in named:
        return named[text]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--since {text!r}: give a duration (24h, 7d), today, month, all, or a date such as 2026-11-01"
        ) from error
    return max(_BEGINNING, moment.replace(tzinfo=moment.tzinfo or UTC))


def report(ledger: Ledger, since: datetime, by: Group, currency: str) -> ReportTable:
    """Settled cost of windows that began at or after ``since``, grouped; its total is their bill."""
    since_ns = round(since.timestamp()) * SECOND
    build = _by_tenant if by == "tenant" else _by_phase if by == "phase" else _by_account
    return build(ledger, since_ns, by, currency)


def _notes(ledger: Ledger, since_ns: int) -> tuple[str, ...]:
    j = t.journal.c
    busy = (j.wall_start_ns >= since_ns, j.debit.in_((c.CHARGED, c.ABORTED, c.UNATTRIBUTED)))
    methods = ledger.select(sa.select(j.method, sa.func.sum(j.nano)).where(*busy).group_by(j.method).order_by(j.method))
    total = sum(int(nano) for _, nano in methods)
    if not total:
        return ("Nothing is settled in this period.",)
    parts = ", ".join(f"{method} {int(nano) / total:.1%}" for method, nano in methods)
    return (f"Busy time is metered; its split over phases is {parts}.", "Work in progress is not in this report.")


def _lines(ledger: Ledger, since_ns: int, *keys: sa.ColumnElement[Any]) -> list[Any]:
    j = t.journal.c
    query = sa.select(*keys, sa.func.sum(j.nano).label("nano")).where(j.wall_start_ns >= since_ns).group_by(*keys)
    return ledger.select(query)


def _by_tenant(ledger: Ledger, since_ns: int, by: Group, currency: str) -> ReportTable:
    j, q = t.journal.c, t.requests.c
    cost: defaultdict[str, dict[str, int]] = defaultdict(dict)
    others: defaultdict[str, int] = defaultdict(int)
    for debit, phase, tenant, nano in _lines(ledger, since_ns, j.debit, j.phase, j.tenant):
        if debit == c.CHARGED:
            cost[tenant][phase] = int(nano)
        elif debit == c.ABORTED:
            cost[tenant][c.ABORTED] = cost[tenant].get(c.ABORTED, 0) + int(nano)
        else:
            others[debit] += int(nano)
    summed = (q.prompt_computed, q.prompt_cached, q.output_tokens, q.saved_nano)
    sums = [sa.func.count(), *(sa.func.sum(col) for col in summed)]
    counted = sa.select(q.tenant, *sums).where(q.ended_wall_ns >= since_ns).group_by(q.tenant)
    counts = {row[0]: tuple(int(value or 0) for value in row[1:]) for row in ledger.select(counted)}
    columns = (
        Column("tenant", "Tenant"),
        Column("requests", "Requests", "integer"),
        Column("prompt_computed", "Prompt tokens", "integer"),
        Column("prompt_cached", "Cached tokens", "integer"),
        Column("output", "Output tokens", "integer"),
        Column("saved", "Saved by caches", "money"),
        *(Column(phase, phase.capitalize(), "money") for phase in c.PHASES),
        Column("aborted", "Aborted", "money"),
        Column("cost", "Total", "money"),
        Column("share", "Share", "ratio"),
    )
    # what caches saved stands with the tokens: it is no part of the sums to its right
    bill = sum(sum(parts.values()) for parts in cost.values()) + sum(others.values())
    rows: list[tuple[Cell, ...]] = []
    for tenant in sorted({*cost, *counts}, key=lambda name: (-sum(cost[name].values()), name)):
        parts, total = cost[tenant], sum(cost[tenant].values())
        money = [parts.get(name, 0) for name in (*c.PHASES, c.ABORTED)]
        rows.append((tenant, *counts.get(tenant, (0,) * 5), *money, total, total / bill if bill else None))
    for account, nano in sorted(others.items()):
        rows.append((f"({account})", *([None] * 9), nano, nano / bill if bill else None))
    total_row: tuple[Cell, ...] = ("Bill", *_column_sums(rows, range(1, 11)), 1.0 if bill else None)
    return _table(columns, rows, total_row, _notes(ledger, since_ns), currency, f"Cost by {by}")


def _by_account(ledger: Ledger, since_ns: int, by: Group, currency: str) -> ReportTable:
    j = t.journal.c
    key: sa.ColumnElement[Any] = {"model": j.model, "engine": j.engine}.get(by, j.wall_start_ns // _DAY_NS)
    name: Callable[[Any], str] = (lambda day: f"{utc(int(day) * _DAY_NS):%Y-%m-%d}") if by == "day" else str
    cells: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for value, debit, nano in _lines(ledger, since_ns, key, j.debit):
        cells[name(value)][debit] += int(nano)
    columns = (
        Column(by, by.capitalize()),
        *(Column(account, account.capitalize(), "money") for account in c.ACCOUNTS),
        Column("bill", "Bill", "money"),
    )
    rows: list[tuple[Cell, ...]] = []
    for value in sorted(cells):
        amounts = [cells[value][account] for account in c.ACCOUNTS]
        rows.append((value, *amounts, sum(amounts)))
    total: tuple[Cell, ...] = ("Bill", *_column_sums(rows, range(1, len(columns))))
    return _table(columns, rows, total, _notes(ledger, since_ns), currency, f"Cost by {by}")


def _by_phase(ledger: Ledger, since_ns: int, by: Group, currency: str) -> ReportTable:
    j = t.journal.c
    lines = _lines(ledger, since_ns, j.debit, j.phase, j.method)
    order = {account: number for number, account in enumerate(c.ACCOUNTS)}
    lines.sort(key=lambda row: (order[row.debit], row.phase, row.method))
    bill = sum(int(row.nano) for row in lines)
    columns = (
        Column("account", "Account"),
        Column("phase", "Phase"),
        Column("method", "Method"),
        Column("cost", "Cost", "money"),
        Column("share", "Share", "ratio"),
    )
    rows: list[tuple[Cell, ...]] = [
        (row.debit, row.phase, row.method, int(row.nano), int(row.nano) / bill if bill else None) for row in lines
    ]
    total: tuple[Cell, ...] = ("Bill", "", "", bill, 1.0 if bill else None)
    return _table(columns, rows, total, _notes(ledger, since_ns), currency, f"Cost by {by}")


def _table(  # noqa: PLR0917 - the parts of a table in reading order
    columns: tuple[Column, ...],
    rows: list[tuple[Cell, ...]],
    total: tuple[Cell, ...],
    notes: tuple[str, ...],
    currency: str,
    title: str,
) -> ReportTable:
    return ReportTable(columns=columns, rows=tuple(rows), total=total, notes=notes, title=title, currency=currency)


def _column_sums(rows: list[tuple[Cell, ...]], columns: range) -> list[int]:
    return [sum(cell for row in rows if isinstance(cell := row[i], int)) for i in columns]
