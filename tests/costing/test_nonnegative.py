"""The non-negative minimum, against Lawson and Hanson's own algorithm as SciPy has it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import nnls

from farthing.costing.nonnegative import nonnegative_minimum

MOST = 8
"""Unknowns; the fits have seven and four."""
NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@st.composite
def problems(draw):
    """A design and its targets, with zero and with collinear columns, and what it takes to have one answer."""
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, MOST))
    design = draw(arrays(np.float64, (rows, columns), elements=NUMBERS))
    if draw(st.booleans()) and columns > 1:
        design[:, -1] = 2 * design[:, 0]
    target = draw(arrays(np.float64, (rows,), elements=NUMBERS))
    ridge = draw(st.sampled_from([1e-2, 1.0])) * max(1.0, float(np.abs(design).max()))
    return np.vstack([design, ridge * np.eye(columns)]), np.concatenate([target, np.zeros(columns)])


@settings(max_examples=150, deadline=None)
@given(problems())
def test_it_is_as_low_as_the_reference_and_never_negative(problem):
    """On the same problem in the form that the reference takes: a design and targets."""
    design, target = problem
    found = nonnegative_minimum(design.T @ design, design.T @ target)
    reference, distance = nnls(design, target)
    assert (found >= 0).all()
    assert np.linalg.norm(design @ found - target) <= distance * (1 + 1e-9) + 1e-9
    assert found == pytest.approx(reference, rel=1e-6, abs=1e-6 * max(1.0, float(reference.max())))


@settings(max_examples=100, deadline=None)
@given(problems())
def test_no_unknown_could_be_better(problem):
    """Kuhn and Tucker's conditions: flat where an unknown is positive, rising where it is zero."""
    design, target = problem
    matrix, moment = design.T @ design, design.T @ target
    found = nonnegative_minimum(matrix, moment)
    slope = (matrix @ found - moment) / max(float(np.abs(moment).max()), 1e-300)
    assert np.abs(slope[found > 0]).max(initial=0.0) < 1e-9
    assert slope.min() > -1e-9


def test_an_unknown_that_hurts_is_zero_and_the_others_take_over():
    """The free minimum has -1 for the second; clipping it would leave the first too large."""
    design = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    target = design @ np.array([3.0, -1.0])
    assert nonnegative_minimum(design.T @ design, design.T @ target) == pytest.approx([2.5, 0.0])


def test_a_matrix_that_is_not_positive_definite_is_refused():
    """It would have many minima, or none."""
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        nonnegative_minimum(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([1.0, 1.0]))
