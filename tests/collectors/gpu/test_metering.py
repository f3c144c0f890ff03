"""Energy by the counter, by power and time, or as a part of a GPU's; what it is when a counter cannot be believed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.gpu.gpu_readings import reading, recorded

from farthing.collectors.gpu.metering import Meter, slice_fraction
from farthing.domain.conventions import FAULT_ENERGY_WENT_BACK, FAULT_SENTINEL
from farthing.domain.gpu import COUNTER, ENERGY_SHARE, INTEGRATED, MIG, NO_ENERGY


def metered(readings):
    """A meter after some readings."""
    meter = Meter()
    for one in readings:
        meter.add(one)
    return meter


@pytest.mark.parametrize(
    ("recording", "joules"), [("h100-llama8b-vllm0.26", 139_680), ("h100-qwen2vl7b-vllm0.26", 93_673)]
)
def test_the_counter_of_a_recorded_h100_gives_what_was_used(recording, joules):
    """Last value less first, exactly."""
    samples = list(recorded(recording))
    meter = metered(samples)
    assert meter.method == COUNTER
    assert meter.used_mj == samples[-1].energy_mj - samples[0].energy_mj
    assert meter.used_mj / 1_000 == pytest.approx(joules, abs=1)


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(
    ("recording", "joules"), [("h100-llama8b-vllm0.26", 139_680), ("h100-qwen2vl7b-vllm0.26", 93_673)]
)
def test_power_times_time_comes_within_two_percent_of_the_counter(recording, joules, every):
    """Ten readings a second, and one a second as an agent reads."""
    meter = metered(replace(one, energy_mj=None) for one in recorded(recording, every))
    assert meter.method == INTEGRATED
    assert meter.used_mj / 1_000 == pytest.approx(joules, rel=0.02)


def test_power_is_integrated_by_trapezoids():
    """100 W rising to 300 W in two seconds, then 300 W for one."""
    powers = ((0, 100.0), (2, 300.0), (3, 300.0))
    meter = metered(reading(after=after, power_watts=power) for after, power in powers)
    assert meter.energy_mj == 700_000


def test_power_is_not_known_over_more_than_a_minute():
    """A device may have done anything in an hour without readings."""
    meter = metered(reading(after=after, power_watts=500.0) for after in (0, 1, 3_600, 3_601))
    assert meter.energy_mj == 1_000_000


def test_a_counter_that_begins_anew_goes_on_where_it_was():
    """The driver was loaded again: its new value is what was used since."""
    values = (1_000_000_000, 1_000_500_000, 200_000, 700_000)
    meter = metered(reading(after=number, energy_mj=value) for number, value in enumerate(values))
    assert meter.used_mj == 500_000 + 200_000 + 500_000
    assert meter.energy_mj == 1_001_200_000
    at_ns = reading(after=3).at_ns
    assert meter.faults(at_ns) == {FAULT_ENERGY_WENT_BACK}
    assert meter.faults(reading(after=302).at_ns) == frozenset()


def test_a_counter_that_falls_by_a_hair_or_to_nothing_and_back_adds_no_energy_of_its_own():
    """Power times time takes the place of what it cannot have used."""
    values = (9_000_000_000, 8_999_999_999, 0, 9_000_500_000, 9_001_000_000)
    readings = [reading(after=number, energy_mj=value, power_watts=500.0) for number, value in enumerate(values)]
    meter = metered(readings)
    assert meter.used_mj == 500_000 + 0 + 500_000 + 500_000
    assert meter.faults(readings[-1].at_ns) == {FAULT_ENERGY_WENT_BACK, FAULT_SENTINEL}


def test_a_counter_that_an_exporter_reads_every_half_minute_is_believed():
    """It stands still, and then jumps by what was used."""
    steps = [reading(after=second, energy_mj=10**9 + second // 30 * 18_000_000) for second in range(121)]
    meter = metered(steps)
    assert meter.used_mj == 4 * 18_000_000
    assert meter.faults(steps[-1].at_ns) == frozenset()


def test_a_counter_that_is_missing_once_makes_up_for_it():
    """One failed query is no change of method."""
    meter = Meter()
    assert meter.add(reading(energy_mj=1_000_000_000))
    assert not meter.add(reading(after=1))
    assert meter.add(reading(after=2, energy_mj=1_000_900_000))
    assert (meter.method, meter.used_mj) == (COUNTER, 900_000)


def test_a_counter_that_stays_away_gives_way_to_power():
    """And the time without it is not lost."""
    meter = metered([reading(energy_mj=10**9, power_watts=500.0)])
    for second in range(1, 12):
        meter.add(reading(after=second, power_watts=500.0))
    assert (meter.method, meter.used_mj) == (INTEGRATED, 11 * 500_000)
    assert meter.energy_mj == 11 * 500_000


def test_a_counter_that_appears_is_better_than_power():
    """At once; what was integrated stays counted."""
    meter = metered(reading(after=second, power_watts=500.0) for second in range(3))
    meter.add(reading(after=3, power_watts=500.0, energy_mj=10**9))
    meter.add(reading(after=4, power_watts=500.0, energy_mj=10**9 + 400_000))
    assert (meter.method, meter.used_mj, meter.energy_mj) == (COUNTER, 1_500_000 + 400_000, 10**9 + 400_000)


def test_without_counter_and_power_there_is_no_energy():
    """Not 0 joules: none known."""
    meter = metered(reading(after=second, power_watts=None) for second in range(3))
    assert (meter.method, meter.energy_mj) == (NO_ENERGY, 0)


@pytest.mark.parametrize(
    ("profile", "name", "fraction"),
    [
        ("1g.10gb", "NVIDIA H100 80GB HBM3", 1 / 7),
        ("3g.40gb", "NVIDIA H100 80GB HBM3", 3 / 7),
        ("7g.80gb", "NVIDIA H100 80GB HBM3", 1),
        ("1g.20gb", "NVIDIA H100 80GB HBM3", 1 / 7),
        ("1g.10gb+me", "NVIDIA H100 80GB HBM3", 1 / 7),
        ("1c.3g.40gb", "NVIDIA H100 80GB HBM3", 1 / 7),
        ("MIG 2g.12gb", "NVIDIA A30", 2 / 4),
        ("", "NVIDIA H100 80GB HBM3", 10 / 80),
    ],
)
def test_a_slice_is_the_part_of_its_gpu_that_its_profile_names(profile, name, fraction):
    """Compute slices, since they are what draws power; memory where there is no profile."""
    gpu = reading(name=name, memory_total_bytes=80 * 2**30)
    part = reading("MIG-1", kind=MIG, profile=profile, memory_total_bytes=10 * 2**30)
    assert slice_fraction(part, gpu) == pytest.approx(fraction)


def test_a_slice_has_its_share_of_what_its_gpu_used():
    """Three of seven compute slices of 700 J."""
    gpu, part = Meter(), Meter()
    for second in range(3):
        whole = reading(after=second, energy_mj=10**9 + second * 350_000)
        gpu.add(whole)
        part.add(reading("MIG-1", after=second, kind=MIG, profile="3g.40gb", power_watts=None), whole, gpu.used_mj)
    assert (part.method, part.energy_mj) == (ENERGY_SHARE, 300_000)


def test_a_slice_without_its_gpu_has_no_energy():
    """Power that a slice reports is its whole GPU's."""
    meter = metered([reading("MIG-1", kind=MIG, profile="1g.10gb", power_watts=480.0)])
    assert meter.method == NO_ENERGY


@given(
    st.lists(
        st.tuples(
            st.integers(min_value=1, max_value=100_000),
            st.one_of(st.none(), st.integers(min_value=0, max_value=2**56)),
            st.one_of(st.none(), st.floats(min_value=0, max_value=1_000)),
        ),
        max_size=40,
    )
)
def test_energy_never_falls_and_no_device_uses_more_than_it_can(steps):
    """Whatever counter and power say, at whatever times (milliseconds)."""
    meter, milliseconds, used = Meter(), 0, 0.0
    for passed, counter, power in steps:
        milliseconds += passed
        meter.add(reading(after=milliseconds / 1_000, energy_mj=counter, power_watts=power))
        assert meter.used_mj >= used
        used = meter.used_mj
    # twice its limit, and a counter that is a minute late at every reading
    assert used <= 2 * 700 * (milliseconds + 60_000 * len(steps))
