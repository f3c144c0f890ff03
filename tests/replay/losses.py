"""Recordings with something taken out of them, chosen at random by a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from farthing.replay.recording import Recording

__all__ = ["draw_requests", "without_aborted", "without_client_rows", "without_requests"]

LOST = 25
_ENGINE_ID = re.compile(r"^(?:chat)?cmpl-(?P<id>.+?)(?:-\d+)?$")

Row = dict[str, Any]


def without_client_rows(recording: Recording, seed: int) -> Recording:
    """25 requests less on the HTTP side; the engine's statistics of them stay."""
    return _without_rows(recording, draw_requests(recording, seed))


def without_requests(recording: Recording, seed: int) -> Recording:
    """25 requests less on both sides, as if their records had never been sent; the engine's counters stay."""
    lost = draw_requests(recording, seed)
    steps = tuple(
        {**step, "fin": [row for row in step["fin"] if _client_id(row) not in lost]} if "fin" in step else step
        for step in recording.steps
    )
    return replace(_without_rows(recording, lost), steps=steps)


def without_aborted(recording: Recording, seed: int) -> Recording:
    """25 requests less of those that their clients aborted, of which no engine keeps statistics."""
    return _without_rows(recording, draw_requests(recording, seed, lambda row: row.get("err") == "aborted"))


def draw_requests(recording: Recording, seed: int, among: Callable[[Row], bool] = lambda row: True) -> set[str]:
    """Identities of 25 requests, drawn without replacement."""
    names = [str(row["id"]) for row in recording.requests if among(row)]
    return set(random.Random(seed).sample(names, LOST))  # noqa: S311 - a seeded trial, not a secret


def _without_rows(recording: Recording, lost: Collection[str]) -> Recording:
    kept = tuple(row for row in recording.requests if str(row["id"]) not in lost)
    assert len(recording.requests) - len(kept) == LOST
    return replace(recording, requests=kept)


def _client_id(statistics: Row) -> str:
    found = _ENGINE_ID.match(str(statistics["request_id"]))
    return found.group("id") if found else str(statistics["request_id"])
