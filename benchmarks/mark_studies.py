"""What an interval between marks holds, by the engine's own clock where finished requests reveal it."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from tests.costing.oracle_model import Schedule, Step

from farthing.replay.recording import Recording

__all__ = ["Interval", "after_idle_s", "intervals"]

_CLIENT_ID = re.compile(r"^(?:chat)?cmpl-(?P<id>.+?)(?:-\d+)?$")


@dataclass(frozen=True, slots=True)
class Interval:
    """Steps of one kind whose own and previous timestamps by the engine are both known."""

    kind: str
    steps: int
    engine_ms: float
    """Median interval by the engine's clock."""
    marks_ms: float
    """Median interval of the same steps by their marks."""


def intervals(recording: Recording, schedule: Schedule) -> list[Interval]:
    """Intervals of decode steps, apart by what the engine launched meanwhile.

    ``decode_time`` is the exact difference between the engine's timestamps of a request's first and last step;
    chains of requests that share such steps date others, each chain up to one constant. Empty where no two
    successive decode steps are dated by one chain.
    """
    links: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in recording.steps:
        for report in row.get("fin", ()):
            match = _CLIENT_ID.match(str(report["request_id"]))
            request = schedule.requests[match.group("id") if match else ""]
            seconds = float(report["decode_time"])
            links[request.first_step].append((request.last_step, seconds))
            links[request.last_step].append((request.first_step, -seconds))
    dated: dict[int, tuple[int, float]] = {}
    for root in links:
        if root in dated:
            continue
        dated[root] = (root, 0.0)
        waiting = [root]
        while waiting:
            known = waiting.pop()
            for other, seconds in links[known]:
                if other not in dated:
                    dated[other] = (root, dated[known][1] + seconds)
                    waiting.append(other)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(1, len(schedule.steps) - 1):
        before, this = dated.get(number - 1), dated.get(number)
        if before is None or this is None or before[0] != this[0]:
            continue
        step, following = schedule.steps[number], schedule.steps[number + 1]
        if _prefills(step) or _prefills(schedule.steps[number - 1]):
            continue
        kind = "decode, next step prefills" if _prefills(following) else "decode, next step decodes"
        found[kind].append((this[1] - before[1], step.busy_s))
    return [
        Interval(kind, len(pairs), 1e3 * median(e for e, _ in pairs), 1e3 * median(m for _, m in pairs))
        for kind, pairs in sorted(found.items())
    ]


def after_idle_s(schedule: Schedule) -> float:
    """Busy seconds of first steps after idleness: without their requests' scheduling times they would be idle."""
    found, previous = 0.0, float("-inf")
    for step in schedule.steps:
        if step.start_s > previous:
            found += step.busy_s
        previous = step.at_s
    return found


def _prefills(step: Step) -> bool:
    return any(share.prefill_tokens for share in step.shares)
