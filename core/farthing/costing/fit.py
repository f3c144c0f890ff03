"""The model of busy time: non-negative least squares over recent windows, with its error and its intervals.

    busy ~ b_step*steps + b_prefill*prefill tokens + b_context*(prefill token x context) + b_decode*decode tokens
           + b_attended*attended context + b_image*encoder steps + b_encoder*encoder tokens,      all b >= 0

A weak ridge pulls each coefficient towards a documented default, so that what the data cannot tell apart
(and the first windows of a new engine) stays physical. Source: Lawson and Hanson, Solving Least Squares
Problems, 1974, ch. 23 (NNLS); the ridge is the usual augmentation of the design matrix by scaled unit rows.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farthing.costing.nonnegative import nonnegative_minimum
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
RIDGE_SECONDS = 0.02
"""How much a coefficient that is off by 100 % of its default is held against the fit, in seconds."""
MINIMUM_WINDOWS = 6
"""Fewer busy windows than this are no fit: the split is ``assumed``."""
REFIT_ALWAYS = 60
"""Windows up to which every one is followed by a new fit; later ones change it less and less."""
REFIT_EVERY = 6
"""After that, a new fit once in as many windows: half a minute."""
GOOD_WAPE = 0.10
"""Walk-forward error up to which a split is ``modelled``; beyond it is ``estimated``."""
_Z90 = 1.6449


def solve(gram: Floats, moment: Floats, prior: Floats, ridge: float = RIDGE_SECONDS) -> Floats:
    """Coefficients (target per unit, shape (k,)) minimising |X b - y|^2 + ridge^2 |b / prior - 1|^2, with b >= 0.

    ``gram`` is X'X (k, k), ``moment`` X'y (k,), ``prior`` (k,) positive defaults, ``ridge`` in units of y.
    """
    return nonnegative_minimum(*_scaled(gram, moment, prior, ridge)) * prior


def optimality_gap(
    gram: Floats, moment: Floats, prior: Floats, coefficients: Floats, ridge: float = RIDGE_SECONDS
) -> float:
    """How far coefficients are from the optimum: the largest violation of the KKT conditions, relative to |X'y|.

    0 (up to rounding) for what ``solve`` returns; zeroing or changing any coefficient that matters raises it.
    Source: Lawson and Hanson 1974, theorem 23.4.
    """
    matrix, target = _scaled(gram, moment, prior, ridge)
    unit = coefficients / prior
    gradient = matrix @ unit - target
    violation = np.where(unit > 0, np.abs(gradient), np.maximum(-gradient, 0.0))
    return float(violation.max() / max(float(np.abs(target).max()), 1e-300))


def _scaled(gram: Floats, moment: Floats, prior: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Normal equations in units of the defaults, ridge included."""
    matrix = gram * (prior[:, None] * prior)
    matrix.ravel()[:: len(prior) + 1] += ridge**2
    return matrix, moment * prior + ridge**2


_BLOCKS = 120
"""Parts of a horizon that are forgotten as one: half a minute each, of an hour."""


class _Held:
    """What the windows of a horizon added to the sums, oldest first: X'X, X'y, y'y and the number of rows of each.

    A few windows share a block and are forgotten together, of X'X its upper triangle is kept, and a block stays where
    it is: every window as objects would be gigabytes for an hour of a thousand engines, and arrays that grow leave
    holes behind them that nothing fits into.
    """

    def __init__(self, features: int, horizon: int) -> None:
        self._upper = np.triu_indices(features)
        self._mirror = np.zeros((features, features), np.intp)
        self._mirror[self._upper] = self._mirror.T[self._upper] = np.arange(len(self._upper[0]))
        self._features = features
        self._horizon = horizon
        self._block = max(1, horizon // _BLOCKS)
        """Windows of a block."""
        self._blocks: deque[Floats] = deque()
        self._count = 0

    def append(self, gram: Floats, moment: Floats, square: float, rows: int) -> None:
        """Hold another window."""
        if self._count % self._block == 0:
            self._blocks.append(np.zeros(len(self._upper[0]) + self._features + 2))
        block, k = self._blocks[-1], self._features
        block[: -k - 2] += gram[self._upper]
        block[-k - 2 : -2] += moment
        block[-2] += square
        block[-1] += rows
        self._count += 1

    def outdated(self) -> tuple[Floats, Floats, float, int] | None:
        """Let go of the oldest block where all the windows of the horizon came after it; None where none did."""
        if self._count - self._block < self._horizon:
            return None
        self._count -= self._block
        block, k = self._blocks.popleft(), self._features
        return block[self._mirror], block[-k - 2 : -2], float(block[-2]), int(block[-1])


@dataclass(slots=True)
class _Errors:
    absolute: float = 0.0
    actual: float = 0.0


class _Basis(NamedTuple):
    """What a fit was made of: it is described and checked by this, whatever was added since and whenever one asks."""

    gram: Floats
    moment: Floats
    square: float
    rows: int
    windows: int
    wape: float | None


class FitHistory:
    """A sliding horizon of windows and the fit they give; deterministic in the order of ``add``.

    It is ``horizon`` windows long, or up to a block's longer.

    The fit is of busy seconds by default; ``features``, ``defaults`` and ``ridge`` make it one of joules.
    Sums of products slide along, so a window costs the same however long the horizon is.
    """

    def __init__(
        self,
        horizon: int,
        *,
        features: tuple[str, ...] = FEATURES,
        defaults: dict[str, float] | None = None,
        ridge: float = RIDGE_SECONDS,
        name: str = "nnls",
    ) -> None:
        k = len(features)
        self._features = features
        self._prior = np.array([(defaults or DEFAULT_COEFFICIENTS)[feature] for feature in features])
        self._ridge = ridge
        self._name = name
        self._held = _Held(k, horizon)
        self._rows = 0
        self._gram, self._moment, self._square = np.zeros((k, k)), np.zeros(k), 0.0
        self._errors = _Errors()
        self._coefficients = self._prior.copy()
        self._current: Fit | None = None
        self.windows = 0
        self._refit()

    def add(self, rows: Floats, targets: Floats) -> None:
        """Learn from a window: ``rows`` (n, k) of features and ``targets`` (n,); without both it changes nothing.

        The window's error is taken first, against the coefficients of the past: that is walking forward.
        """
        target, features = float(np.add.reduce(targets)), np.add.reduce(rows)
        if target <= 0 or not np.count_nonzero(features):
            return
        if self.windows >= MINIMUM_WINDOWS:
            self._errors.absolute += abs(float(features.dot(self._coefficients)) - target)
            self._errors.actual += target
        gram, moment, square = rows.T.dot(rows), rows.T.dot(targets), float(targets.dot(targets))
        self._held.append(gram, moment, square, len(rows))
        self._gram += gram
        self._moment += moment
        self._square += square
        self._rows += len(rows)
        if outdated := self._held.outdated():
            self._forget(*outdated)
        self.windows += 1
        if self.windows <= REFIT_ALWAYS or self.windows % REFIT_EVERY == 0:
            self._refit()

    def gap(self, coefficients: dict[str, float]) -> float:
        """Optimality gap of coefficients on the windows that the current fit was made of."""
        values = np.array([coefficients[feature] for feature in self._features])
        return optimality_gap(self._basis.gram, self._basis.moment, self._prior, values, self._ridge)

    def current(self) -> Fit:
        """The fit as it stands."""
        if self._current is None:
            self._current = self._describe()
        return self._current

    def _refit(self) -> None:
        if self.windows >= MINIMUM_WINDOWS:
            self._coefficients = solve(self._gram, self._moment, self._prior, self._ridge)
        wape = self._errors.absolute / self._errors.actual if self._errors.actual > 0 else None
        gram, moment = self._gram.copy(), self._moment.copy()
        self._basis = _Basis(gram, moment, self._square, self._rows, self.windows, wape)
        self._current = None

    def _forget(self, gram: Floats, moment: Floats, square: float, rows: int) -> None:
        self._gram -= gram
        self._moment -= moment
        self._square -= square
        self._rows -= rows

    def _describe(self) -> Fit:
        windows, wape = self._basis.windows, self._basis.wape
        if windows < MINIMUM_WINDOWS:
            method = ASSUMED
        else:
            method = MODELLED if wape is not None and wape <= GOOD_WAPE else ESTIMATED
        digest = hashlib.sha256(self._coefficients.tobytes()).hexdigest()[:12]
        return Fit(
            version=f"{self._name}-{windows}-{digest}",
            method=method,
            coefficients=dict(zip(self._features, self._coefficients.tolist(), strict=True)),
            intervals=_Intervals(self._features, self._coefficients, self._prior, self._ridge, self._basis),
            walk_forward_wape=wape,
            windows=windows,
        )


class _Intervals(Mapping[str, tuple[float, float]]):
    """90 % bounds of a fit's coefficients, computed when first read: most fits split windows and are never shown.

    They come from the regularised normal equations, and are wide where features are collinear.
    """

    def __init__(self, features: tuple[str, ...], b: Floats, prior: Floats, ridge: float, basis: _Basis) -> None:
        self._features, self._b, self._prior, self._ridge, self._basis = features, b, prior, ridge, basis

    def __getitem__(self, feature: str) -> tuple[float, float]:
        return self._bounds[feature]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)

    @functools.cached_property
    def _bounds(self) -> dict[str, tuple[float, float]]:
        basis, b, k = self._basis, self._b, len(self._features)
        count = basis.rows
        if count <= k:
            return dict.fromkeys(self._features, (0.0, float("inf")))
        squares = basis.square - 2 * float(b @ basis.moment) + float(b @ basis.gram @ b)
        variance = max(0.0, squares) / (count - k)
        matrix, _ = _scaled(basis.gram, basis.moment, self._prior, self._ridge)
        spread = _Z90 * np.sqrt(variance * np.diag(np.linalg.inv(matrix))) * self._prior
        low, high = np.maximum(0.0, b - spread).tolist(), (b + spread).tolist()
        return {feature: (low[i], high[i]) for i, feature in enumerate(self._features)}
