"""Studies of the fit of busy time: predicting the next window, predicting unseen load, and the phases' shares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from tests.costing.oracle import by_seconds
from tests.costing.oracle_model import Schedule, Step

from farthing.collectors.wire import decode_line
from farthing.costing.fit import FEATURES, MINIMUM_WINDOWS, FitHistory
from farthing.costing.stream import CostStream, Options
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import RecordingError
from farthing.domain.model import SettledWindow
from farthing.domain.records import Started
from farthing.replay.recording import PACKAGED, Recording
from farthing.replay.wire_records import wire_records

__all__ = [
    "FEATURE_SETS",
    "LeftOut",
    "PhaseShares",
    "left_out",
    "phase_shares",
    "rows_of",
    "walk_forward",
    "windows_of",
]

Floats = npt.NDArray[np.float64]

FEATURE_SETS: Mapping[str, Sequence[str]] = {
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
"""Feature sets tried; all but the used one by plain non-negative least squares, without a ridge."""
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


def windows_of(recording: Recording, offset_ns: int = 0) -> tuple[list[SettledWindow], CostStream]:
    """Windows with busy time, as the cost stream cuts them on a grid moved back by ``offset_ns``."""
    records = [
        decode_line(json.dumps(timed.record, separators=(",", ":")).encode())
        for timed in wire_records(recording, boot="accuracy", engine=recording.name)
    ]
    started = records[0]
    if not isinstance(started, Started):
        raise RecordingError(f"{recording.name}: its first record is not a start")
    stream = CostStream(replace(started, at_ns=started.at_ns - offset_ns), lambda start, end: end - start, Options())
    windows = [window for record in records[1:] for window in stream.feed(record)]
    windows += stream.finish()
    return [window for window in windows if window.busy_ns], stream


def walk_forward(recording: Recording, offsets: Sequence[int] = range(5)) -> list[float]:
    """The fit's own walk-forward error (0-1) for grids that start at different seconds."""
    errors = []
    for seconds in offsets:
        _, stream = windows_of(recording, seconds * SECOND)
        errors.append(stream.fit().walk_forward_wape or float("nan"))
    return errors


def rows_of(
    recording: Recording, schedule: Schedule, row_s: float, ridge_s: float, offsets: Sequence[int] = range(5)
) -> tuple[float, dict[str, float]]:
    """Walk-forward error on windows (0-1, mean over offsets) of a fit whose rows are shorter, and its last fit.

    Rows are the replayed steps of ``row_s`` busy seconds; only those that ended before a window predict it.
    """
    rows = [
        (group[-1].at_s, _total(group), sum(step.busy_s for step in group))
        for group in by_seconds(row_s)(schedule.steps)
    ]
    errors = []
    for seconds in offsets:
        windows, _ = windows_of(recording, seconds * SECOND)
        history = FitHistory(len(rows), ridge=ridge_s)
        waiting = iter(rows)
        row = next(waiting, None)
        off = measured = 0.0
        for number, window in enumerate(windows):
            if number >= MINIMUM_WINDOWS:
                b = history.current().coefficients
                off += abs(sum(b[name] * window.features[name] for name in b) - window.busy_ns / SECOND)
                measured += window.busy_ns / SECOND
            while row is not None and row[0] * SECOND <= window.end_ns + 1_000:
                history.add(row[1], row[2])
                row = next(waiting, None)
        errors.append(off / measured)
    return float(np.mean(errors)), history.current().coefficients


def _total(steps: Sequence[Step]) -> dict[str, float]:
    rows = [_step(step) for step in steps]
    return {name: sum(row[name] for row in rows) for name in FEATURES}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A load phase predicted by a fit that never saw it."""

    load: str
    windows: int
    ratio: float
    """Predicted over measured busy time, mean over offsets."""
    lowest: float
    highest: float
    chosen: float
    """The same with the feature set that predicts the other phases' alternate windows best."""


def left_out(recording: Recording, schedule: Schedule, offsets: Sequence[int] = range(5)) -> list[LeftOut]:
    """Every load phase left out of the fit, with all windows that touch it, then predicted where whole."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for seconds in offsets:
        windows, _ = windows_of(recording, seconds * SECOND)
        table = _columns(windows, schedule)
        busy = np.array([window.busy_ns / SECOND for window in windows])
        for load, start, end in _load_phases(recording):
            touching = np.array([w.start_ns < end and w.end_ns > start for w in windows])
            inside = np.array([w.start_ns >= start and w.end_ns <= end for w in windows])
            if not inside.any():
                continue
            history = FitHistory(len(windows))
            for window, touches in zip(windows, touching, strict=True):
                if not touches:
                    history.add(window.features, window.busy_ns / SECOND)
            b = history.current().coefficients
            predicted = sum(b[name] * w.features[name] for w, i in zip(windows, inside, strict=True) if i for name in b)
            best = min(FEATURE_SETS.values(), key=lambda names: _alternate(table, busy, names, ~touching))
            matrix = np.column_stack([table[name] for name in best])
            elsewhere = float((matrix[inside] @ _nnls(matrix[~touching], busy[~touching])).sum())
            measured = float(busy[inside].sum())
            found.setdefault(load, []).append((int(inside.sum()), predicted / measured, elsewhere / measured))
    return [
        LeftOut(
            load=load,
            windows=rows[0][0],
            ratio=float(np.mean([ratio for _, ratio, _ in rows])),
            lowest=min(ratio for _, ratio, _ in rows),
            highest=max(ratio for _, ratio, _ in rows),
            chosen=float(np.mean([ratio for _, _, ratio in rows])),
        )
        for load, rows in found.items()
    ]


@dataclass(frozen=True, slots=True)
class PhaseShares:
    """What one feature set makes of the phases, with 90 % bounds from resampled windows."""

    features: str
    error: float
    """Walk-forward error of plain least squares with these features (0-1)."""
    shares: dict[str, tuple[float, float, float]]
    """Phase (and ``prefill + vision``) -> share of busy time, low, high (0-1)."""


def phase_shares(recording: Recording, schedule: Schedule) -> list[PhaseShares]:
    """Phase shares by feature set."""
    windows, _ = windows_of(recording)
    table = _columns(windows, schedule)
    busy = np.array([window.busy_ns / SECOND for window in windows])
    draw = np.random.default_rng(20261123)
    found = []
    for title, names in FEATURE_SETS.items():
        matrix = np.column_stack([table[name] for name in names])
        samples = []
        for _ in range(_RESAMPLES):
            rows = draw.integers(0, len(busy), len(busy))
            samples.append(_shares(_nnls(matrix[rows], busy[rows]), names, table, busy))
        central = _shares(_nnls(matrix, busy), names, table, busy)
        bounds = {phase: np.quantile([sample[phase] for sample in samples], (0.05, 0.95)) for phase in central}
        found.append(
            PhaseShares(
                features=title,
                error=_walk(matrix, busy),
                shares={phase: (central[phase], float(low), float(high)) for phase, (low, high) in bounds.items()},
            )
        )
    return found


def _shares(b: Floats, names: Sequence[str], table: Mapping[str, Floats], busy: Floats) -> dict[str, float]:
    """Phase shares of busy time, every window scaled to what was measured of it."""
    seconds = {phase: np.zeros(len(busy)) for phase in c.PHASES}
    for name, coefficient in zip(names, b, strict=True):
        if name == "steps":
            seconds[c.PREFILL] += coefficient * table["prefill_share"]
            seconds[c.DECODE] += coefficient * (table["steps"] - table["prefill_share"])
        else:
            seconds[_PHASE[name]] += coefficient * table[name]
    modelled = sum(seconds.values())
    scale = np.divide(busy, modelled, out=np.zeros_like(busy), where=modelled > 0)
    shares = {phase: float((values * scale).sum() / busy.sum()) for phase, values in seconds.items()}
    return {**shares, "prefill + vision": shares[c.PREFILL] + shares[c.VISION]}


def _columns(windows: Sequence[SettledWindow], schedule: Schedule) -> dict[str, Floats]:
    """Features of every window by name, summed over the replayed schedule's steps."""
    at = np.array([step.at_s for step in schedule.steps])
    rows = [_step(step) for step in schedule.steps]
    edges = np.searchsorted(at, [window.end_ns / SECOND + 1e-7 for window in windows], side="right")
    starts = np.searchsorted(at, [window.start_ns / SECOND + 1e-7 for window in windows], side="right")
    sums = {name: np.concatenate([[0.0], np.cumsum([row[name] for row in rows])]) for name in rows[0]}
    return {name: values[edges] - values[starts] for name, values in sums.items()}


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


def _nnls(matrix: Floats, busy: Floats) -> Floats:
    """Plain non-negative least squares, columns scaled to mean 1 first; a feature never seen gets 0."""
    scale = matrix.mean(axis=0)
    used = scale > 0
    solution = np.zeros(matrix.shape[1])
    solution[used] = nnls(matrix[:, used] / scale[used], busy)[0] / scale[used]
    return solution


def _walk(matrix: Floats, busy: Floats) -> float:
    predicted = [float(matrix[i] @ _nnls(matrix[:i], busy[:i])) for i in range(MINIMUM_WINDOWS, len(busy))]
    return float(np.abs(predicted - busy[MINIMUM_WINDOWS:]).sum() / busy[MINIMUM_WINDOWS:].sum())


def _alternate(table: Mapping[str, Floats], busy: Floats, names: Sequence[str], keep: npt.NDArray[np.bool_]) -> float:
    """Error (s) of predicting every other kept window from the rest, both ways."""
    matrix, target = np.column_stack([table[name] for name in names])[keep], busy[keep]
    odd = np.arange(len(target)) % 2 == 1
    return sum(
        float(np.abs(matrix[test] @ _nnls(matrix[~test], target[~test]) - target[test]).sum()) for test in (odd, ~odd)
    )


def _load_phases(recording: Recording) -> list[tuple[str, int, int]]:
    """Load phases of a packaged recording: name, start and end in monotonic nanoseconds."""
    lines = (PACKAGED / recording.name / "phases.txt").read_text(encoding="utf-8").splitlines()
    starts = [(name, recording.anchor.to_mono(round(float(at) * SECOND))) for _, name, at in map(str.split, lines)]
    ends = [at for _, at in starts[1:]] + [recording.anchor.to_mono(recording.end_ns)]
    return [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]
