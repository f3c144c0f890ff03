"""What rows that will be pruned came to, as seals hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farthing.domain.clock import HOUR
from farthing.ledger import tables as t
from farthing.ledger.evidence import evidence_of
from farthing.ledger.seals import Seal, digest_of
from farthing.ledger.verify_sums import (
    USAGE,
    WHO,
    WINDOW,
    cost_hours_digest,
    journal_costs,
    request_savings,
    request_usage,
    stream,
    window_sums,
)

__all__ = ["seal_of_boot", "seal_of_period"]

_COSTS = ("engine", "account", "phase", *WHO, "reason", "method")


def seal_of_boot(connection: Connection, table: str, period: str, boot: str, now_ns: int) -> Seal:
    """The seal of one boot's rows of ``records``, ``requests`` or ``windows``; ``period`` is that in which it ended."""
    if table == t.records.name:
        r = t.records.c
        rows = connection.execute(sa.select(sa.func.count()).select_from(t.records).where(r.boot == boot)).scalar_one()
        return Seal(table, period, boot, int(rows), {}, evidence_of(connection, boot), now_ns)
    source = t.metadata.tables[table]
    query = sa.select(source).where(source.c.boot == boot).order_by(*source.primary_key.columns)
    rows, digest = digest_of(stream(connection, query))
    if table == t.requests.name:
        mine = t.requests.c.boot == boot
        last = connection.execute(sa.select(sa.func.max(t.requests.c.ended_wall_ns)).where(mine)).scalar_one()
        sums = {
            "last_hour": int(last) // HOUR,
            "usage": _grouped(connection, request_usage(mine), ("engine", *WHO, "outcome"), USAGE),
            "saved": _grouped(connection, request_savings(mine), ("engine", *WHO), ("nano",)),
        }
    else:
        mine = t.windows.c.boot == boot
        last = connection.execute(sa.select(sa.func.max(t.windows.c.wall_end_ns)).where(mine)).scalar_one()
        sums = {
            "last_hour": (int(last) - 1) // HOUR,
            "sums": _grouped(connection, window_sums(mine), ("engine",), WINDOW),
        }
    return Seal(table, period, boot, rows, sums, digest, now_ns)


def seal_of_period(connection: Connection, period: str, now_ns: int) -> Seal:
    """The seal of all journal lines that were posted in a period."""
    j = t.journal.c
    mine = j.period == period
    rows, digest = digest_of(stream(connection, sa.select(t.journal).where(mine).order_by(j.id)))
    lines = sa.select(j.boot, j.period, j.debit.label("account"), j.nano).where(mine)
    sums = {
        "cost_hours": _grouped(connection, journal_costs(mine), _COSTS, ("nano", "late_nano", "millijoules")),
        "cost_hours_sha256": cost_hours_digest(connection, period),
        "boot_lines": _grouped(connection, lines, ("boot", "period", "account"), ("nano",)),
    }
    return Seal(t.journal.name, period, "", rows, sums, digest, now_ns)


def _grouped(connection: Connection, rows: sa.Select[Any], keys: Sequence[str], amounts: Sequence[str]) -> list[Any]:
    source = rows.subquery()
    columns = [source.c[name] for name in keys]
    query = sa.select(*columns, *(sa.func.sum(source.c[name]) for name in amounts)).group_by(*columns)
    found = [[*row[: len(keys)], *(int(amount) for amount in row[len(keys) :])] for row in connection.execute(query)]
    return sorted(found)
