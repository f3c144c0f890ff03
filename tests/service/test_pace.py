"""The picture that is shown is taken as often as it is cheap."""

import pytest

from farthing.service.pace import Pace, rest_seconds, send_every_seconds


class Clocks:
    """A clock, and a thread's own time."""

    now = cpu = 0.0


@pytest.fixture
def clocks():
    """Both at the beginning."""
    return Clocks()


@pytest.fixture
def pace(clocks):
    """A twentieth of a processor, and every ten seconds at least."""
    return Pace(0.05, 10.0, clock=lambda: clocks.now, cpu=lambda: clocks.cpu)


@pytest.mark.parametrize(("took", "due"), [(0.002, 0.04), (0.25, 5.0), (60.0, 10.0)])
def test_it_is_due_again_when_its_share_allows_it(pace, clocks, took, due):
    """A few engines' picture every tick, a thousand engines' every few seconds, and none is older than ten."""
    assert pace.due
    with pace.taken():
        clocks.cpu += took
    clocks.now = due - 0.01
    assert not pace.due
    clocks.now = due
    assert pace.due


def test_waiting_for_a_processor_is_no_work_of_its_own(pace, clocks):
    """On a busy machine a cheap picture stays as frequent."""
    with pace.taken():
        clocks.now += 3.0
        clocks.cpu += 0.01
    assert pace.due


def test_one_that_failed_is_due_at_once(pace, clocks):
    """There is no picture to show instead."""

    def fail():
        with pace.taken():
            clocks.cpu += 5.0
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert pace.due


def test_what_takes_longer_rests_longer_within_bounds():
    """A costing of a few engines is soon followed by the next; that of a fleet lets more arrive first."""
    assert rest_seconds(0.001, 1.0) == 0.25
    assert rest_seconds(0.5, 1.0) == 1.5
    assert rest_seconds(20.0, 1.0) == 3.0


@pytest.mark.parametrize(
    ("engines", "seconds"), [(0, 1), (1, 1), (199, 1), (200, 2), (550, 5), (1_000, 10), (9_999, 10)]
)
def test_probes_of_a_large_fleet_are_asked_to_send_less_often(engines, seconds):
    """A hundred a second, as long as none waits longer than ten seconds."""
    assert send_every_seconds(engines) == seconds
