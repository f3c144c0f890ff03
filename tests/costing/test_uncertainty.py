"""Bounds of what a phase costs: they hold the per-step reference, and what is settled, and say nothing unknown."""

from collections import Counter
from functools import cache

import pytest
from benchmarks.fit_studies import Grid, grids
from hypothesis import given
from hypothesis import strategies as st

from farthing.costing.fit import FEATURES
from farthing.costing.uncertainty import phase_bounds
from farthing.domain import conventions as c
from farthing.domain.model import Fit
from farthing.replay.recording import load_recording

TEXT, VISION = "h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"


@cache
def recorded(name: str) -> Grid:
    """A packaged recording's busy windows and its last fit."""
    (grid,) = grids(load_recording(name), (0,))
    return grid


def settled(name: str) -> tuple[Counter[str], Counter[str]]:
    """Sums of features, and nano-dollars by phase."""
    features: Counter[str] = Counter()
    nano: Counter[str] = Counter()
    for window in recorded(name).windows:
        features.update(window.features)
        for posting in window.postings:
            if posting.phase:
                nano[posting.phase] += posting.nano
    return features, nano


def bounds_of(name: str) -> dict[str, tuple[float, float]]:
    """Phase -> bounds of its share of the busy cost."""
    features, nano = settled(name)
    whole = sum(nano.values())
    return {
        phase: (low / whole, high / whole)
        for phase, (low, high) in phase_bounds(recorded(name).fit, features, nano).items()
    }


@pytest.mark.parametrize(
    ("name", "phase", "reference"),
    [(TEXT, c.PREFILL, 0.381), (TEXT, c.DECODE, 0.619), (VISION, c.PREFILL, 0.203), (VISION, c.VISION, 0.316),
     (VISION, c.DECODE, 0.481)],
)  # fmt: skip
def test_the_bounds_hold_the_per_step_reference(name, phase, reference):
    """The oracle's shares, as docs/accuracy.md has them; the books' own differ from them by up to 3 points."""
    low, high = bounds_of(name)[phase]
    assert low <= reference <= high


def test_the_bounds_are_narrow_where_the_recording_tells_the_phases_apart():
    """4 points on text; 12 to 17 on vision, whose prompts and images come together."""
    low, high = bounds_of(TEXT)[c.PREFILL]
    assert 0.02 < high - low < 0.05
    low, high = bounds_of(VISION)[c.VISION]
    assert 0.08 < high - low < 0.16
    assert c.VISION not in bounds_of(TEXT)


@given(st.dictionaries(st.sampled_from(c.PHASES), st.integers(0, 10**12)))
def test_what_was_settled_lies_between_its_bounds_and_no_bound_above_the_whole(nano):
    """Whatever the windows' own fits said."""
    features, _ = settled(VISION)
    for phase, (low, high) in phase_bounds(recorded(VISION).fit, features, nano).items():
        assert 0 <= low <= nano[phase] <= high <= sum(nano.values())


@pytest.mark.parametrize("method", [c.MODELLED, c.ASSUMED])
def test_nothing_is_said_where_nothing_is_known(method):
    """By a data sheet alone, with intervals without an end, of no work, or of a fit without intervals."""
    features, nano = settled(TEXT)
    ends = (0.0, float("inf")) if method == c.MODELLED else (1e-6, 2e-6)
    fit = Fit("f", method, dict.fromkeys(FEATURES, 1e-6), dict.fromkeys(FEATURES, ends), None, 3)
    assert phase_bounds(fit, features, nano) == {}
    assert phase_bounds(recorded(TEXT).fit, {}, nano) == {}
    assert phase_bounds(recorded(TEXT).fit, features, {}) == {}
    assert phase_bounds(Fit("f", c.ESTIMATED, {}, {}, None, 9), features, nano) == {}
