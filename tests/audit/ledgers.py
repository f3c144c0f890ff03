"""What tests of a service's trail share: ledgers of recorded boots, and what of them a trail has."""

from collections import Counter
from typing import Any

import sqlalchemy as sa
from tests.audit.trails import said
from tests.ledger.booked import _replace, run
from tests.replay.conftest import TEXT

from farthing.audit.verify import verify
from farthing.domain import conventions as c
from farthing.ledger import tables as t

__all__ = ["PHASES", "change", "complete", "partly", "requests_of", "the_rest", "written"]

PHASES = tuple(f"{phase}_nano" for phase in c.PHASES)
"""Columns and fields of a request's cost."""


def requests_of(ledger):
    """Key -> costs by phase of every request that the ledger has."""
    q = t.requests.c
    rows = ledger.select(sa.select(q.boot, q.process, q.sequence, *(q[name] for name in PHASES)))
    return {tuple(row[:3]): tuple(row[3:]) for row in rows}


def written(folder):
    """Key -> costs by phase of every request as the trail has it last; and how many records there are of each."""
    found: dict[Any, tuple[int, ...]] = {}
    times: Counter[Any] = Counter()
    for one in said(folder):
        if one["kind"] == "request":
            key = (one["boot"], one["process"], one["sequence"])
            found[key] = tuple(one[name] for name in PHASES)
            times[key] += 1
    return found, times


def complete(trail, ledger, folder, *, corrections=0):
    """Assert that a trail verifies and has all that the ledger has, each request once but for corrections."""
    assert trail.view().is_written
    assert verify(folder).problems == []
    found, times = written(folder)
    assert found == requests_of(ledger)
    assert sum(times.values()) == len(found) + corrections


def change(ledger, *statements):
    """Change rows of a ledger."""
    with ledger.engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def partly(ledger, windows):
    """Post so many windows of the text recording, its boot open, and all of its requests."""
    recorded = run(TEXT)
    ledger.add(recorded.raw)
    entry = recorded.entries[0]
    settled = entry.windows[:windows]
    boot = _replace(
        entry.boot,
        ended_ns=None,
        closed_ns=None,
        covered_ns=entry.boot.anchor.to_wall(settled[-1].end_ns),
        read_id=1,
    )
    ledger.post(boot, entry.requests, settled)
    return settled[-1].end_ns


def the_rest(ledger):
    """Post what there is of it besides, and its end."""
    entry = run(TEXT).entries[0]
    ledger.post(_replace(entry.boot, read_id=2), entry.requests, entry.windows, entry.adjustments)
