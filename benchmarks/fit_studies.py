"""Studies of the fit of busy time: predicting the next window, predicting unseen load, and the phases' shares.

The fit is the one that costing uses, rows, ridge and all; what varies is what it may see: features, windows, or the
length of its rows. Features that costing does not know come from the replayed schedule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from tests.costing.oracle_model import Schedule, Step

from farthing.collectors.wire import decode_line
from farthing.costing import stream as stream_module
from farthing.costing.fit import DEFAULT_COEFFICIENTS, FEATURES, RIDGE_SECONDS, FitHistory, solve
from farthing.costing.measure import ROW_NS, measure
from farthing.costing.stream import CostStream
from farthing.costing.work import WindowWork
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import RecordingError
from farthing.domain.model import Fit, SettledWindow
from farthing.domain.records import Started
from farthing.replay.recording import PACKAGED, Recording
from farthing.replay.wire_records import wire_records

__all__ = ["FEATURE_SETS", "Grid", "LeftOut", "PhaseShares", "grids", "left_out", "phase_shares", "rows_of"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FEATURE_SETS: Mapping[str, tuple[str, ...]] = {
    "tokens only": ("steps", "prefill_tokens", "decode_tokens", "encoder_tokens"),
    "+ attended context": ("steps", "prefill_tokens", "decode_tokens", "attended_context", "encoder_tokens"),
    "+ encoder steps": (
        "steps",
        "prefill_tokens",
        "decode_tokens",
        "attended_context",
        "encoder_steps",
        "encoder_tokens",
    ),
    "+ prefill x context (used)": FEATURES,
    "+ prefill steps": (*FEATURES, "prefill_steps"),
    "+ prefill requests": (*FEATURES, "prefill_requests"),
    "+ encoder inputs": (*FEATURES, "encoder_inputs"),
    "without decode tokens": tuple(name for name in FEATURES if name != "decode_tokens"),
}
"""Feature sets tried."""
_DEFAULTS = {**DEFAULT_COEFFICIENTS, "prefill_steps": 3e-3, "prefill_requests": 1e-3, "encoder_inputs": 3e-3}
"""Seconds per unit towards which the ridge pulls; those of features that costing does not use are of its size."""
_PHASE = {
    # whom a feature's time is charged to; the steps' fixed part is shared by requests
    "prefill_tokens": c.PREFILL,
    "prefill_context": c.PREFILL,
    "prefill_steps": c.PREFILL,
    "prefill_requests": c.PREFILL,
    "decode_tokens": c.DECODE,
    "attended_context": c.DECODE,
    "encoder_steps": c.VISION,
    "encoder_tokens": c.VISION,
    "encoder_inputs": c.VISION,
}
_RESAMPLES = 300


@dataclass(frozen=True, slots=True)
class Grid:
    """A recording's busy windows, as the cost stream cuts them on a grid that starts some seconds earlier."""

    windows: tuple[SettledWindow, ...]
    works: tuple[WindowWork, ...]
    """What the stream measured in each window, rows of the fit included."""
    fit: Fit
    """Its fit after the last window."""


def grids(recording: Recording, offsets: Sequence[int] = range(5)) -> list[Grid]:
    """The recording costed on grids moved back by each number of seconds."""
    records = [
        decode_line(json.dumps(timed.record, separators=(",", ":")).encode())
        for timed in wire_records(recording, boot="accuracy", engine=recording.name)
    ]
    started = records[0]
    if not isinstance(started, Started):
        raise RecordingError(f"{recording.name}: its first record is not a start")
    found = []
    for seconds in offsets:
        works: list[WindowWork] = []

        def keep(*args: Any, _works: list[WindowWork] = works, **kwargs: Any) -> WindowWork:
            _works.append(measure(*args, **kwargs))
            return _works[-1]

        with mock.patch.object(stream_module, "measure", keep):
            stream = CostStream(replace(started, at_ns=started.at_ns - seconds * SECOND), lambda a, b: b - a)
            windows = [window for record in records[1:] for window in stream.feed(record)] + stream.finish()
        pairs = [(window, work) for window, work in zip(windows, works, strict=True) if window.busy_ns]
        found.append(Grid(tuple(window for window, _ in pairs), tuple(work for _, work in pairs), stream.fit()))
    return found


def rows_of(schedule: Schedule, on: Sequence[Grid], row_s: float, ridge_s: float) -> tuple[float, dict[str, float]]:
    """Walk-forward error (0-1, mean over grids) of a fit on rows of another length and ridge, and its last fit."""
    names = tuple(FEATURES)
    errors, fit = [], on[-1].fit
    for grid in on:
        fit = _fit(_tables(schedule, grid, row_s), names, ridge_s).current()
        errors.append(fit.walk_forward_wape or float("nan"))
    return float(np.mean(errors)), fit.coefficients


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A load phase predicted by a fit that never saw it."""

    load: str
    windows: int
    ratio: float
    """Predicted over measured busy time with the features used, mean over grids."""
    lowest: float
    highest: float
    chosen: float
    """The same with the feature set that predicts the other phases' alternate windows best."""
    sets: tuple[str, ...]
    """The sets so chosen, by grid."""


def left_out(recording: Recording, schedule: Schedule, on: Sequence[Grid]) -> list[LeftOut]:
    """Every load phase left out of the fit, with all windows that touch it, then predicted where whole."""
    found: dict[str, list[tuple[int, float, float, str]]] = {}
    for grid in on:
        tables = _tables(schedule, grid)
        for load, start, end in _load_phases(recording):
            touching = np.array([w.start_ns < end and w.end_ns > start for w in grid.windows])
            inside = np.array([w.start_ns >= start and w.end_ns <= end for w in grid.windows])
            if not inside.any():
                continue
            history = FitHistory(len(grid.works))
            for work, touches in zip(grid.works, touching, strict=True):
                if not touches:
                    history.add(work.rows, work.busy)
            b = history.current().coefficients
            predicted = sum(b[n] * work.features[n] for work, i in zip(grid.works, inside, strict=True) if i for n in b)
            measured = sum(float(work.busy.sum()) for work, i in zip(grid.works, inside, strict=True) if i)
            best = min(FEATURE_SETS, key=lambda name: _alternate(tables, FEATURE_SETS[name], ~touching))
            elsewhere = _predict(tables, FEATURE_SETS[best], ~touching, inside)
            found.setdefault(load, []).append((int(inside.sum()), predicted / measured, elsewhere, best))
    return [
        LeftOut(
            load=load,
            windows=rows[0][0],
            ratio=float(np.mean([ratio for _, ratio, _, _ in rows])),
            lowest=min(ratio for _, ratio, _, _ in rows),
            highest=max(ratio for _, ratio, _, _ in rows),
            chosen=float(np.mean([ratio for _, _, ratio, _ in rows])),
            sets=tuple(best for *_, best in rows),
        )
        for load, rows in found.items()
    ]


@dataclass(frozen=True, slots=True)
class PhaseShares:
    """What one feature set makes of the phases, with 90 % bounds from resampled windows."""

    features: str
    error: float
    """Walk-forward error with these features (0-1)."""
    shares: dict[str, tuple[float, float, float]]
    """Phase (and ``prefill + vision``) -> share of busy time, low, high (0-1)."""


def phase_shares(schedule: Schedule, grid: Grid) -> list[PhaseShares]:
    """Phase shares by feature set."""
    tables = _tables(schedule, grid)
    busy = np.array([table.busy.sum() for table in tables])
    sums = {name: np.array([table.columns[name].sum() for table in tables]) for name in tables[0].columns}
    draw = np.random.default_rng(20261123)
    found = []
    for title, names in FEATURE_SETS.items():
        prior = np.array([_DEFAULTS[name] for name in names])
        matrices = [table.matrix(names) for table in tables]
        grams = np.array([matrix.T @ matrix for matrix in matrices])
        moments = np.array([matrix.T @ table.busy for matrix, table in zip(matrices, tables, strict=True)])
        samples = []
        for _ in range(_RESAMPLES):
            drawn = draw.integers(0, len(tables), len(tables))
            b = solve(grams[drawn].sum(axis=0), moments[drawn].sum(axis=0), prior)
            samples.append(_shares(b, names, sums, busy))
        central = _shares(solve(grams.sum(axis=0), moments.sum(axis=0), prior), names, sums, busy)
        bounds = {phase: np.quantile([sample[phase] for sample in samples], (0.05, 0.95)) for phase in central}
        found.append(
            PhaseShares(
                features=title,
                error=_fit(tables, names).current().walk_forward_wape or float("nan"),
                shares={phase: (central[phase], float(low), float(high)) for phase, (low, high) in bounds.items()},
            )
        )
    return found


def _shares(b: Floats, names: Sequence[str], sums: Mapping[str, Floats], busy: Floats) -> dict[str, float]:
    """Phase shares of busy time, every window scaled to what was measured of it."""
    seconds = {phase: np.zeros(len(busy)) for phase in c.PHASES}
    for name, coefficient in zip(names, b, strict=True):
        if name == "steps":
            seconds[c.PREFILL] += coefficient * sums["prefill_share"]
            seconds[c.DECODE] += coefficient * (sums["steps"] - sums["prefill_share"])
        else:
            seconds[_PHASE[name]] += coefficient * sums[name]
    modelled = sum(seconds.values())
    scale = np.divide(busy, modelled, out=np.zeros_like(busy), where=modelled > 0)
    shares = {phase: float((values * scale).sum() / busy.sum()) for phase, values in seconds.items()}
    return {**shares, "prefill + vision": shares[c.PREFILL] + shares[c.VISION]}


# ---- windows as rows of any feature ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """One window's rows: features by name, shape (n,), and busy seconds."""

    columns: dict[str, Floats]
    busy: Floats

    def matrix(self, names: Sequence[str]) -> Floats:
        """Shape (n, len(names))."""
        return np.column_stack([self.columns[name] for name in names])


def _tables(schedule: Schedule, grid: Grid, row_s: float = ROW_NS / SECOND) -> list[_Table]:
    """Every window of a grid in rows of so many seconds, by the replayed schedule."""
    at = np.array([step.at_s for step in schedule.steps])
    busy = np.array([step.busy_s for step in schedule.steps])
    steps = [_step(step) for step in schedule.steps]
    columns = {name: np.array([row[name] for row in steps], np.float64) for name in steps[0]}
    found = []
    for window in grid.windows:
        # a mark belongs to the window that ends at it; the schedule's seconds are rounded to less than this
        start, end = window.start_ns / SECOND + 1e-7, window.end_ns / SECOND + 1e-7
        low, high = np.searchsorted(at, [start, end], side="right")
        part = np.floor((at[low:high] - start) / row_s)
        cuts = np.flatnonzero(np.diff(part, prepend=-1.0)) + low
        if not len(cuts):
            found.append(_Table({name: np.zeros(1) for name in columns}, np.zeros(1)))
            continue
        rows = {name: np.add.reduceat(values[:high], cuts) for name, values in columns.items()}
        found.append(_Table(rows, np.add.reduceat(busy[:high], cuts)))
    return found


def _fit(tables: Sequence[_Table], names: tuple[str, ...], ridge_s: float = RIDGE_SECONDS) -> FitHistory:
    history = FitHistory(len(tables), features=names, defaults=_DEFAULTS, ridge=ridge_s)
    for table in tables:
        history.add(table.matrix(names), table.busy)
    return history


def _predict(tables: Sequence[_Table], names: tuple[str, ...], known: Bools, wanted: Bools) -> float:
    """Predicted over measured busy time of the wanted windows, by a fit on the known ones."""
    b = _fit([t for t, is_known in zip(tables, known, strict=True) if is_known], names).current().coefficients
    chosen = [t for t, is_wanted in zip(tables, wanted, strict=True) if is_wanted]
    predicted = sum(float(b[name] * table.columns[name].sum()) for table in chosen for name in names)
    return predicted / sum(float(table.busy.sum()) for table in chosen)


def _alternate(tables: Sequence[_Table], names: tuple[str, ...], keep: Bools) -> float:
    """Error (s) of predicting every other kept window from the rest, both ways."""
    kept = [table for table, is_kept in zip(tables, keep, strict=True) if is_kept]
    error = 0.0
    for tested, known in ((kept[::2], kept[1::2]), (kept[1::2], kept[::2])):
        b = _fit(known, names).current().coefficients
        for table in tested:
            predicted = sum(float(b[name] * table.columns[name].sum()) for name in names)
            error += abs(predicted - float(table.busy.sum()))
    return error


def _step(step: Step) -> dict[str, float]:
    shares = step.shares
    prefills = sum(share.prefill_tokens > 0 for share in shares)
    inputs = sum(share.encoder_inputs for share in shares)
    return {
        "steps": 1.0,
        "prefill_tokens": sum(share.prefill_tokens for share in shares),
        "prefill_context": sum(share.prefill_context for share in shares),
        "decode_tokens": sum(share.decode_tokens for share in shares),
        "attended_context": sum(share.attended for share in shares),
        "encoder_steps": float(inputs > 0),
        "encoder_tokens": sum(share.encoder_tokens for share in shares),
        "encoder_inputs": inputs,
        "prefill_steps": float(prefills > 0),
        "prefill_requests": prefills,
        "prefill_share": prefills / len(shares),
    }


def _load_phases(recording: Recording) -> list[tuple[str, int, int]]:
    """Load phases of a packaged recording: name, start and end in monotonic nanoseconds."""
    lines = (PACKAGED / recording.name / "phases.txt").read_text(encoding="utf-8").splitlines()
    starts = [(name, recording.anchor.to_mono(round(float(at) * SECOND))) for _, name, at in map(str.split, lines)]
    ends = [at for _, at in starts[1:]] + [recording.anchor.to_mono(recording.end_ns)]
    return [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]
