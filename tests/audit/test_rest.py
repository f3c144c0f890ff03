"""How often the trail looks for what settled."""

import pytest

from farthing.service.audit_trail import rest_seconds


@pytest.mark.parametrize(("took", "rests"), [(0.01, 5.0), (0.5, 10.0), (900.0, 60.0)])
def test_after_a_year_was_caught_up_with_it_rests_no_longer_than_a_minute(took, rests):
    """A short look is soon repeated; tokens and closings are not told hours late because a look took long."""
    assert rest_seconds(took) == pytest.approx(rests)
