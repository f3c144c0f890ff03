"""A request's part of the steps that it shared with others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing_probe import company
from farthing_probe.company import Company


def test_a_step_is_shared_by_those_who_took_part():
    """Alone it is the request's own, among four a quarter; steps before its first token and after its last are not."""
    steps = Company()
    for at_ns, requests in ((10, 1), (20, 1), (30, 2), (35, 0), (40, 4), (50, 1)):
        steps.add(at_ns, requests)
    assert steps.parts(20, 40) == 1 + 1 / 2 + 1 / 4
    assert steps.parts(15, 49) == 1 + 1 / 2 + 1 / 4
    assert steps.parts(41, 49) == 1 / 4, "a step that is marked a moment before its token"
    assert steps.parts(20, 20) == 1


def test_what_is_not_known_any_more_is_none(monkeypatch: pytest.MonkeyPatch):
    """Steps are forgotten, in halves; the engine may also have run before the probe began."""
    monkeypatch.setattr(company, "MOST", 4)
    steps = Company()
    assert steps.parts(1, 2) is None
    for at_ns in range(10, 100, 10):
        steps.add(at_ns, 1)
    assert steps.parts(10, 90) is None
    assert steps.parts(50, 90) is None, "nor what went before the first that is remembered"
    assert steps.parts(60, 90) == 4


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 256)), min_size=2, max_size=50), st.data())
def test_requests_that_run_together_share_each_step_whole(steps, data):
    """The parts of all who took part in every step add up to the steps."""
    made, at_ns = Company(), 0
    for gap, requests in steps:
        at_ns += gap
        made.add(at_ns, requests)
    count = data.draw(st.integers(1, 256))
    alike, at_ns = Company(), 0
    for gap, _ in steps:
        at_ns += gap
        alike.add(at_ns, count)
    assert count * (alike.parts(steps[0][0] + 1, at_ns) or 0) == pytest.approx(len(steps) - 1)
    part = made.parts(steps[0][0] + 1, at_ns)
    assert part == pytest.approx(sum(1 / requests for _, requests in steps[1:]))
