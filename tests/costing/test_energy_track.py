"""Energy as one cumulative function: whatever order samples come in, and whatever a counter does."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
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
    """The driver was loaded again: the new value is what was used since, where a device can have used as much."""
    at = [0, 10 * SECOND, 20 * SECOND, 30 * SECOND]
    for runs in (["one"] * 4, ["one", "one", "two", "two"]):
        for anew, used in ((5_000_000, 5_000_000), (150_000_000, 0), (0, 0)):
            energy = [2**40, 2**40 + 7, anew, anew + 20]
            parts = (readings([m], [e], run=run) for m, e, run in zip(at, energy, runs, strict=True))
            assert track(*parts).since_origin(at[-1]) == 7 + used + 20


def test_an_older_value_of_a_counter_is_counted_already():
    """An exporter that asks two hosts of one driver, or whose samples came in the wrong order."""
    at = [second * SECOND for second in range(5)]
    energy = [2**40, 2**40 + 900, 2**40 + 300, 2**40 + 700, 2**40 + 1_000]
    assert track(readings(at, energy)).since_origin(at[-1]) == 1_000
    assert track(readings(at[:2], energy[:2]), readings(at[2:], energy[2:], run="two")).since_origin(at[-1]) == 1_000


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
    assert found.through_ns(100) == 50
    assert [found.tells(start, start + 10, 100) for start in (-20, -5, 90, 100)] == [False, True, True, False]


def test_energy_is_waited_for_where_it_is_read_and_not_where_a_device_tells_none():
    """A device without a counter or power is there, and says nothing."""
    found = EnergyTrack(0)
    assert not found.awaited
    found.expect("GPU-1", 5)
    assert (found.awaited, found.known, found.through_ns(9)) == (True, False, 5)
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


# ---- several readers of one device -------------------------------------------------------------------

WATTS = 500
SAMPLED = [second * SECOND for second in range(600)]


def _shown(at, *, base=10**9, lag_seconds=1):
    """What a counter of a device that draws WATTS shows, in millijoules, read anew every so many seconds."""
    return [base + moment // SECOND // lag_seconds * lag_seconds * WATTS * 1_000 for moment in at]


def _later(at, nanoseconds=SECOND // 2):
    return [moment + nanoseconds for moment in at]


def test_two_readers_of_one_counter_at_once_count_it_once():
    """Also where one of them, an exporter, shows what the driver told half a minute ago."""
    for lag in (1, 30):
        late = _later(SAMPLED)
        for mine, other in (("a", "b"), ("b", "a")):
            found = track(
                readings(SAMPLED, _shown(SAMPLED), run=mine),
                readings(late, _shown(late, lag_seconds=lag), run=other),
            )
            assert found.since_origin(599 * SECOND) == pytest.approx(599 * WATTS * 1_000, abs=lag * WATTS * 1_000)
            assert found.since_origin(599 * SECOND) <= 599 * WATTS * 1_000


def test_two_readers_that_integrate_count_once():
    """Nothing was counted at all: each sample began anew after the other's."""
    energy = [moment // SECOND * WATTS * 1_000 for moment in SAMPLED]
    for method in (INTEGRATED, ENERGY_SHARE):
        found = track(
            readings(SAMPLED, energy, run="a", method=method), readings(_later(SAMPLED), energy, run="b", method=method)
        )
        assert found.since_origin(599 * SECOND) == 599 * WATTS * 1_000
        assert found.method == method


def test_an_agent_that_starts_while_the_old_one_runs_doubles_nothing():
    """Ten seconds of both, then the new one alone; the same where power over time is all there is."""
    old, new = SAMPLED[:300], _later(SAMPLED[290:])
    counted = track(readings(old, _shown(old), run="1"), readings(new, _shown(new), run="2"))
    assert counted.since_origin(new[-1]) == 599 * WATTS * 1_000
    power = [moment * WATTS // (SECOND // 1_000) for moment in _later(SAMPLED[:310])]
    integrated = track(
        readings(old, [moment * WATTS // (SECOND // 1_000) for moment in old], run="1", method=INTEGRATED),
        readings(new, power, run="2", method=INTEGRATED),
    )
    assert integrated.since_origin(new[-1]) == (new[-1] - old[0]) * WATTS // (SECOND // 1_000)


def test_a_counter_is_preferred_and_says_so_where_it_counts():
    """Power over time tells the time in which nobody read the counter, and only that is an estimate."""
    counter, power = SAMPLED[200:400], _later(SAMPLED)
    found = track(
        readings(power, [moment * WATTS // (SECOND // 1_000) for moment in power], run="1", method=INTEGRATED),
        readings(counter, _shown(counter), run="2"),
    )
    assert found.since_origin(power[-1]) == (power[-1] - power[0]) * WATTS // (SECOND // 1_000)
    assert found.method_between(210 * SECOND, 390 * SECOND) == COUNTER
    assert found.method_between(100 * SECOND, 210 * SECOND) == INTEGRATED
    assert found.method == INTEGRATED


SPANS = st.lists(st.tuples(st.integers(0, 400), st.integers(2, 300), st.integers(0, 999)), min_size=1, max_size=4)
"""Of readers: the second that each began, for how many it read, and by how many milliseconds its clock is later."""


@settings(max_examples=60, deadline=None)
@given(spans=SPANS, seed=st.integers(0, 999), lags=st.lists(st.integers(1, 30), min_size=4, max_size=4))
def test_readers_together_never_tell_more_than_the_counter_and_no_order_changes_it(spans, seed, lags):
    """However their times overlap, whatever is forgotten in between, and however old a value is that they show."""
    rng = random.Random(seed)  # noqa: S311 - seeded trials
    parts, shown = [], []
    for number, (begin, length, late) in enumerate(spans):
        at = [second * SECOND + late * SECOND // 1_000 for second in range(begin, begin + length)]
        energy = _shown(at, lag_seconds=lags[number])
        shown += energy
        parts += [readings(at[cut : cut + 10], energy[cut : cut + 10], run=str(number)) for cut in range(0, length, 10)]
    whole = track(*parts)
    shuffled = rng.sample(parts, len(parts))
    other = EnergyTrack(0)
    for part in shuffled:
        other.add_readings(part)
        # whoever asks in between changes nothing
        other.cumulative(rng.randrange(700 * SECOND))
    moments = sorted({0, *(rng.randrange(700 * SECOND) for _ in range(5)), 700 * SECOND})
    for start, end in pairwise(moments):
        used = whole.cumulative(end) - whole.cumulative(start)
        assert 0 <= used == other.cumulative(end) - other.cumulative(start)
        assert whole.method_between(start, end) == other.method_between(start, end)
    total = whole.since_origin(moments[-1])
    assert total <= max(shown) - min(shown)
    other.drop_before(moments[len(moments) // 2])
    assert other.since_origin(moments[-1]) == total


@pytest.mark.parametrize("dropped_at", [0, 50, 99])
def test_a_boots_energy_begins_with_it_though_its_gpu_was_read_and_forgotten_before(dropped_at):
    """Samples of the minutes before a start come in records of their own, before any that reaches the start."""
    found = track(readings((10, 20), (1_000, 2_000)), readings((30, 40), (3_000, 4_000)), origin=100)
    found.drop_before(dropped_at)
    found.add_readings(readings((50, 120), (5_000, 12_000)))
    found.drop_before(dropped_at)
    found.add_readings(readings((130, 200), (13_000, 20_000)))
    found.drop_before(150)
    assert found.since_origin(200) == 10_000


def test_a_gpu_that_turns_out_to_be_anothers_counts_for_what_is_settled_alone():
    """And goes on from there where it comes back."""
    samples = readings(range(0, 1_001, 10), range(0, 10_010, 100))
    never = track(samples)
    never.release("GPU-1", None)
    assert never.since_origin(1_000) == 0
    assert not never.known
    found = track(samples, readings((0, 1_000), (0, 1_000), device="GPU-2"))
    assert found.since_origin(1_000) == 11_000
    before = found.cumulative(400)
    found.release("GPU-1", 400)
    assert found.since_origin(1_000) == 4_000 + 1_000
    assert found.cumulative(1_000) - before == 600
    found.release("GPU-1", 400)
    found.add_readings(readings((0, 100), (0, 1_000)))
    found.add_readings(samples)
    assert found.since_origin(1_000) == 11_000
    found.drop_before(700)
    assert found.since_origin(1_000) == 11_000
