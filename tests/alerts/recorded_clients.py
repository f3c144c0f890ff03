"""What the load's clients timed themselves in a phase, and what the engine noted of every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.alerts.recorded import Phase

from farthing.domain.clock import nanoseconds
from farthing.replay.recording import Recording, load_recording

__all__ = ["Timings", "quantile", "timings"]

ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, each with its weight."""

    first_token: tuple[tuple[float, int], ...]
    per_token: tuple[tuple[float, int], ...]
    """Mean time per token after the first, of each request; 0 where there was one token, as vLLM observes it."""
    total: tuple[tuple[float, int], ...]
    steps: tuple[tuple[float, int], ...]
    """From each of the engine's steps to the next, weighted with the requests that got a token in it."""
    mean_gap: float
    """Between two tokens, over all requests; NaN where none had two."""
    missed: dict[str, float]
    """Chat's promises -> share of requests that missed them, of those that Farthing had counted in its pictures."""
    aborted: float
    """Share of requests whose client hung up, of all of the phase."""


def quantile(values: Iterable[tuple[float, int]], share: float) -> float:
    """The smallest value that ``share`` of the weight does not exceed."""
    ordered = sorted(values)
    wanted, reached = share * sum(weight for _, weight in ordered), 0
    for value, weight in ordered:
        reached += weight
        if reached >= wanted:
            return value
    raise AssertionError("no values")


def timings(phase: Phase) -> Timings:
    """Seconds of what came about between the phase's first scrape and its last."""
    recording = _recording(phase.recording)
    begin, end = phase.engine[0].at_ns, phase.engine[-1].at_ns
    rows = [row for row in recording.requests if row["phase"] == phase.name]
    answered = [row for row in rows if not row["err"] and begin < nanoseconds(row["end"]) <= end]
    streamed = [row for row in rows if not row["err"] and _tokens(row) > 1]
    gaps = sum(_tokens(row) - 1 for row in streamed)
    steps = [
        (float(now["m"] - before["m"]), int(now["d"][3]))
        for before, now in zip(recording.steps, recording.steps[1:], strict=False)
        if begin < nanoseconds(now["t"]) <= end and now.get("d")
    ]
    counted_from, counted_to = phase.farthing[0].watermark_ns, phase.farthing[-1].watermark_ns
    counted = [row for row in rows if counted_from < nanoseconds(row["end"]) <= counted_to]
    first = [(_first(row), 1) for row in rows if row["first"] and begin < nanoseconds(row["first"]) <= end]
    return Timings(
        first_token=tuple(first),
        per_token=tuple((_per_token(row), 1) for row in answered),
        total=tuple((_total(row), 1) for row in answered),
        steps=tuple(steps),
        mean_gap=sum(_per_token(row) * (_tokens(row) - 1) for row in streamed) / gaps if gaps else math.nan,
        missed={
            "chat-first-token": _share(_first(row) > 0.5 for row in counted),
            "chat-total": _share(row["err"] is not None or _total(row) > 5 for row in counted if row["err"] != ABORTED),
            "chat-inter-token": _share(_per_token(row) > 0.05 for row in streamed if row in counted),
        },
        aborted=_share(row["err"] == ABORTED for row in rows),
    )


@cache
def _recording(name: str) -> Recording:
    return load_recording(name)


def _tokens(row: dict[str, Any]) -> int:
    return int(row["usage"]["completion_tokens"])


def _first(row: dict[str, Any]) -> float:
    return float(row["first"] - row["t0"]) if row["first"] else math.inf


def _total(row: dict[str, Any]) -> float:
    return float(row["end"] - row["t0"])


def _per_token(row: dict[str, Any]) -> float:
    return float(row["last"] - row["first"]) / (_tokens(row) - 1) if _tokens(row) > 1 else 0.0


def _share(which: Iterable[bool]) -> float:
    found = list(which)
    return sum(found) / len(found) if found else 0.0
