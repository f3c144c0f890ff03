"""Step marks of one engine index as growing columns, with the running sums that make settlement cheap.

A mark's *position* counts from the boot's first mark and never changes, however much of the past is dropped.
"""

from __future__ import annotations

import functools
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from farthing.domain.records import StepMarks

__all__ = ["COLUMNS", "MARKED", "Floats", "Ints", "MarkTrack", "packed"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_Number = TypeVar("_Number", np.int64, np.float64)

COLUMNS = tuple(StepMarks.__dataclass_fields__)
"""Names of the columns of step marks."""

_COUNTS = (
    "prefill_tokens",
    "decode_tokens",
    "encoder_tokens",
    "prefill_requests",
    "decode_requests",
    "generated",
    "prompt_computed",
    "prompt_cached",
)
"""Columns of what marks count."""
MARKED = ("steps", "encoder_steps", *_COUNTS, "prefill_share", "decode_steps", "decode_fixed", "decode_scheduled")
"""Names of what is held of each mark, in the order of its rows; see ``MarkTrack``."""
_used = attrgetter("at_ns", "running", *_COUNTS)
_COUNTED = slice(MARKED.index(_COUNTS[0]), MARKED.index(_COUNTS[-1]) + 1)
_DECODES = MARKED.index("decode_steps")
_ROOM = 128
"""Marks that a track has more room for, at least, than it holds: thousands of engines have a track each."""
_LOOK = 16
"""Marks without a step that may lie between two steps: one per API server."""


class MarkTrack:
    """The marks of one engine index, merged over API-server processes in time order.

    Of each mark are held, beside its counts: ``steps``, 1 for a mark that was a step; ``encoder_steps`` and
    ``decode_steps``, 1 for one that encoded and that decoded for anyone; ``prefill_share``, the prefills among its
    requests; ``decode_fixed``, 1 / (requests in the step) where it decoded, the share of a step's fixed part that one
    request carries; and ``decode_scheduled``, decode tokens / decoding requests, the tokens that one request was
    scheduled for, without those beyond the usual number per request: a resumed request computes its tokens again in one
    chunk, which the engine counts as decoding. The last three are summed since the boot as well, so that differences
    give any range in constant time.

    A mark without scheduler statistics (``running`` -1) takes over the state of the mark before it. Counts are floats
    that are whole numbers far below 2**53, and their sums exact.

    Arrays have room for marks to come, so that taking a batch costs what its own length does. Single values are read
    through memory views, which give plain numbers several times faster than arrays do.
    """

    _at: memoryview[int]
    _running: memoryview[int]
    _decodes: memoryview[float]
    _fixed: memoryview[float]
    _scheduled: memoryview[float]

    def __init__(self) -> None:
        self.base = 0
        """Position of the first mark held."""
        self.end = 0
        """Position after the last mark held."""
        self.begin_ns = 0
        """When the first mark held came; 0 while none was dropped."""
        self.last_idle = -1
        """Position of the last mark that left nothing running; -1 when there was none."""
        self._held: list[Ints] = []
        self._last_running = 0
        self._origin = 0
        """Position of what lies at index 0 of the arrays."""
        self._state: Ints = np.empty((2, 0), np.int64)
        """When each mark came, and what was running after it."""
        self._marks: Floats = np.empty((len(MARKED), 0))
        self._sums: Floats = np.zeros((3, 1))
        """The sums over decoding steps before the mark at index 0, then through each mark."""
        self._make_room(_ROOM)

    def __len__(self) -> int:
        return self.end - self.base

    def add(self, batch: StepMarks) -> None:
        """Hold a process's marks until ``advance`` reaches them."""
        if len(batch):
            self._held.append(packed("q", _used(batch)))

    def advance(self, until_ns: int) -> None:
        """Take the held marks up to a moment that every process has reported; later calls bring later marks only."""
        if not self._held:
            return
        merged = self._held[0]
        if len(self._held) > 1:
            merged = np.concatenate(self._held, axis=1)
            merged = merged[:, np.argsort(merged[0], kind="stable")]
        count = merged.shape[1] if merged[0, -1] <= until_ns else int(merged[0].searchsorted(until_ns, "right"))
        self._held = [merged[:, count:]] if count < merged.shape[1] else []
        if count:
            self._append(merged[:, :count])

    def _append(self, merged: Ints) -> None:
        count = merged.shape[1]
        self._make_room(count)
        begin = self.end - self._origin
        end = begin + count
        self._state[:, begin:end] = merged[:2]
        self._follow(self._state[1, begin:end])
        marks = self._marks[:, begin:end]
        marks[_COUNTED] = merged[2:]
        steps, encodes, _, decoded, encoded, prefilling, decoding, _, _, _, share, decodes, fixed, scheduled = marks
        requests = prefilling + decoding
        # counts are never negative: their sign is whether there were any
        np.sign(requests, out=steps)
        np.sign(encoded, out=encodes)
        np.sign(decoding, out=decodes)
        at_least_one = np.maximum(requests, 1.0)
        np.divide(prefilling, at_least_one, out=share)
        np.divide(decodes, at_least_one, out=fixed)
        scheduled[:] = _scheduled(decoded, decoding, decodes)
        before, after = self._sums[:, begin : begin + 1], self._sums[:, begin + 1 : end + 1]
        np.add(before, np.add.accumulate(marks[_DECODES:], axis=1), out=after)
        self.end += count

    def _follow(self, running: Ints) -> None:
        """Know the state after each new mark, and which was the last to leave nothing running."""
        idle = (running <= 0).nonzero()[0]
        if len(idle):
            if running.min() < 0:
                known = np.concatenate([[self._last_running], running])
                last = np.maximum.accumulate(np.where(known >= 0, np.arange(len(known)), 0))
                running[:] = known[last][1:]
                idle = (running <= 0).nonzero()[0]
            self.last_idle = self.end + int(idle[-1]) if len(idle) else self.last_idle
        self._last_running = int(running[-1])

    def _make_room(self, count: int) -> None:
        """Have room for as many marks after the last, moving those held to the front of longer arrays if need be."""
        if self.end - self._origin + count <= self._state.shape[1]:
            return
        first, end, needed = self.base - self._origin, self.end - self._origin, len(self) + count
        room = needed + max(_ROOM, needed // 4)
        self._state = _moved(self._state[:, first:end], room)
        self._marks = _moved(self._marks[:, first:end], room)
        self._sums = _moved(self._sums[:, first : end + 1], room + 1)
        self._origin = self.base
        self._at, self._running = (row.data for row in self._state)
        self._steps = self._marks[0].data
        self._decodes, self._fixed, self._scheduled = (row.data for row in self._sums)

    def drop_before(self, position: int) -> None:
        """Forget marks before a position, keeping one so that intervals and sums still have a start."""
        base = min(position, self.end) - 1
        if base > self.base:
            self.base = base
            self.begin_ns = self.at(base)

    # ---- ranges of marks, at positions [lo, hi) ---------------------------------------------------

    def moments(self, lo: int, hi: int) -> Ints:
        """When marks came; nanoseconds."""
        return self._state[0, lo - self._origin : hi - self._origin]

    def running(self, lo: int, hi: int) -> Ints:
        """Requests that went on running after each mark."""
        return self._state[1, lo - self._origin : hi - self._origin]

    def marks(self, lo: int, hi: int) -> Floats:
        """What is held of each mark, shape (len(MARKED), hi - lo)."""
        return self._marks[:, lo - self._origin : hi - self._origin]

    def decode_steps(self, lo: int, hi: int) -> Floats:
        """Decoding steps since the boot, through each mark."""
        return self._sums[0, lo + 1 - self._origin : hi + 1 - self._origin]

    def decode_scheduled(self, lo: int, hi: int) -> Floats:
        """Decode tokens that one request was scheduled for, by mark."""
        return np.diff(self._sums[2, lo - self._origin : hi + 1 - self._origin])

    # ---- single marks, by position ----------------------------------------------------------------

    def at(self, position: int) -> int:
        """When a mark came; nanoseconds."""
        return self._at[position - self._origin]

    def runs(self, position: int) -> bool:
        """Whether anything went on running after a mark."""
        return self._running[position - self._origin] > 0

    def prompt_computed(self, position: int) -> float:
        """Computed prompt tokens that the engine counted at a mark."""
        return float(self._marks[MARKED.index("prompt_computed"), position - self._origin])

    def decoded(self) -> tuple[memoryview[float], memoryview[float], memoryview[float], int]:
        """Sums over the decoding steps (their number, fixed part and scheduled tokens) through each mark, and the
        position before that of the first.
        """
        return self._decodes, self._fixed, self._scheduled, self._origin - 1

    def decoded_through(self, position: int) -> tuple[float, float]:
        """Decoding steps, and the tokens scheduled in them for one request, up to and including a position."""
        i = position + 1 - self._origin
        return self._decodes[i], self._scheduled[i]

    def decode_step(self, number: float) -> int:
        """Position of the boot's so-manieth decoding step; of the first mark held when that was before it."""
        before = self._origin - 1
        return before + bisect_left(self._decodes, number, self.base - before, self.end - before)

    def position_after(self, at_ns: int) -> int:
        """Position of the first mark later than ``at_ns`` (``end`` when there is none)."""
        origin = self._origin
        return origin + bisect_right(self._at, at_ns, self.base - origin, self.end - origin)

    def nearest(self, at_ns: int) -> int:
        """Position of the step nearest to a moment, of any mark when none is a step.

        With several API servers a sequence's last output may be seen by one and its step by another.
        """
        origin = self._origin
        first, end = self.base - origin, self.end - origin
        i = bisect_left(self._at, at_ns, first, end)
        if i < end and self._at[i] == at_ns and self._steps[i]:
            return origin + i
        return origin + self._near(at_ns, i, first, end)

    def _near(self, at_ns: int, i: int, first: int, end: int) -> int:
        """Index of the step nearest to a moment that lies between the marks at i - 1 and i."""
        at, steps = self._at, self._steps
        before = next((j for j in range(i - 1, max(i - 1 - _LOOK, first - 1), -1) if steps[j]), None)
        after = next((j for j in range(i, min(i + _LOOK, end)) if steps[j]), None)
        candidates = [j for j in (before, after) if j is not None]
        if not candidates:
            candidates = [j for j in (i - 1, i) if first <= j < end]
        return min(candidates, key=lambda j: (abs(at[j] - at_ns), j))


def _moved(held: npt.NDArray[_Number], room: int) -> npt.NDArray[_Number]:
    """Columns at the front of an array with room for as many."""
    moved = np.empty((len(held), room), held.dtype)
    moved[:, : held.shape[1]] = held
    return moved


def packed(code: Literal["q", "d"], columns: Sequence[Sequence[float]]) -> npt.NDArray[Any]:
    """Columns of equal length, of whole numbers ("q") or of floats ("d"), as rows of an array that is only read.

    Takes a third of the time in which numpy looks at every number of every sequence.
    """
    pack = _packer(len(columns[0]), code)
    joined = b"".join([pack(*column) for column in columns])
    return np.frombuffer(joined, np.int64 if code == "q" else np.float64).reshape(len(columns), -1)


@functools.lru_cache(maxsize=512)
def _packer(count: int, code: str) -> Callable[..., bytes]:
    """Packs as many numbers as an array holds them."""
    return struct.Struct(f"{count}{code}").pack


def _scheduled(tokens: Floats, decoding: Floats, decodes: Floats) -> Floats:
    """Decode tokens per decoding request by mark, without what is beyond the usual number.

    ``decodes`` is 1 for marks that decoded and 0 for others.
    """
    if tokens.tobytes() == decoding.tobytes():
        return decodes
    each = tokens / np.maximum(decoding, 1.0)
    if tokens.any():
        each = np.minimum(each, np.ceil(np.median(each[decodes > 0])) if decodes.any() else 1.0)
    scheduled: Floats = each * decodes
    return scheduled
