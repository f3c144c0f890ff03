"""Step marks of one engine index as growing columns, with the running sums that make settlement cheap.

A mark's *position* counts from the boot's first mark and never changes, however much of the past is dropped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from farthing.domain.records import StepMarks

__all__ = ["COLUMNS", "Ints", "MarkTrack"]

Ints = npt.NDArray[np.int64]

_LOOK = 16
"""Marks without a step that may lie between two steps: one per API server."""

COLUMNS = (
    "at_ns",
    "running",
    "waiting",
    "prefill_requests",
    "prefill_tokens",
    "decode_requests",
    "decode_tokens",
    "encoder_inputs",
    "encoder_tokens",
    "generated",
    "prompt_computed",
    "prompt_cached",
    "preempted",
)


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
        self.columns: dict[str, Ints] = {name: np.empty(0, np.int64) for name in COLUMNS}
        self.decode_steps: Ints = np.empty(0, np.int64)
        self.decode_fixed: npt.NDArray[np.float64] = np.empty(0, np.float64)
        self.decode_scheduled: npt.NDArray[np.float64] = np.empty(0, np.float64)
        self._held: list[dict[str, Ints]] = []
        self._running = 0
        self._steps_before = 0
        self._fixed_before = 0.0
        self._scheduled_before = 0.0

    def __len__(self) -> int:
        return len(self.columns["at_ns"])

    @property
    def end(self) -> int:
        """Position after the last mark held."""
        return self.base + len(self)

    def add(self, batch: StepMarks) -> None:
        """Hold a process's marks until ``advance`` reaches them."""
        if len(batch):
            self._held.append({name: np.asarray(getattr(batch, name), np.int64) for name in COLUMNS})

    def advance(self, until_ns: int) -> None:
        """Take the held marks up to a moment that every process has reported; later calls bring later marks only."""
        if not self._held:
            return
        merged = {name: np.concatenate([held[name] for held in self._held]) for name in COLUMNS}
        if len(self._held) > 1:
            order = np.argsort(merged["at_ns"], kind="stable")
            merged = {name: values[order] for name, values in merged.items()}
        count = int(np.searchsorted(merged["at_ns"], until_ns, side="right"))
        rest = {name: values[count:] for name, values in merged.items()}
        self._held = [rest] if len(rest["at_ns"]) else []
        if count:
            self._append({name: values[:count] for name, values in merged.items()})

    def _append(self, merged: dict[str, Ints]) -> None:
        merged["running"] = self._known(merged["running"])
        decoding = merged["decode_requests"]
        requests = np.maximum(merged["prefill_requests"] + decoding, 1)
        decodes = decoding > 0
        steps = self._steps_before + np.cumsum(decodes)
        fixed = self._fixed_before + np.cumsum(np.where(decodes, 1.0 / requests, 0.0))
        each = merged["decode_tokens"] / np.maximum(decoding, 1)
        usual = np.ceil(np.median(each[decodes])) if decodes.any() else 1.0
        scheduled = self._scheduled_before + np.cumsum(np.minimum(each, usual) * decodes)
        self._steps_before, self._fixed_before = int(steps[-1]), float(fixed[-1])
        self._scheduled_before = float(scheduled[-1])
        for name in COLUMNS:
            self.columns[name] = np.concatenate([self.columns[name], merged[name]])
        self.decode_steps = np.concatenate([self.decode_steps, steps])
        self.decode_fixed = np.concatenate([self.decode_fixed, fixed])
        self.decode_scheduled = np.concatenate([self.decode_scheduled, scheduled])

    def _known(self, running: Ints) -> Ints:
        """``running`` with unknown values replaced by the last known one."""
        known = np.concatenate([[self._running], running])
        last = np.maximum.accumulate(np.where(known >= 0, np.arange(len(known)), 0))
        filled: Ints = known[last]
        self._running = int(filled[-1])
        return filled[1:]

    def drop_before(self, position: int) -> None:
        """Forget marks before a position, keeping one so that intervals and sums still have a start."""
        count = min(max(0, position - 1 - self.base), len(self))
        if count:
            for name in COLUMNS:
                self.columns[name] = self.columns[name][count:]
            self.decode_steps = self.decode_steps[count:]
            self.decode_fixed = self.decode_fixed[count:]
            self.decode_scheduled = self.decode_scheduled[count:]
            self.base += count

    def position_after(self, at_ns: int) -> int:
        """Position of the first mark later than ``at_ns`` (``end`` when there is none)."""
        return self.base + int(np.searchsorted(self.columns["at_ns"], at_ns, side="right"))

    def nearest(self, at_ns: int) -> int:
        """Position of the step nearest to a moment, of any mark when none is a step.

        With several API servers a sequence's last output may be seen by one and its step by another.
        """
        i = int(np.searchsorted(self.columns["at_ns"], at_ns))
        candidates = (*self._steps_near(i, -1), *self._steps_near(i, 1))
        if not candidates:
            candidates = tuple(j for j in (i - 1, i) if 0 <= j < len(self))
        at = self.columns["at_ns"]
        return self.base + min(candidates, key=lambda j: (abs(int(at[j]) - at_ns), j))

    def _steps_near(self, i: int, direction: int) -> tuple[int, ...]:
        """The next step before (-1) or from (1) index i on, looking at a few marks."""
        j = i - 1 if direction < 0 else i
        for _ in range(_LOOK):
            if not 0 <= j < len(self):
                break
            if self.columns["prefill_requests"][j] + self.columns["decode_requests"][j] > 0:
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
