"""The energy that is shown of a device, whoever reads it and however: it never falls, and grows by what was used."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.collectors.gpu.gpu_readings import AT, reading

from farthing.collectors.gpu.sampler import Sampler
from farthing.domain.clock import SECOND
from farthing.domain.errors import GpuError
from farthing.domain.gpu import COUNTER, INTEGRATED, DeviceSamples

WATTS = 400
"""What the device draws, and its counters tell."""
SOURCES = ("nvml", "dcgm", "amd")
COUNTS, POWER, SILENT, GONE = "counter", "power", "fails", "has no device"


class Switching:
    """A device that uses 400 J a second, and sources of it of which the test says what each can tell next."""

    def __init__(self, names=SOURCES):
        self.seconds = 0
        self.tells = dict.fromkeys(names, SILENT)
        self.loaded = dict.fromkeys(names, 0)
        self.records: list[DeviceSamples] = []
        self.sampler = Sampler(
            [_Source(self, name) for name in names],
            self.records.extend,
            clock=lambda: float(self.seconds),
            wall_ns=lambda: AT + self.seconds * SECOND,
            host="here",
        )

    def second(self, **tells):
        """One second later every source is read; returns the view of the device, None where nobody has it."""
        self.seconds += 1
        self.tells |= tells
        for number in range(len(self.tells)):
            self.sampler.read(number)
        return self.view()

    def view(self):
        return next(iter(self.sampler.view().devices), None)

    def joules(self):
        device = self.view()
        return None if device is None or device.energy_mj is None else device.energy_mj // 1_000


class _Source:
    def __init__(self, bench, name):
        self.bench, self.name = bench, name

    def read(self):
        tells = self.bench.tells[self.name]
        if tells == SILENT:
            raise GpuError("silent")
        if tells == GONE:
            return []
        used = WATTS * 1_000 * (self.bench.seconds - self.bench.loaded[self.name])
        return [
            reading(
                after=self.bench.seconds,
                source=self.name,
                power_watts=float(WATTS),
                energy_mj=used if tells == COUNTS else None,
            )
        ]

    def close(self):
        pass


def run(bench, seconds, **tells):
    for _ in range(seconds):
        bench.second(**tells)
    return bench.joules()


def test_another_source_goes_on_where_the_first_one_left_off():
    """The driver's counter to DCGM's: a total that began at 0 with DCGM would be read as a counter begun anew."""
    bench = Switching()
    assert run(bench, 11, nvml=COUNTS) == 10 * WATTS
    assert run(bench, 11, nvml=SILENT, dcgm=COUNTS) >= 10 * WATTS + 5 * WATTS


def test_a_source_that_comes_back_counts_nothing_a_second_time():
    """What the driver's counter says of the time in which DCGM was read is counted already."""
    bench = Switching()
    run(bench, 11, nvml=COUNTS)
    run(bench, 20, nvml=SILENT, dcgm=COUNTS)
    assert run(bench, 10, nvml=COUNTS) == 40 * WATTS


def test_a_source_that_comes_back_without_its_counter_waits_for_that_to_count():
    """As drivers do whose counter is asked less often: what others counted is not forgotten until it is told again."""
    bench = Switching()
    run(bench, 11, nvml=COUNTS)
    run(bench, 20, nvml=SILENT, dcgm=COUNTS)
    run(bench, 3, nvml=POWER)
    assert run(bench, 7, nvml=COUNTS) == 40 * WATTS


def test_a_device_that_comes_back_goes_on_from_its_last_total():
    """A GPU that fell off the bus, or a driver that was loaded anew: nothing of a Prometheus counter is taken back."""
    bench = Switching()
    before = run(bench, 11, nvml=COUNTS)
    assert run(bench, 3, nvml=GONE) is None
    bench.loaded["nvml"] = bench.seconds
    assert run(bench, 6, nvml=COUNTS) == before + 5 * WATTS


def test_each_method_has_its_own_part_which_no_other_adds_to():
    """A series by method that ends and resumes would else have counted what another one did: increase() adds both."""
    bench = Switching()
    run(bench, 11, nvml=COUNTS)
    run(bench, 30, nvml=POWER)
    run(bench, 10, nvml=COUNTS)
    device = bench.view()
    assert device.method == COUNTER
    assert dict(device.parts) == {COUNTER: pytest.approx(device.energy_mj - 30 * WATTS * 1_000), INTEGRATED: 12_000_000}
    assert device.energy_mj == 50 * WATTS * 1_000


def test_what_goes_into_the_inbox_stays_as_it_is():
    """The books know sources apart by their boots: each begins where its own counter stands."""
    bench = Switching()
    run(bench, 11, nvml=COUNTS)
    run(bench, 11, nvml=SILENT, dcgm=COUNTS)
    bench.sampler.stop()
    counters = [(at, mj) for record in bench.records for at, mj in zip(record.at_ns, record.energy_mj, strict=True)]
    assert all(mj == (at - AT) // SECOND * WATTS * 1_000 for at, mj in counters)


steps = st.tuples(
    st.sampled_from(SOURCES), st.sampled_from((COUNTS, POWER, SILENT, GONE)), st.booleans(), st.integers(1, 15)
)


@settings(deadline=None, max_examples=150)
@given(st.lists(steps, min_size=1, max_size=12))
def test_in_any_order_of_switches_it_never_falls_and_grows_by_no_more_than_was_used(switches):
    """Sources that fail, lose the device, change their method, or whose driver is loaded anew: no part falls, and what
    the parts grow by is the whole."""
    bench = Switching()
    shown, parts, began = [], [], None
    for source, tells, anew, seconds in switches:
        for second in range(seconds):
            if anew and not second:
                bench.loaded[source] = bench.seconds
            device = bench.second(**{source: tells})
            if device is None or device.energy_mj is None:
                continue
            began = bench.seconds if began is None else began
            shown.append((bench.seconds, device.energy_mj))
            parts.append(dict(device.parts))
            assert sum(parts[-1].values()) == device.energy_mj
            assert device.energy_mj <= (bench.seconds - began) * WATTS * 1_000
    assert all(later >= earlier for (_, earlier), (_, later) in pairwise(shown))
    for earlier, later in pairwise(parts):
        assert all(later[method] >= earlier[method] for method in earlier)
    increases = [
        later[method] - earlier.get(method, 0) for earlier, later in pairwise([{}, *parts]) for method in later
    ]
    assert sum(increases) == (shown[-1][1] if shown else 0)
