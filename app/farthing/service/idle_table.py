"""What this month's GPUs that no engine had cost so far: what closing it now would bill of them."""

from __future__ import annotations

from collections import defaultdict

from farthing.books.closing import DEVICE_SOURCE, Accrual
from farthing.books.prices import PriceBook
from farthing.domain.clock import HOUR, utc
from farthing.exporters.report import Cell, Column, ReportTable
from farthing.ledger.database import transaction
from farthing.ledger.repository import Ledger
from farthing.service.device_billing import (
    DeviceBilling,
    billed_lives,
    boot_groups,
    device_names,
    unpriced_engine_names,
)
from farthing.service.hourly_spend import Calendar

__all__ = ["idle_table"]


def idle_table(ledger: Ledger, prices: PriceBook, now_ns: int, currency: str) -> ReportTable:
    """A row for each GPU at a price, and for what of its time is whose; ``now_ns`` is UTC."""
    calendar = Calendar.at(now_ns)
    with transaction(ledger.engine) as connection:
        billing = DeviceBilling(connection, prices)
        groups = boot_groups(connection)
        names = device_names(connection, groups)
        lives = billed_lives(groups, unpriced_engine_names(connection), now_ns, names)
        accruals, unpriced = billing.accrue(lives, calendar.month * HOUR, now_ns)
    parts_of: defaultdict[tuple[str, str, str, str], list[Accrual]] = defaultdict(list)
    for one in accruals:
        parts_of[one.source.removeprefix(DEVICE_SOURCE), one.engine, one.account, one.reason].append(one)
    columns = (
        Column("device", "GPU"),
        Column("engine", "Engine"),
        Column("account", "Account"),
        Column("reason", "Reason"),
        Column("hours", "Hours", "number"),
        Column("cost", "Month to date", "money"),
    )
    rows: list[tuple[Cell, ...]] = []
    for key, parts in parts_of.items():
        hours = sum(one.end_ns - one.start_ns for one in parts) / HOUR
        device, engine, account, reason = key
        rows.append((device, engine or None, account, reason, hours, sum(one.nano for one in parts)))
    rows.sort(key=_costliest)
    total = sum(one.nano for one in accruals)
    return ReportTable(
        columns=columns,
        rows=tuple(rows),
        total=("Total", "", "", "", None, total),
        notes=("It is booked when the month is closed, and in no other table.", *unpriced),
        title=f"GPUs that no engine has, {utc(calendar.month * HOUR):%Y-%m} to date",
        currency=currency,
    )


def _costliest(row: tuple[Cell, ...]) -> tuple[int, str]:
    cost = row[-1]
    return (-cost if isinstance(cost, int) else 0, str(row[0]))
