"""The model of busy time: non-negative least squares over recent windows, with its error and its intervals.

    busy ~ b_step*steps + b_prefill*prefill tokens + b_context*(prefill token x context) + b_decode*decode tokens
           + b_attended*attended context + b_image*encoder steps + b_encoder*encoder tokens,      all b >= 0

A weak ridge pulls each coefficient towards a documented default, so that what the data cannot tell apart
(and the first windows of a new engine) stays physical. Source: Lawson and Hanson, Solving Least Squares
Problems, 1974, ch. 23 (NNLS); the ridge is the usual augmentation of the design matrix by scaled unit rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from farthing.domain.conventions import ASSUMED, ESTIMATED, MODELLED
from farthing.domain.model import Fit

__all__ = ["DEFAULT_COEFFICIENTS", "FEATURES", "FitHistory", "optimality_gap", "solve"]

Floats = npt.NDArray[np.float64]

STEPS = "steps"
PREFILL_TOKENS = "prefill_tokens"
PREFILL_CONTEXT = "prefill_context"
DECODE_TOKENS = "decode_tokens"
ATTENDED = "attended_context"
ENCODER_STEPS = "encoder_steps"
ENCODER_TOKENS = "encoder_tokens"
FEATURES = (STEPS, PREFILL_TOKENS, PREFILL_CONTEXT, DECODE_TOKENS, ATTENDED, ENCODER_STEPS, ENCODER_TOKENS)

DEFAULT_COEFFICIENTS = {
    # seconds per unit, for an 8B model in bf16 on one H100: 16 GB of weights at 3.35 TB/s read once a step;
    # 16 GFLOP per token at about half of 990 TFLOP/s, and as measured at 2k tokens (16 us);
    # quadratic attention 4*4096*32 FLOP per token and context; 128 KiB of KV cache per attended token;
    # a ViT of 0.6 G parameters over four patches per token
    STEPS: 6e-3,
    PREFILL_TOKENS: 1.6e-5,
    PREFILL_CONTEXT: 1.1e-9,
    DECODE_TOKENS: 2e-5,
    ATTENDED: 3.9e-8,
    ENCODER_STEPS: 3e-3,
    ENCODER_TOKENS: 1.5e-5,
}
RIDGE_SECONDS = 0.05
"""How much a coefficient that is off by 100 % of its default is held against the fit, in seconds of one window."""
MINIMUM_WINDOWS = 6
"""Fewer busy windows than this are no fit: the split is ``assumed``."""
GOOD_WAPE = 0.10
"""Walk-forward error up to which a split is ``modelled``; beyond it is ``estimated``."""
_Z90 = 1.6449


def solve(matrix: Floats, busy: Floats, prior: Floats) -> Floats:
    """Coefficients (seconds per unit, shape (k,)) minimising |X b - y|^2 + ridge, with b >= 0.

    ``matrix`` is (n, k) features, ``busy`` (n,) seconds, ``prior`` (k,) positive defaults.
    """
    scaled, target = _augmented(matrix, busy, prior)
    solution, _ = nnls(scaled, target, maxiter=50 * len(prior))
    return np.asarray(solution * prior, np.float64)


def optimality_gap(matrix: Floats, busy: Floats, prior: Floats, coefficients: Floats) -> float:
    """How far coefficients are from the optimum: the largest violation of the KKT conditions, relative to |X'y|.

    0 (up to rounding) for what ``solve`` returns; zeroing or changing any coefficient that matters raises it.
    Source: Lawson and Hanson 1974, theorem 23.4.
    """
    scaled, target = _augmented(matrix, busy, prior)
    unit = coefficients / prior
    gradient = scaled.T @ (scaled @ unit - target)
    violation = np.where(unit > 0, np.abs(gradient), np.maximum(-gradient, 0.0))
    return float(violation.max() / max(float(np.abs(scaled.T @ target).max()), 1e-300))


def _augmented(matrix: Floats, busy: Floats, prior: Floats) -> tuple[Floats, Floats]:
    k = len(prior)
    scaled = np.vstack([matrix * prior, RIDGE_SECONDS * np.eye(k)])
    return scaled, np.concatenate([busy, np.full(k, RIDGE_SECONDS)])


@dataclass(slots=True)
class _Errors:
    absolute: float = 0.0
    actual: float = 0.0


class FitHistory:
    """A sliding horizon of windows and the fit they give; deterministic in the order of ``add``."""

    def __init__(self, horizon: int, defaults: dict[str, float] | None = None) -> None:
        self._prior = np.array([(defaults or DEFAULT_COEFFICIENTS)[name] for name in FEATURES])
        self._horizon = horizon
        self._rows: list[list[float]] = []
        self._busy: list[float] = []
        self._errors = _Errors()
        self._coefficients = self._prior.copy()
        self.windows = 0

    def add(self, features: dict[str, float], busy_seconds: float) -> Fit:
        """The fit that includes this window; windows without busy time leave it as it is.

        The window's error is taken first, against the coefficients of the past: that is walking forward.
        """
        row = [features.get(name, 0.0) for name in FEATURES]
        if busy_seconds > 0 and any(row):
            if self.windows >= MINIMUM_WINDOWS:
                self._errors.absolute += abs(float(np.dot(row, self._coefficients)) - busy_seconds)
                self._errors.actual += busy_seconds
            self._rows.append(row)
            self._busy.append(busy_seconds)
            del self._rows[: -self._horizon]
            del self._busy[: -self._horizon]
            self.windows += 1
            if self.windows >= MINIMUM_WINDOWS:
                self._coefficients = solve(*self.design(), self._prior)
        return self.current()

    def design(self) -> tuple[Floats, Floats]:
        """Features (n, k) and busy seconds (n,) of the windows in the horizon."""
        return np.array(self._rows).reshape(-1, len(FEATURES)), np.array(self._busy)

    def gap(self, coefficients: dict[str, float]) -> float:
        """Optimality gap of coefficients on the windows in the horizon."""
        return optimality_gap(*self.design(), self._prior, np.array([coefficients[name] for name in FEATURES]))

    def current(self) -> Fit:
        """The fit as it stands."""
        wape = self._errors.absolute / self._errors.actual if self._errors.actual > 0 else None
        if self.windows < MINIMUM_WINDOWS:
            method = ASSUMED
        else:
            method = MODELLED if wape is not None and wape <= GOOD_WAPE else ESTIMATED
        values = {name: float(value) for name, value in zip(FEATURES, self._coefficients, strict=True)}
        text = ",".join(f"{name}={value:.12e}" for name, value in values.items())
        version = f"nnls-{self.windows}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return Fit(
            version=version,
            method=method,
            coefficients=values,
            intervals=self._intervals(),
            walk_forward_wape=wape,
            windows=self.windows,
        )

    def _intervals(self) -> dict[str, tuple[float, float]]:
        """90 % bounds from the regularised normal equations; wide where features are collinear."""
        matrix, busy = self.design()
        if len(busy) <= len(FEATURES):
            return {name: (0.0, float("inf")) for name in FEATURES}
        scaled, target = _augmented(matrix, busy, self._prior)
        residual = target - scaled @ (self._coefficients / self._prior)
        variance = float(residual @ residual) / max(1, len(busy) - len(FEATURES))
        spread = _Z90 * np.sqrt(variance * np.diag(np.linalg.inv(scaled.T @ scaled))) * self._prior
        return {
            name: (max(0.0, float(value - half)), float(value + half))
            for name, value, half in zip(FEATURES, self._coefficients, spread, strict=True)
        }
