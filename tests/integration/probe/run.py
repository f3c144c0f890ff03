"""One load on one stand, with everything that is known of it afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.integration.probe.asks import Ask
from tests.integration.probe.counters import EngineCounts, wait_until_idle
from tests.integration.probe.load import Seen, count_prompts, drive
from tests.integration.probe.reconcile import Tokens
from tests.integration.probe.stand import Stand

__all__ = ["Run", "marks_at_rest", "run"]

MARKS_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """What clients saw, what the engine counted meanwhile, and the usage records that came of it."""

    seen: list[Seen]
    counted: EngineCounts
    records: list[dict[str, Any]]
    marks: Tokens
    """Of the step marks that came meanwhile."""


def run(stand: Stand, plan: Sequence[Ask]) -> Run:
    """Drive a plan through a stand, and wait until its records have arrived."""
    load = plan[0].tag.rpartition("-")[0]
    before, marks_before = wait_until_idle(stand.engine.url), marks_at_rest(stand)
    seen = asyncio.run(drive(stand.engine.url, plan))
    counted = wait_until_idle(stand.engine.url) - before
    asyncio.run(count_prompts(stand.engine.url, seen))
    records = stand.wait_recorded(load, len(plan))
    return Run(seen, counted, records, marks_at_rest(stand) - marks_before)


def marks_at_rest(stand: Stand) -> Tokens:
    """All marks of an idle engine: once every process has sent a batch that begins after now."""
    now = time.monotonic_ns()
    deadline = time.monotonic() + MARKS_SECONDS
    while True:
        batches = stand.records("steps")
        latest = {record["proc"]: record["until_ns"] for record in batches}
        if latest and min(latest.values()) > now and len(latest) == stand.processes:
            return stand.marks()
        assert time.monotonic() < deadline, f"no batch of marks from every process within {MARKS_SECONDS:g} s: {latest}"
        time.sleep(0.3)
