"""What has to hold of every load and of every closed ledger, whichever engine it was."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from tests.integration.probe.load import unexpected
from tests.integration.probe.reconcile import (
    Tokens,
    against_clients,
    against_engine,
    as_lines,
    doubled,
    outcomes_by_tenant,
    overtaken,
    uncertain,
)
from tests.integration.probe.run import Run
from tests.integration.probe.stand import Stand
from tests.service.books import journal_sums, total

from farthing.domain import conventions as c
from farthing.ledger import tables as t

__all__ = ["booked_tokens", "check_identity", "check_load", "check_tokens", "red_checks"]

OVERTAKEN = 0.1
"""Of aborts, that the engine may have finished before it noticed: more, and nothing is said of aborts."""
JOURNAL = ("engine", "debit", "phase", "tenant", "model", "tier", "reason", "method")


def check_load(run: Run) -> None:
    """Every request was answered as planned, and is recorded once, as its client saw it."""
    surprises = unexpected(run.seen)
    assert not surprises, "\n".join(surprises)
    differences = against_clients(run.seen, run.records)
    assert not differences, as_lines(differences)
    assert doubled(run.records) == []
    late = overtaken(run.seen, run.records)
    aborts = sum(item.ask.outcome == "aborted" for item in run.seen)
    assert len(late) <= aborts * OVERTAKEN, f"the engine finished {sorted(late)} for clients that had left"
    outcomes = dict.fromkeys(late, "finished")
    planned = Counter((s.ask.tenant, outcomes.get(s.ask.tag, s.ask.outcome)) for s in run.seen)
    assert outcomes_by_tenant(run.records) == planned
    assert set(planned) >= {(tenant, "finished") for tenant, _ in planned if tenant != c.UNKNOWN}


def check_tokens(run: Run) -> None:
    """Finished and aborted requests together are the engine's counters, kind by kind, and so are its step marks."""
    assert against_engine(run.records, run.counted) == {}, f"uncertain: {uncertain(run.records)}"
    kinds = [field.name for field in fields(Tokens) if field.name != "first_tokens"]
    assert {kind: getattr(run.marks, kind) for kind in kinds} == {kind: getattr(run.counted, kind) for kind in kinds}


def booked_tokens(stand: Stand, run: Run) -> dict[str, int]:
    """Kind of token -> how many more the ledger's requests hold than the engine counted.

    The prompts of requests that ended before their first token are not among the engine's: each is named by
    ``uncertain``, and taken off here.
    """
    q = t.requests.c
    columns = {"computed": q.prompt_computed, "cached": q.prompt_cached, "output": q.output_tokens}
    rows = {(record["boot"], record["proc"], record["seq"]): record for record in run.records}
    unfinished = uncertain(run.records)
    more: Counter[str] = Counter({kind: -getattr(run.counted, kind) for kind in columns})
    with stand.ledger() as ledger:
        found = ledger.select(sa.select(q.boot, q.process, q.sequence, *columns.values()))
    for row in found:
        record = rows.get((row.boot, row.process, row.sequence))
        if record is not None and (record.get("workload", ""), record["request_id"]) not in unfinished:
            more.update({kind: row._mapping[column.name] or 0 for kind, column in columns.items()})
    return {kind: more[kind] for kind in columns}


def check_identity(stand: Stand, books: dict[str, Any], tenants: set[str]) -> None:
    """The journal is the bill to the nano-dollar, no line of it is negative, and the service's page says the same."""
    with stand.ledger() as ledger:
        bill = total(ledger, t.boots.c.bill_nano)
        lines, by_tenant = journal_sums(ledger, *JOURNAL), journal_sums(ledger, "debit", "tenant")
    assert sum(lines.values()) == bill == books["bill_nano"] > 0
    assert min(lines.values()) >= 0
    assert books["residual_nano"] == 0
    assert sum(line["nano"] for line in books["lines"]) == bill
    billed: defaultdict[str, int] = defaultdict(int)
    for (debit, tenant), nano in by_tenant.items():
        if debit in {c.CHARGED, c.ABORTED}:
            billed[tenant] += nano
    assert tenants <= set(billed) <= tenants | {c.UNKNOWN}
    assert min(billed[tenant] for tenant in tenants) > 0
    shown = {line["account"]: line["nano"] for line in books["lines"]}
    assert sum(billed.values()) == sum(shown[name] for name in (*c.PHASES, c.ABORTED))
    page: Counter[str] = Counter()
    for tenant in books["tenants"]:
        page[tenant["tenant"]] += tenant["cost_nano"]
    assert {name: nano for name, nano in page.items() if nano} == {name: nano for name, nano in billed.items() if nano}


def red_checks(books: dict[str, Any]) -> dict[str, str]:
    """Check -> what it says, of those that are red."""
    return {check["name"]: check["detail"] for check in books["checks"] if not check["ok"]}
