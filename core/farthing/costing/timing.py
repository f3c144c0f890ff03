"""The time of a window: busy between successive steps while anything runs, and the rest by the instance's state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from farthing.costing.marks import Ints, MarkTrack
from farthing.costing.settle import WindowTime
from farthing.costing.work import Work

__all__ = ["Span", "whole_ns", "window_time"]

States = Sequence[tuple[int, str]]
"""(since when, account of time that is not busy), ascending."""


class Span(NamedTuple):
    """A closed window: [start, end) in nanoseconds, marks at positions [lo, hi)."""

    start: int
    end: int
    lo: int
    hi: int


def window_time(track: MarkTrack, works: Sequence[Work], states: States, span: Span) -> tuple[WindowTime, Ints]:
    """A window's time by state, and the busy nanoseconds before each of its marks."""
    # the mark before the first, and the one after the last, whose step may have begun within the window
    low = span.lo - 1 if span.lo > track.base else span.lo
    high = span.hi + 1 if span.hi < track.end else span.hi
    at = track.moments(low, high)
    if low < span.lo and track.last_idle < low:
        # never idle since: every step began with the mark before it
        edges = np.minimum(np.maximum(at, span.start), span.end)
        begins, ends, busy_ns = edges[:-1], edges[1:], int(edges[-1]) - int(edges[0])
    else:
        first = span.lo - low
        begins = np.maximum(_begins(at, track.running(low, high), works, span, first)[first:], span.start)
        ends = np.maximum(np.minimum(at[first:], span.end), begins)
        busy_ns = int((ends - begins).sum())
    return WindowTime(busy_ns, _other(states, span, begins, ends, busy_ns)), (ends - begins)[: span.hi - span.lo]


def _begins(at: Ints, running: Ints, works: Sequence[Work], span: Span, first: int) -> Ints:
    """When the step of each mark began: with the mark before it, or after idleness when a request was scheduled.

    ``first`` is the index of the window's first mark: 1, or 0 when no mark before it is known.
    """
    begins = at.copy()
    begins[1:] = at[:-1]
    idle = (running[:-1] <= 0).nonzero()[0] + 1
    if not first and len(at):
        idle = np.concatenate([[0], idle])
    if len(idle):
        # the first step after idle began when its earliest request was scheduled
        scheduled = np.sort(np.array([work.scheduled_ns for work in works], np.int64))
        before = np.where(idle > 0, at[idle - 1], span.start - 1)
        k = np.searchsorted(scheduled, before, side="right")
        earliest = np.append(scheduled, np.iinfo(np.int64).max)[k]
        begins[idle] = np.minimum(earliest, at[idle])
    return begins


def _other(states: States, span: Span, begins: Ints, ends: Ints, busy_ns: int) -> dict[str, int]:
    """Nanoseconds of a window outside its busy intervals (ascending, disjoint), by the instance's state."""
    rest = span.end - span.start - busy_ns
    if not rest:
        return {}
    during = [
        (since, until, state)
        for (since, state), (until, _) in itertools.pairwise([*states, (span.end, "")])
        if since < span.end and until > span.start
    ]
    if len(during) == 1:
        return {during[0][2]: rest}
    kept = ends > begins
    starts = np.concatenate([[span.start], ends[kept]])
    stops = np.concatenate([begins[kept], [span.end]])
    found: dict[str, int] = {}
    for since, until, state in during:
        overlap = int(np.maximum(np.minimum(stops, until) - np.maximum(starts, since), 0).sum())
        if overlap:
            found[state] = found.get(state, 0) + overlap
    return found


def whole_ns(track: MarkTrack, works: Sequence[Work], span: Span) -> int:
    """Where a window ends without the beginning of a first step after idleness that goes on beyond its cut.

    When it was cut nobody knew of that step; its time belongs where its mark, hence its work, is.
    """
    if span.hi >= track.end or (span.hi > track.base and track.runs(span.hi - 1)):
        return span.end
    before = track.at(span.hi - 1) if span.hi > track.base else span.start
    began = min((work.scheduled_ns for work in works if work.scheduled_ns > before), default=span.end)
    if began >= min(span.end, track.at(span.hi)):
        return span.end
    return max(began, span.start)
