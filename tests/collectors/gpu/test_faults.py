"""What cannot be believed is left out and named, and nothing else is."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.gpu.gpu_readings import reading, recorded

from farthing.collectors.gpu.faults import PLAUSIBLE, StuckUtilization, believed
from farthing.domain.conventions import FAULT_SENTINEL, FAULT_STUCK_UTILIZATION
from farthing.domain.gpu import GpuReading
from farthing.vocabulary.gpus import QUANTITIES

GUIDE = (Path(__file__).parents[3] / "docs" / "gpus.md").read_text()

NVML_32 = 0xFFFFFFFF
NVML_64 = 0xFFFFFFFFFFFFFFFF
DCGM_32 = 0x7FFFFFF0
DCGM_64 = 0x7FFFFFFFFFFFFFF0
DCGM_DOUBLE = 140737488355328.0


def test_all_that_a_real_h100_says_is_believed():
    """2,401 samples of a recorded run."""
    assert all(believed(one) is one for one in recorded())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("power_watts", NVML_32 / 1_000),
        ("power_watts", DCGM_DOUBLE),
        ("power_watts", -1.0),
        ("power_watts", float("nan")),
        ("utilization", DCGM_32 / 100),
        ("utilization", 1.27),
        ("memory_used_bytes", NVML_64),
        ("memory_used_bytes", DCGM_64 * 2**20),
        ("temperature_celsius", DCGM_32),
        ("memory_temperature_celsius", 255),
        ("energy_mj", NVML_64),
        ("energy_mj", DCGM_64),
        ("sm_clock_hz", NVML_32 * 10**6),
        ("xid", NVML_32),
        ("ecc_uncorrected", DCGM_64),
        ("nvlink_tx_bytes", NVML_64),
        ("pcie_rx_bytes_per_second", DCGM_DOUBLE),
    ],
)
def test_what_stands_for_unknown_is_left_out_and_named(field, value):
    """Drivers and exporters write it as a number; a mean would take it for one."""
    seen = believed(reading(**{field: value}))
    assert seen.faults == {FAULT_SENTINEL}
    assert replace(seen, faults=frozenset()) == reading(**{field: None})


def test_memory_beyond_the_device_is_left_out_and_its_size_stays():
    """A process of another device, or a blank."""
    seen = believed(reading(memory_used_bytes=81 * 2**30, memory_total_bytes=80 * 2**30))
    assert (seen.memory_used_bytes, seen.memory_total_bytes) == (None, 80 * 2**30)


def test_every_number_of_a_reading_has_bounds():
    """A new field must say what it can be."""
    numbers = {field.name for field in fields(GpuReading) if field.type in {"int | None", "float | None"}}
    assert numbers - {"index"} == set(PLAUSIBLE)


@given(st.sampled_from(sorted(PLAUSIBLE)), st.floats(allow_nan=True, allow_infinity=True))
def test_nothing_that_is_believed_lies_outside_its_bounds(field, value):
    """Whatever a source says."""
    seen = getattr(believed(reading(**{field: value})), field)
    least, ceiling = PLAUSIBLE[field]
    assert seen is None or least <= seen < ceiling


def test_a_driver_is_believed_as_far_as_an_exporter():
    """15 kW are no reading, whoever says so: one device is shown alike by every source."""
    assert believed(reading(power_watts=15_000.0)).power_watts is None
    assert believed(reading(power_watts=9_999.0)).power_watts == 9_999
    assert {ceiling for name, (_, ceiling) in PLAUSIBLE.items() if name.endswith("_watts")} == {1e4}


def test_the_guide_tells_the_bounds():
    """Its table has every quantity that is a number, in the unit that it names."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (-?[\d,.]+) \| ([\d,.]+) \|", GUIDE, re.MULTILINE)
    told = {
        quantity: tuple(float(number.replace(",", "")) for number in numbers)
        for quantities, *numbers in rows
        for quantity in re.findall(r"\w+", quantities)
    }
    names = {"energy": "energy_mj", **{name: name for name in PLAUSIBLE}}
    units = ("_bytes", "_watts", "_celsius", "_hz", "_bytes_per_second")
    names |= {name.removesuffix(unit): name for name in PLAUSIBLE for unit in units if name.endswith(unit)}
    thousands = {"energy": 1_000}
    bounds = {
        quantity: tuple(bound / thousands.get(quantity, 1) for bound in PLAUSIBLE[names[quantity]])
        for quantity, one in QUANTITIES.items()
        if one.unit != "flag"
    }
    assert told == bounds


def look_at(watch, *, power=600.0, utilization=0.0, begin=0, seconds=0, **more):
    """The last of one reading a second."""
    for second in range(begin, begin + seconds + 1):
        last = watch.look(reading(after=second, power_watts=power, utilization=utilization, **more))
    return last


def test_utilization_of_nothing_at_600_watts_becomes_a_fault():
    """Not for the first moments, in which it may be true."""
    watch = StuckUtilization(60)
    before = look_at(watch, seconds=59)
    assert (before.utilization, before.faults) == (0, frozenset())
    after = look_at(watch, begin=60)
    assert (after.utilization, after.faults) == (None, {FAULT_STUCK_UTILIZATION})


def test_a_stuck_utilization_is_believed_again_once_it_moves():
    """Falling power alone does not mend it: 0 is what it shows either way."""
    watch = StuckUtilization(60)
    look_at(watch, seconds=61)
    assert look_at(watch, begin=62, power=80.0).utilization is None
    assert look_at(watch, begin=63, utilization=0.4).utilization == 0.4
    assert look_at(watch, begin=64, utilization=0.0).utilization == 0


def test_work_in_pieces_adds_up():
    """A load that comes and goes hides nothing."""
    watch = StuckUtilization(60)
    for piece in range(7):
        last = look_at(watch, begin=piece * 100, seconds=10)
        look_at(watch, begin=piece * 100 + 11, power=75.0, seconds=40)
    assert last.faults == {FAULT_STUCK_UTILIZATION}


@pytest.mark.parametrize(
    ("power", "limit"),
    [(124.0, 700.0), (33.0, 72.0), (28.0, 70.0), (124.0, None)],
    ids=["H100 with a model", "L4 with a model", "T4 with a model", "no limit known"],
)
def test_a_device_that_holds_a_model_and_waits_is_idle(power, limit):
    """Its clocks are up, and it draws well more than an empty one."""
    watch = StuckUtilization(60)
    assert look_at(watch, power=power, power_limit_watts=limit, seconds=3_600).utilization == 0


def test_without_a_limit_the_least_power_seen_is_what_idle_draws():
    """A small device that draws three times as much works."""
    watch = StuckUtilization(60)
    look_at(watch, power=10.0, power_limit_watts=None)
    assert look_at(watch, begin=1, power=40.0, power_limit_watts=None, seconds=61).utilization is None


def test_time_without_readings_is_no_work():
    """A source that was away for an hour tells nothing of that hour."""
    watch = StuckUtilization(60)
    look_at(watch)
    assert look_at(watch, begin=3_600).utilization == 0


def test_a_utilization_that_nobody_tells_is_no_fault():
    """MIG: the driver has none for a GPU that is cut into slices."""
    seen = look_at(StuckUtilization(60), utilization=None, seconds=3_600)
    assert (seen.utilization, seen.faults) == (None, frozenset())


def test_a_recorded_run_is_not_stuck():
    """Idle, bursts and load of a real engine."""
    watch = StuckUtilization(1)
    assert not any(FAULT_STUCK_UTILIZATION in watch.look(one).faults for one in recorded())
