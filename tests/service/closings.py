"""Ledgers with months in them: recorded work moved to where a month ends."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from tests.service.books import ENGINE, raw_records

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.records import RawRecord
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import Recording
from farthing.service.closing import Closed, close_period
from farthing.service.pricing import price_book
from farthing.settings import CostingSettings, Settings

__all__ = ["SETTINGS", "close", "documents", "identity", "late_and_on_time", "moved", "tenants_by_workload"]

SETTINGS = Settings(costing=CostingSettings(grace_seconds=20))


def moved(
    recording: Recording, period: str, seconds: float, *, boot: str = "b", engine: str = ENGINE
) -> list[RawRecord]:
    """A recording's records, begun so many seconds before a period ends."""
    _, end = bounds(period)
    return raw_records(recording, boot=boot, engine=engine, wall_start_ns=end - round(seconds * SECOND))


def tenants_by_workload(records: Sequence[RawRecord]) -> list[RawRecord]:
    """The same work, each of the load's phases a tenant of its own."""
    changed = []
    for record in records:
        if record.kind == "usage":
            row: dict[str, Any] = json.loads(record.line)
            row["tenant"] = row["workload"]
            changed.append(msgspec.structs.replace(record, line=json.dumps(row, separators=(",", ":")).encode()))
        else:
            changed.append(record)
    return changed


def late_and_on_time(records: Sequence[RawRecord], count: int, seed: int) -> tuple[list[RawRecord], list[RawRecord]]:
    """Some usage records, and all the other records."""
    usage = [record for record in records if record.kind == "usage"]
    late = random.Random(seed).sample(usage, count)  # noqa: S311 - seeded trials
    keys = {record.key for record in late}
    return late, [record for record in records if record.key not in keys]


def close(ledger: Ledger, period: str, settings: Settings = SETTINGS, policy: Policy | None = None) -> Closed:
    """Close a period an hour after its end."""
    _, end = bounds(period)
    chosen = policy or Policy.default()
    return close_period(ledger, period, settings, price_book(settings), chosen, "Ada Byron", now_ns=end + HOUR)


def documents(ledger: Ledger) -> dict[str, bytes]:
    """Every closing and statement as the ledger holds it, by period or number."""
    found = {row[0]: bytes(row[1]) for row in ledger.select(sa.select(t.closings.c.period, t.closings.c.document))}
    statements = ledger.select(sa.select(t.statements.c.number, t.statements.c.document))
    return found | {row[0]: bytes(row[1]) for row in statements}


def identity(closed: Closed) -> None:
    """Opening work in progress + bill - closing work in progress = what all statements say = what all accounts hold."""
    facts = closed.document.facts
    owed = facts.opening_wip_nano + facts.bill_nano - facts.closing_wip_nano
    assert facts.closing_wip_nano >= 0
    assert sum(cost.nano for cost in facts.costs) == owed
    assert sum(statement.total_nano for statement in closed.statements) == owed
    by_tenant = Counter({one.recipient.tenant: one.total_nano for one in closed.statements})
    assert sum(by_tenant.values()) == owed
    for statement in closed.statements:
        assert sum(line.amount_nano or 0 for line in statement.lines) == statement.total_nano
        assert statement.total_nano + statement.rounding_nano == statement.payable_nano
