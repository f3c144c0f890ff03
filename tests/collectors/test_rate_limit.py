"""Token buckets: generous to the healthy, firm with the wild, bounded in memory."""

from hypothesis import given
from hypothesis import strategies as st

from farthing.collectors.rate_limit import BURST_SECONDS, RateLimit


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_sender_has_a_bucket_of_its_own():
    """One that runs wild shuts nobody else out."""
    clock = Clock()
    limit = RateLimit(2.0, clock)
    limit.charge("wild", 100)
    assert limit.wait_seconds("wild") == 40.0
    assert limit.wait_seconds("calm") == 0.0
    clock.now = 39.0
    assert limit.wait_seconds("wild") == 1.0
    clock.now = 40.0
    assert limit.wait_seconds("wild") == 0.0


def test_rest_is_saved_up_to_the_burst_and_no_further():
    """An hour of silence is no licence for an hour's worth at once."""
    clock = Clock()
    limit = RateLimit(1.0, clock)
    limit.charge("a", 1)
    clock.now = 3_600.0
    limit.charge("a", BURST_SECONDS + 5)
    assert limit.wait_seconds("a") == 5.0


def test_only_so_many_senders_are_remembered():
    """Addresses are free to whoever sends from outside; memory is not. The quietest is forgotten first."""
    limit = RateLimit(1.0, Clock(), most_senders=3)
    for sender in "abacd":
        limit.charge(sender, 50)
    assert len(limit) == 3
    assert limit.wait_seconds("b") == 0.0
    assert limit.wait_seconds("a") > 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 30)), min_size=1, max_size=60))
def test_over_any_stretch_no_sender_brings_more_than_its_rate_and_one_burst(posts):
    """But for the last body, which is let in whole and paid for afterwards."""
    clock = Clock()
    limit = RateLimit(2.0, clock)
    brought = last = 0.0
    for pause, units in posts:
        clock.now += pause
        if limit.wait_seconds("a") == 0:
            limit.charge("a", units)
            brought, last = brought + units, units
            assert brought - last <= 2.0 * (clock.now + BURST_SECONDS) + 1e-6
