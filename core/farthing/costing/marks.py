"""Step marks of one engine index as growing columns, with the running sums that make settlement cheap.

A mark's *position* counts from the boot's first mark and never changes, however much of the past is dropped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from farthing.domain.records import StepMarks

__all__ = ["COLUMNS", "Ints", "MarkTrack"]

Ints = npt.NDArray[np.int64]

COLUMNS = tuple(StepMarks.__dataclass_fields__)
"""Names of the columns of step marks."""


_AT, _RUNNING = COLUMNS.index("at_ns"), COLUMNS.index("running")
_PREFILLING, _DECODING = COLUMNS.index("prefill_requests"), COLUMNS.index("decode_requests")
_DECODE_TOKENS = COLUMNS.index("decode_tokens")
_LOOK = 16
"""Marks without a step that may lie between two steps: one per API server."""


class MarkTrack:
    """The marks of one engine index, merged over API-server processes in time order.

    ``decode_steps[i]`` is how many marks up to and including i decoded for anyone, and ``decode_fixed[i]`` the
    sum over them of 1 / (requests in the step): the share of a step's fixed part that one request carries.
    ``decode_scheduled[i]`` sums decode tokens / decoding requests: the tokens that one request was scheduled for,
    without those beyond the usual number per request: a resumed request computes its tokens again in one chunk, which
    the engine counts as decoding.
    All are cumulative since the boot, so differences give any range in constant time. A mark without scheduler
    statistics (``running`` -1) takes over the state of the mark before it.
    """

    def __init__(self) -> None:
        self.base = 0
        """Position of the first mark held."""
        self._ints: Ints = np.empty((len(COLUMNS), 0), np.int64)
        self._sums: npt.NDArray[np.float64] = np.empty((3, 0), np.float64)
        self._held: list[Ints] = []
        self._running = 0
        self._before = np.zeros((3, 1))
        self.columns: dict[str, Ints] = {}
        """Views on the marks held, by the names of ``COLUMNS``."""
        self._look()

    def __len__(self) -> int:
        return int(self._ints.shape[1])

    @property
    def end(self) -> int:
        """Position after the last mark held."""
        return self.base + len(self)

    def add(self, batch: StepMarks) -> None:
        """Hold a process's marks until ``advance`` reaches them."""
        if len(batch):
            self._held.append(np.array([getattr(batch, name) for name in COLUMNS], np.int64))

    def advance(self, until_ns: int) -> None:
        """Take the held marks up to a moment that every process has reported; later calls bring later marks only."""
        if not self._held:
            return
        merged = self._held[0]
        if len(self._held) > 1:
            merged = np.concatenate(self._held, axis=1)
            merged = merged[:, np.argsort(merged[_AT], kind="stable")]
        count = int(merged[_AT].searchsorted(until_ns, side="right"))
        self._held = [merged[:, count:]] if count < merged.shape[1] else []
        if count:
            self._append(merged[:, :count])

    def _append(self, merged: Ints) -> None:
        running = merged[_RUNNING]
        if running.min() < 0:
            merged[_RUNNING] = self._known(running)
        self._running = int(merged[_RUNNING, -1])
        decoding, tokens = merged[_DECODING], merged[_DECODE_TOKENS]
        decodes = decoding > 0
        each = tokens / np.maximum(decoding, 1)
        if tokens.max() and not np.array_equal(tokens, decoding):
            each = np.minimum(each, np.ceil(np.median(each[decodes])) if decodes.any() else 1.0)
        parts = np.array([decodes, decodes / np.maximum(merged[_PREFILLING] + decoding, 1), each * decodes])
        sums = self._before + np.cumsum(parts, axis=1)
        self._before = sums[:, -1:]
        self._ints = np.concatenate([self._ints, merged], axis=1)
        self._sums = np.concatenate([self._sums, sums], axis=1)
        self._look()

    def _look(self) -> None:
        self.columns = dict(zip(COLUMNS, self._ints, strict=True))
        self.decode_steps, self.decode_fixed, self.decode_scheduled = self._sums

    def _known(self, running: Ints) -> Ints:
        """``running`` with unknown values replaced by the last known one."""
        known = np.concatenate([[self._running], running])
        last = np.maximum.accumulate(np.where(known >= 0, np.arange(len(known)), 0))
        filled: Ints = known[last]
        return filled[1:]

    def drop_before(self, position: int) -> None:
        """Forget marks before a position, keeping one so that intervals and sums still have a start."""
        count = min(max(0, position - 1 - self.base), len(self))
        if count:
            self._ints, self._sums = self._ints[:, count:], self._sums[:, count:]
            self.base += count
            self._look()

    def position_after(self, at_ns: int) -> int:
        """Position of the first mark later than ``at_ns`` (``end`` when there is none)."""
        return self.base + int(self._ints[_AT].searchsorted(at_ns, side="right"))

    def nearest(self, at_ns: int) -> int:
        """Position of the step nearest to a moment, of any mark when none is a step.

        With several API servers a sequence's last output may be seen by one and its step by another.
        """
        at = self._ints[_AT]
        i = int(at.searchsorted(at_ns))
        if i < len(at) and at[i] == at_ns and self._is_step(i):
            return self.base + i
        candidates = (*self._steps_near(i, -1), *self._steps_near(i, 1))
        if not candidates:
            candidates = tuple(j for j in (i - 1, i) if 0 <= j < len(self))
        return self.base + min(candidates, key=lambda j: (abs(int(at[j]) - at_ns), j))

    def _is_step(self, i: int) -> bool:
        return bool(self._ints[_PREFILLING, i] or self._ints[_DECODING, i])

    def _steps_near(self, i: int, direction: int) -> tuple[int, ...]:
        """The next step before (-1) or from (1) index i on, looking at a few marks."""
        j = i - 1 if direction < 0 else i
        for _ in range(_LOOK):
            if not 0 <= j < len(self):
                break
            if self._is_step(j):
                return (j,)
            j += direction
        return ()

    def decode_steps_through(self, position: int) -> int:
        """Decoding steps up to and including a position."""
        i = position - self.base
        return int(self.decode_steps[i]) if i >= 0 else 0

    def decode_fixed_through(self, position: int) -> float:
        """Sum of 1 / requests over the decoding steps up to and including a position."""
        i = position - self.base
        return float(self.decode_fixed[i]) if i >= 0 else 0.0

    def decode_scheduled_through(self, position: int) -> float:
        """Decode tokens scheduled for a request that took part in every decoding step up to a position."""
        i = position - self.base
        return float(self.decode_scheduled[i]) if i >= 0 else 0.0
