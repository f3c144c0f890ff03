"""The time of a window: busy between successive steps while anything runs, and the rest by the instance's state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farthing.costing.marks import Ints, MarkTrack
from farthing.costing.settle import WindowTime
from farthing.costing.work import Work

__all__ = ["Span", "whole_ns", "window_time"]

States = Sequence[tuple[int, str]]
"""(since when, account of time that is not busy), ascending."""


@dataclass(frozen=True, slots=True)
class Span:
    """A closed window: [start, end) in nanoseconds, marks at positions [lo, hi)."""

    start: int
    end: int
    lo: int
    hi: int


def window_time(track: MarkTrack, works: Sequence[Work], states: States, span: Span) -> tuple[WindowTime, Ints]:
    """A window's time by state, and the busy nanoseconds before each of its marks."""
    marks = span.hi - span.lo
    # the mark before the first, and the one after the last, whose step may have begun within the window
    low, high = max(span.lo - 1, track.base), min(span.hi + 1, track.end)
    at = track.columns["at_ns"][low - track.base : high - track.base]
    running = track.columns["running"][low - track.base : high - track.base]
    begins, ends = at.copy(), at
    begins[1:][running[:-1] > 0] = at[:-1][running[:-1] > 0]
    idle = (running[:-1] <= 0).nonzero()[0] + 1
    if low == span.lo and len(at):
        idle = np.concatenate([[0], idle])
    if len(idle):
        # the first step after idle began when its earliest request was scheduled
        scheduled = np.sort(np.array([work.scheduled_ns for work in works], np.int64))
        before = np.where(idle > 0, at[idle - 1], span.start - 1)
        k = np.searchsorted(scheduled, before, side="right")
        earliest = np.append(scheduled, np.iinfo(np.int64).max)[k]
        begins[idle] = np.minimum(earliest, at[idle])
    first = span.lo - low
    begins, ends = np.maximum(begins[first:], span.start), np.minimum(ends[first:], span.end)
    busy = np.maximum(ends - begins, 0)
    return WindowTime(int(busy.sum()), _other(states, span, begins, ends, busy)), busy[:marks]


def _other(states: States, span: Span, begins: Ints, ends: Ints, busy: Ints) -> dict[str, int]:
    """Nanoseconds of a window outside its busy intervals (ascending, disjoint), by the instance's state."""
    kept = busy > 0
    starts = np.concatenate([[span.start], ends[kept]])
    stops = np.concatenate([begins[kept], [span.end]])
    gaps = stops > starts
    starts, stops = starts[gaps], stops[gaps]
    found: dict[str, int] = {}
    bounds = [*states, (span.end, "")]
    for (since, state), (until, _) in itertools.pairwise(bounds):
        if until > span.start:
            overlap = int(np.maximum(np.minimum(stops, until) - np.maximum(starts, since), 0).sum())
            if overlap:
                found[state] = found.get(state, 0) + overlap
    return found


def whole_ns(track: MarkTrack, works: Sequence[Work], span: Span) -> int:
    """Where a window ends without the beginning of a first step after idleness that goes on beyond its cut.

    When it was cut nobody knew of that step; its time belongs where its mark, hence its work, is.
    """
    i = span.hi - track.base
    if span.hi >= track.end or (i > 0 and track.columns["running"][i - 1] > 0):
        return span.end
    before = int(track.columns["at_ns"][i - 1]) if i > 0 else span.start
    began = min((work.scheduled_ns for work in works if work.scheduled_ns > before), default=span.end)
    if began >= min(span.end, int(track.columns["at_ns"][i])):
        return span.end
    return max(began, span.start)
