"""Least squares whose unknowns are not negative, from the normal equations of a handful of features.

Source: Lawson and Hanson, Solving Least Squares Problems, 1974, algorithm 23.10, in the form that needs X'X and X'y
alone (Bro and de Jong, A fast non-negativity-constrained least squares algorithm, Journal of Chemometrics 11, 1997).
It begins with every unknown free, not with none: most fits end there, after one solution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["nonnegative_minimum"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TOLERANCE = 1e-12
"""Relative; a gradient, or an unknown, below it is rounding."""
ROUNDS = 50
"""Unknowns that may be let in, for each unknown there is; a handful is usual."""


def nonnegative_minimum(matrix: Floats, target: Floats) -> Floats:
    """The x >= 0, shape (k,), that minimises x'Ax/2 - t'x, for A = X'X (k, k), positive definite, and t = X'y (k,).

    Raises numpy.linalg.LinAlgError where A is not positive definite.
    """
    np.linalg.cholesky(matrix)  # for its error: solving notices singular matrices only
    count = len(target)
    free, refused = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    solution = _descend(matrix, target, free, np.zeros(count))
    threshold = TOLERANCE * float(np.abs(target).max())
    for _ in range(ROUNDS * count):
        if free.all():
            return solution
        gain = np.where(free | refused, 0.0, target - matrix @ solution)
        entering = int(gain.argmax())
        if gain[entering] <= threshold:
            return solution
        free[entering] = True
        solution = _descend(matrix, target, free, solution)
        if free[entering]:
            refused[:] = False
        else:  # rounding alone let it in, and would again
            refused[entering] = True
    raise np.linalg.LinAlgError("the non-negative fit goes round in circles")


def _descend(matrix: Floats, target: Floats, free: Mask, start: Floats) -> Floats:
    """From a solution that is not negative to the best on the free unknowns; shuts, in place, those that fall to 0."""
    here = start
    while True:
        aim = np.zeros(len(target))
        if free.all():
            aim = np.asarray(np.linalg.solve(matrix, target), np.float64)
        elif free.any():
            aim[free] = np.linalg.solve(matrix[np.ix_(free, free)], target[free])
        falling = free & (aim <= 0)
        if not falling.any():
            return aim
        way = float((here[falling] / np.maximum(here[falling] - aim[falling], np.finfo(np.float64).tiny)).min())
        here = np.where(free, np.maximum(here + way * (aim - here), 0.0), 0.0)
        free &= ~(falling & (here <= TOLERANCE * float(here.max())))
