"""The settled windows that requests of a trace reach into: up to where they are settled, and how they were split."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.records import Usage
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

__all__ = ["Who", "WindowsOf", "settled_until", "windows_of"]

Who: TypeAlias = tuple[str, str, str, str]
"""Tenant, project, model and tier: whom a line of the journal is booked to."""


_NEAR_NS = 60 * SECOND
"""What lies between two requests is read where it is no more than so much."""


@dataclass(frozen=True, slots=True)
class WindowsOf:
    """Windows of one engine index, in order; they tile its life, so those of a request lie side by side."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    fits: tuple[str, ...]
    methods: dict[tuple[int, Who], dict[str, set[str]]]
    errors: dict[str, float]

    def settle(self, usage: Usage) -> bool:
        """Whether they reach up to a request's end."""
        return bool(self.ends) and self.ends[-1] >= usage.ended_ns

    def methods_of(self, usage: Usage, who: Who) -> dict[str, tuple[str, ...]]:
        """Phase -> how the lines of the journal were split that have the request's cost in them."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for place in self._places(usage):
            for phase, methods in self.methods.get((self.starts[place], who), {}).items():
                found[phase] |= methods
        return {phase: tuple(sorted(methods)) for phase, methods in found.items()}

    def error_of(self, usage: Usage) -> float | None:
        """Weighted absolute percentage error (0-1) of the fits that split it, the largest; None where none is known."""
        errors = (self.errors.get(self.fits[place]) for place in self._places(usage))
        return max((error for error in errors if error is not None), default=None)

    def _places(self, usage: Usage) -> range:
        first = max(0, bisect_right(self.starts, usage.arrived_ns) - 1)
        return range(first, bisect_left(self.starts, usage.ended_ns))


def windows_of(ledger: Ledger, usages: Sequence[Usage]) -> dict[tuple[str, int], WindowsOf]:
    """By boot and engine index, the settled windows that these requests reach into.

    Requests of one trace may be days apart: what lies between them is not read.
    """
    grouped: defaultdict[tuple[str, int], list[Usage]] = defaultdict(list)
    for usage in usages:
        grouped[usage.key.boot, usage.engine_index].append(usage)
    return {key: _load(ledger, *key, group) for key, group in grouped.items()}


def settled_until(ledger: Ledger, where: Sequence[sa.ColumnElement[bool]] = ()) -> dict[str, int]:
    """boot -> up to where the settled windows of each of its engine indices reach (UTC), of boots that are not closed
    and have requests of these.

    Read it before the costs that it is to say are settled. One that has an index without a settled window is left out.
    """
    b, w = t.boots.c, t.windows.c
    found = {}
    of_these = b.boot.in_(sa.select(t.requests.c.boot).where(*where))
    for boot, ranks in ledger.select(sa.select(b.boot, b.ranks).where(b.closed_ns.is_(None), of_these)):
        last = sa.select(w.wall_end_ns).where(w.boot == boot).order_by(w.start_ns.desc()).limit(1)
        ends = [int(end) for rank in range(ranks) for (end,) in ledger.select(last.where(w.engine_index == rank))]
        if len(ends) == ranks:
            found[boot] = min(ends)
    return found


def _load(ledger: Ledger, boot: str, index: int, usages: Sequence[Usage]) -> WindowsOf:
    """Times in monotonic nanoseconds of the boot."""
    w = t.windows.c
    of_index = (w.boot == boot) & (w.engine_index == index)
    query = sa.select(w.start_ns, w.end_ns, w.fit_version).where(of_index)
    found: dict[int, Any] = {}
    methods: dict[tuple[int, Who], dict[str, set[str]]] = {}
    for since_ns, until_ns in _stretches(usages):
        last = ledger.select(sa.select(sa.func.max(w.start_ns)).where(of_index, w.start_ns <= since_ns))[0][0]
        begin = since_ns if last is None else int(last)
        for row in ledger.select(query.where(w.start_ns >= begin, w.start_ns < until_ns)):
            found[row.start_ns] = row
        methods |= _methods(ledger, boot, index, begin, until_ns)
    rows = [found[start_ns] for start_ns in sorted(found)]
    return WindowsOf(
        starts=tuple(row.start_ns for row in rows),
        ends=tuple(row.end_ns for row in rows),
        fits=tuple(row.fit_version for row in rows),
        methods=methods,
        errors=_errors(ledger, boot, index, {row.fit_version for row in rows}),
    )


def _stretches(usages: Sequence[Usage]) -> list[tuple[int, int]]:
    """From when to when there are requests, in order; those that overlap, or nearly, are in one stretch."""
    stretches: list[tuple[int, int]] = []
    for since_ns, until_ns in sorted((usage.arrived_ns, usage.ended_ns) for usage in usages):
        if stretches and since_ns <= stretches[-1][1] + _NEAR_NS:
            stretches[-1] = stretches[-1][0], max(stretches[-1][1], until_ns)
        else:
            stretches.append((since_ns, until_ns))
    return stretches


def _methods(
    ledger: Ledger, boot: str, index: int, since_ns: int, until_ns: int
) -> dict[tuple[int, Who], dict[str, set[str]]]:
    j = t.journal.c
    query = sa.select(j.start_ns, j.tenant, j.project, j.model, j.tier, j.phase, j.method).distinct()
    when = (j.start_ns >= since_ns, j.start_ns < until_ns)
    found: defaultdict[tuple[int, Who], dict[str, set[str]]] = defaultdict(dict)
    for start_ns, *who, phase, method in ledger.select(
        query.where(j.boot == boot, j.engine_index == index, *when, j.phase.in_(c.PHASES))
    ):
        tenant, project, model, tier = who
        found[start_ns, (tenant, project, model, tier)].setdefault(phase, set()).add(method)
    return found


def _errors(ledger: Ledger, boot: str, index: int, versions: set[str]) -> dict[str, float]:
    f = t.fits.c
    query = sa.select(f.version, f.evidence).where(f.boot == boot, f.engine_index == index)
    rows: list[Any] = ledger.select(query.where(f.version.in_(sorted(versions)))) if versions else []
    errors = {row.version: json.loads(row.evidence)["walk_forward_wape"] for row in rows}
    return {version: error for version, error in errors.items() if error is not None}
