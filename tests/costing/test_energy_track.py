"""Energy as one cumulative function: whatever order samples come in, and whatever a counter does."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from farthing.costing.energy import EnergyTrack, Readings
from farthing.domain.clock import SECOND
from farthing.domain.gpu import COUNTER, ENERGY_SHARE, INTEGRATED, NO_ENERGY

STEPS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 1_000)), min_size=2, max_size=30)
"""Nanoseconds and millijoules from each sample to the next."""


def readings(at, energy, *, run="r", method=COUNTER, device="GPU-1", share=1):
    """Samples of a device."""
    return Readings(device, run, method, tuple(at), tuple(energy), Fraction(share))


def track(*parts, origin=0):
    """A track of samples in the order given."""
    found = EnergyTrack(origin)
    for part in parts:
        found.add_readings(part)
    return found


def _columns(steps, start=1_000):
    at, energy = [start], [500]
    for nanoseconds, millijoules in steps:
        at.append(at[-1] + nanoseconds)
        energy.append(energy[-1] + millijoules)
    return at, energy


@given(steps=STEPS, seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 4_000), min_size=1, max_size=5))
def test_samples_in_any_order_are_one_function_that_telescopes(steps, seed, cuts):
    """One by one, twice, and shuffled: every stretch has the energy that it has in order."""
    at, energy = _columns(steps)
    ordered = track(readings(at, energy))
    rng = random.Random(seed)  # noqa: S311 - seeded trials
    single = [readings([moment], [millijoules]) for moment, millijoules in zip(at, energy, strict=True)]
    dealt = [*single, *rng.choices(single, k=3)]
    rng.shuffle(dealt)
    shuffled = track(*dealt)
    moments = sorted({0, *cuts, *at, at[-1] + 100})
    for start, end in pairwise(moments):
        used = ordered.cumulative(end) - ordered.cumulative(start)
        assert used == shuffled.cumulative(end) - shuffled.cumulative(start)
        assert used >= 0
    assert shuffled.cumulative(moments[-1]) - shuffled.cumulative(0) == energy[-1] - energy[0]
    assert shuffled.since_origin(moments[-1]) == energy[-1] - energy[0]


@given(steps=STEPS, at_ns=st.integers(1_000, 2_500))
def test_what_is_forgotten_changes_no_later_stretch(steps, at_ns):
    """Nor the energy since the start."""
    at, energy = _columns(steps)
    whole, short = track(readings(at, energy)), track(readings(at, energy))
    short.drop_before(at_ns)
    for moment in (at_ns, at_ns + 7, at[-1]):
        if moment >= at_ns:
            assert whole.since_origin(moment) == short.since_origin(moment)
    # of a time that is settled nothing is taken any more
    before = short.since_origin(at[-1])
    short.add_readings(readings([1], [0]))
    assert short.since_origin(at[-1]) >= before


def test_a_counter_that_began_anew_goes_on_from_where_it_was():
    """The driver was loaded again: what it used in between is not known, and not negative."""
    found = track(readings([0, 10, 20, 30], [100, 300, 5, 25]))
    assert found.since_origin(30) == 200 + 20


def test_every_run_of_a_collector_integrates_anew_and_a_counter_goes_on():
    """A restart of whoever reads loses what was used while nobody did, where power is all there is."""
    for method, used in ((INTEGRATED, 50 + 30), (ENERGY_SHARE, 50 + 30), (COUNTER, 50 + 20 + 30)):
        found = track(
            readings([0, 10], [0, 50], run="one", method=method),
            readings([20, 30], [70, 100], run="two", method=method),
        )
        assert found.since_origin(30) == used
        assert found.method == method


def test_an_engine_has_its_part_of_a_device_and_devices_add_up():
    """Half of one and all of another; the whole is known up to where both are."""
    found = track(
        readings([0, 100], [0, 1_000], share=Fraction(1, 2)), readings([0, 50], [7, 107], device="GPU-2"), origin=0
    )
    assert (found.since_origin(50), found.since_origin(100)) == (250 + 100, 500 + 100)
    assert (found.through_ns, found.first_ns, found.last_ns) == (50, 0, 100)


def test_energy_is_waited_for_where_it_is_read_and_not_where_a_device_tells_none():
    """A device without a counter or power is there, and says nothing."""
    found = EnergyTrack(0)
    assert not found.awaited
    found.expect("GPU-1", 5)
    assert (found.awaited, found.known, found.through_ns) == (True, False, 5)
    found.add_readings(readings([6], [0], method=NO_ENERGY))
    assert not found.awaited
    assert track(readings([6], [0], method=NO_ENERGY)).since_origin(9) == 0


@given(st.lists(st.sampled_from([0, 2**62]), min_size=2, max_size=30), st.sampled_from(["one", "two"]))
def test_a_counter_that_jumps_further_than_a_device_can_draw_tells_nothing(counter, run):
    """Within a run of its collector and from one to the next."""
    at = [SECOND * number for number in range(len(counter))]
    found = track(readings(at[:1], counter[:1], run="one"), readings(at[1:], counter[1:], run=run))
    assert found.since_origin(at[-1]) == 0


def test_a_counter_that_rose_as_fast_as_a_device_can_draw_is_believed():
    """Also one that an exporter shows half a minute late."""
    assert track(readings([0, SECOND], [0, 21_000_000])).since_origin(SECOND) == 21_000_000
    assert track(readings([0, 3600 * SECOND], [2**40, 2**40 + 36_000_000_000])).since_origin(3600 * SECOND) > 0
