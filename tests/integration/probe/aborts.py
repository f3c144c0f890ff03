"""How well the probe knows what an aborted request cost: its claim beside the engine's counters, abort by abort.

One request at a time, so that the step of the engine's counters is that request's alone. The same aborts are made
twice: with clients that were told nothing, and with clients that asked for ``continuous_usage_stats``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.integration.probe.asks import Ask
from tests.integration.probe.counters import wait_until_idle
from tests.integration.probe.load import drive, unexpected
from tests.integration.probe.reconcile import tokens_of
from tests.integration.probe.stand import Stand

__all__ = ["SHOWN", "Abort", "measure_aborts", "report"]

SHOWN = pytest.StashKey[str]()
"""A report that is to be read at the end of the session."""


@dataclass(frozen=True, slots=True)
class Abort:
    """One aborted request; tokens of output unless said otherwise."""

    tag: str
    recipe: str
    claimed: int
    """By its record."""
    generated: int
    """By the engine's counter."""
    prompt_claimed: int
    prompt_counted: int
    told: int | None
    """By the last chunk that its client read; None where chunks say nothing."""

    @property
    def error(self) -> int:
        """Claimed beyond what was generated."""
        return self.claimed - self.generated


def measure_aborts(stand: Stand, plan: Sequence[Ask]) -> list[Abort]:
    """What every abort of a plan was, by all three accounts."""
    url, steps = stand.engine.url, []
    before = wait_until_idle(url)
    for ask in plan:
        (seen,) = asyncio.run(drive(url, [ask]))
        after = wait_until_idle(url)
        assert unexpected([seen]) == []
        steps.append((seen, after - before))
        before = after
    load = plan[0].tag.rpartition("-")[0]
    records: Mapping[str, dict[str, Any]] = {r["workload"]: r for r in stand.wait_recorded(load, len(plan))}
    found = []
    for seen, step in steps:
        claim = tokens_of(records[seen.ask.tag])
        told = seen.told.output if seen.told else None
        found.append(Abort(seen.ask.tag, seen.ask.recipe, claim.output, step.output, claim.prompt, step.prompt, told))
    return found


def report(silent: Sequence[Abort], told: Sequence[Abort]) -> str:
    """A table of both runs: how far claims are from what the engine counted."""
    head = (
        f"{'client':<24}{'aborts':>7}{'exact':>7}{'generated':>11}{'error, sum':>12}{'largest':>9}{'prompt error':>14}"
    )
    lines = [head]
    for name, aborts in (("told nothing", silent), ("continuous_usage_stats", told)):
        generated, error = sum(a.generated for a in aborts), sum(a.error for a in aborts)
        exact = sum(a.error == 0 for a in aborts)
        largest = max(abs(a.error) for a in aborts)
        prompt = sum(a.prompt_claimed - a.prompt_counted for a in aborts)
        lines.append(f"{name:<24}{len(aborts):>7}{exact:>7}{generated:>11}{error:>12}{largest:>9}{prompt:>14}")
    heard = [a for a in told if a.told is not None]
    unheard = sum(a.generated - (a.told or 0) for a in heard)
    lines.append(f"generated and never heard of by the client: {unheard} tokens of {sum(a.generated for a in heard)}")
    return "\n".join(lines)
