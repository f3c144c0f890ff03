"""Sources read in turn: what is shown, what goes into the inbox, and what happens when something goes away."""

import logging
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.collectors.gpu.gpu_readings import AT, UUID, FakeSource, moments, read_again, reading, recorded

from farthing.collectors.gpu.sampler import Sampler
from farthing.collectors.wire import decode_device, device_line
from farthing.domain.clock import SECOND
from farthing.domain.conventions import FAULT_ENERGY_WENT_BACK, FAULT_SENTINEL, FAULT_STUCK_UTILIZATION
from farthing.domain.errors import GpuError
from farthing.domain.gpu import COUNTER, CPU, ENERGY_SHARE, INTEGRATED, MIG, NO_ENERGY, DeviceSamples

OTHER = "GPU-6f0c8f7e-0000-4000-8000-000000000002"


class Bench:
    """A sampler whose clock the test turns; ``records`` is what the sink got."""

    def __init__(self, *sources, **options):
        self.seconds = 0.0
        self.records: list[DeviceSamples] = []
        self.sampler = Sampler(
            sources,
            self.records.extend,
            clock=lambda: self.seconds,
            wall_ns=lambda: AT + round(self.seconds * SECOND),
            host="here",
            **options,
        )

    def read(self, number=0, times=1):
        for _ in range(times):
            self.sampler.read(number)
            self.seconds += 1
        return self

    def shown(self):
        return [view.reading.uuid for view in self.sampler.view().devices]

    def device(self, uuid=UUID):
        (view,) = (view for view in self.sampler.view().devices if view.reading.uuid == uuid)
        return view


def by_second(seconds, uuid=UUID, **fields):
    return [reading(uuid, after=second, **fields) for second in range(seconds)]


def counted(seconds, watts=400, first=0, uuid=UUID, **fields):
    """One reading a second of a device with a counter."""
    return [
        reading(uuid, after=second, energy_mj=10**9 + second * watts * 1_000, **fields)
        for second in range(first, first + seconds)
    ]


# ---- records -----------------------------------------------------------------------------------------


def test_a_recorded_run_goes_into_the_inbox_to_the_last_millijoule():
    """139,680 J in records of ten seconds, of one boot, without a gap in their sequence."""
    samples = list(recorded(every=10))
    bench = Bench(FakeSource.of(*moments(samples)))
    bench.read(times=len(samples))
    bench.sampler.stop()
    assert len(bench.records) > 20
    assert {record.key.boot for record in bench.records} == {f"device:{UUID}/{samples[0].at_ns}"}
    assert [record.key.sequence for record in bench.records] == list(range(len(bench.records)))
    assert [at for record in bench.records for at in record.at_ns] == [one.at_ns for one in samples]
    assert [energy for record in bench.records for energy in record.energy_mj] == [one.energy_mj for one in samples]
    assert {record.method for record in bench.records} == {COUNTER}
    last, first = bench.records[-1].energy_mj[-1], bench.records[0].energy_mj[0]
    assert (last - first) / 1_000 == pytest.approx(139_680, rel=0.001)


@pytest.mark.parametrize("seconds", ["1", "0.1"])
def test_readings_of_a_real_driver_give_the_records_that_were_made_on_its_host(seconds):
    """Energy is asked every other second there: one boot, one method, and nothing that is not believed."""
    readings, records = read_again(seconds)
    bench = Bench(FakeSource.of(*moments(readings)))
    bench.read(times=len(readings))
    assert bench.device(records[0].uuid).reading.faults == frozenset()
    used = bench.device(records[0].uuid).energy_mj
    bench.sampler.stop()
    assert bench.records == records
    assert used == records[-1].energy_mj[-1] - records[0].energy_mj[0]


@pytest.mark.parametrize("seconds", ["1", "0.1"])
def test_power_of_a_real_driver_comes_within_two_percent_of_its_counter(seconds):
    """The driver's counter against trapezoids of its power, over the same run."""
    readings, records = read_again(seconds)
    bench = Bench(FakeSource.of(*moments(replace(one, energy_mj=None) for one in readings)))
    bench.read(times=len(readings))
    counted = records[-1].energy_mj[-1] - records[0].energy_mj[0]
    assert bench.device(records[0].uuid).method == INTEGRATED
    assert bench.device(records[0].uuid).energy_mj == pytest.approx(counted, rel=0.02)


def test_between_two_values_of_the_counter_energy_is_told_by_the_power_that_was_read():
    """100 W, from the third second on 500 W: 0.2 kJ of 1.2 kJ in the first half; every other moment is told."""
    powers, counter = [100.0, 100.0, 100.0, 500.0, 500.0], {0: 10**9, 4: 10**9 + 1_200_000}
    steps = [
        reading(after=second, power_watts=watts, energy_mj=counter.get(second)) for second, watts in enumerate(powers)
    ]
    bench = Bench(FakeSource.of(*moments(steps)))
    bench.read(times=5)
    bench.sampler.stop()
    (record,) = bench.records
    assert [(at - AT) // SECOND for at in record.at_ns] == [0, 2, 4]
    # trapezoids of 100, 100, 300 and 500 J
    assert [energy - 10**9 for energy in record.energy_mj] == [0, 240_000, 1_200_000]
    assert record.method == COUNTER


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: replace(one, power_watts=None),
        lambda one: replace(one, power_watts=0.0),
        lambda one: replace(one, at_ns=AT + SECOND),
    ],
    ids=["power is not known", "nothing is drawn", "a clock goes back"],
)
def test_between_two_values_of_the_counter_nothing_is_told_without_power(spoil):
    """What lies between is then taken to be even."""
    steps = [reading(after=second, energy_mj={0: 10**9, 4: 10**9 + 1}.get(second)) for second in range(5)]
    bench = Bench(FakeSource.of(*moments([steps[0], *map(spoil, steps[1:4]), replace(steps[4], power_watts=0.0)])))
    bench.sampler.read()
    bench.read(times=4)
    bench.sampler.stop()
    told = [(at, energy) for record in bench.records for at, energy in zip(record.at_ns, record.energy_mj, strict=True)]
    assert told[0] == (steps[0].at_ns, 10**9)
    assert told[-1] == (steps[4].at_ns, 10**9 + 1)
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    assert len(told) == 2 or spoil(steps[1]).power_watts is not None


def test_a_pod_that_comes_between_two_values_of_the_counter_gets_no_moment_of_the_one_before():
    """What was read in one pod is not told as another's."""
    steps = [
        reading(after=second, pod="llm/a" if second < 3 else "llm/b", energy_mj=counter)
        for second, counter in enumerate([10**9, None, None, None, 10**9 + 1_600_000])
    ]
    bench = Bench(FakeSource.of(*moments(steps)))
    bench.read(times=5)
    bench.sampler.stop()
    assert [(record.pod, [(at - AT) // SECOND for at in record.at_ns]) for record in bench.records] == [
        ("llm/a", [0]),
        ("llm/b", [4]),
    ]


def windows(points, edges):
    """Energy of each window, of (moment, millijoules so far)."""
    at, energy = zip(*points, strict=True)
    return np.diff(np.interp(edges, at, energy))


@pytest.mark.parametrize(
    "recording", ["h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26", "h100-llama8b-devices-vllm0.26"]
)
def test_windows_of_a_recorded_run_keep_their_energy_when_its_counter_is_read_every_fourth_second(recording):
    """Windows of five seconds, as costing has them, against the counter ten times a second, from six beginnings:
    nearer than even shares.
    """
    wrong, wrong_evenly = [], []
    for first in range(0, 40, 7):
        samples = list(recorded(recording))[first:]
        read = [replace(one, energy_mj=None if place % 4 else one.energy_mj) for place, one in enumerate(samples[::10])]
        counter = {one.at_ns: one.energy_mj for one in read if one.energy_mj is not None}
        bench = Bench(FakeSource.of(*moments(read)))
        bench.read(times=len(read))
        bench.sampler.stop()
        told = {at: mj for one in bench.records for at, mj in zip(one.at_ns, one.energy_mj, strict=True)}
        assert counter.items() <= told.items()
        edges = np.arange(samples[0].at_ns, max(told), 5 * SECOND)
        truth = windows([(one.at_ns, one.energy_mj) for one in samples], edges)
        wrong.extend((windows(told.items(), edges) - truth) / truth.mean())
        wrong_evenly.extend((windows(counter.items(), edges) - truth) / truth.mean())
    assert np.std(wrong) < 0.85 * np.std(wrong_evenly)
    assert np.std(wrong) < 0.025


def test_every_record_is_one_that_the_wire_takes():
    """What the sampler makes is what intake reads again."""
    bench = Bench(FakeSource.of(*moments(recorded(every=10))))
    bench.read(times=50)
    bench.sampler.stop()
    assert [decode_device(device_line(record)) for record in bench.records] == bench.records


def test_a_record_is_made_every_batch_and_the_rest_when_it_ends():
    """25 samples: 11, 11 and 3."""
    bench = Bench(FakeSource.of(*moments(counted(25))))
    bench.read(times=25)
    assert [len(record.at_ns) for record in bench.records] == [11, 11]
    bench.sampler.stop()
    assert [len(record.at_ns) for record in bench.records] == [11, 11, 3]


def test_a_device_without_energy_is_in_the_inbox_all_the_same():
    """It is there, so it is paid for."""
    bench = Bench(FakeSource.of(*moments(by_second(12, power_watts=None))))
    bench.read(times=12)
    (record,) = bench.records
    assert (record.method, set(record.energy_mj), len(record.at_ns)) == (NO_ENERGY, {0}, 11)
    assert bench.device().energy_mj is None


def test_another_method_is_another_boot_that_begins_right_behind_the_first():
    """One record's energies have one method, and no second is lost between them."""
    steps = [*counted(3), *(reading(after=second, power_watts=500.0) for second in range(3, 20))]
    bench = Bench(FakeSource.of(*moments(steps)))
    bench.read(times=20)
    shown = bench.device().energy_mj
    bench.sampler.stop()
    counter, *integrated = bench.records
    assert counter.method == COUNTER
    assert {record.method for record in integrated} == {INTEGRATED}
    assert {record.key.boot for record in integrated} == {f"device:{UUID}/{counter.at_ns[-1] + 1}"}
    assert (integrated[0].at_ns[0], integrated[0].energy_mj[0]) == (counter.at_ns[-1] + 1, 0)
    # the last counter was of second 2, from which on power times time counts
    assert integrated[-1].energy_mj[-1] == pytest.approx(480_000 + 16 * 500_000, rel=0.01)
    assert shown == 800_000 + integrated[-1].energy_mj[-1]


def test_a_change_of_pod_begins_a_record_of_the_same_boot():
    """A device goes to another engine at a moment, not in the middle of a record."""
    steps = [*counted(3, pod="llm/a"), *counted(3, first=3, pod="llm/b")]
    bench = Bench(FakeSource.of(*moments(steps)))
    bench.read(times=6)
    bench.sampler.stop()
    assert [(record.pod, len(record.at_ns)) for record in bench.records] == [("llm/a", 3), ("llm/b", 3)]
    assert len({record.key.boot for record in bench.records}) == 1


def test_a_slice_has_its_share_whatever_the_order_of_the_readings():
    """The GPU is looked at first."""
    steps = [
        [
            reading("MIG-1", after=second, kind=MIG, parent=UUID, profile="3g.40gb", power_watts=None),
            reading(after=second, energy_mj=10**9 + second * 700_000, utilization=None),
        ]
        for second in range(5)
    ]
    bench = Bench(FakeSource.of(*steps))
    bench.read(times=5)
    assert bench.device("MIG-1").method == ENERGY_SHARE
    assert bench.device("MIG-1").energy_mj == 4 * 300_000
    assert bench.shown() == [UUID, "MIG-1"]
    bench.sampler.stop()
    (part,) = (record for record in bench.records if record.kind == MIG)
    assert (part.parent, part.profile, part.energy_mj) == (UUID, "3g.40gb", tuple(n * 300_000 for n in range(5)))


def test_a_slice_waits_for_its_gpus_counter():
    """Its energy does not leap in the second in which the counter is read."""
    steps = [
        [
            reading(after=second, energy_mj=None if second % 4 else 10**9 + second * 700_000),
            reading("MIG-1", after=second, kind=MIG, parent=UUID, profile="3g.40gb", power_watts=None),
        ]
        for second in range(9)
    ]
    bench = Bench(FakeSource.of(*steps))
    bench.read(times=9)
    bench.sampler.stop()
    (part,) = (record for record in bench.records if record.kind == MIG)
    assert [(at - AT) // SECOND for at in part.at_ns] == [0, 4, 8]
    assert part.energy_mj == (0, 4 * 300_000, 8 * 300_000)


def test_a_slice_is_told_all_the_same_where_its_gpus_counter_stands_still():
    """It is there, so it is paid for."""
    steps = [
        [
            reading(after=second, energy_mj=10**9),
            reading("MIG-1", after=second, kind=MIG, parent=UUID, profile="3g.40gb", power_watts=None),
        ]
        for second in range(30)
    ]
    bench = Bench(FakeSource.of(*steps))
    bench.read(times=30)
    bench.sampler.stop()
    told = [(at - AT) // SECOND for record in bench.records if record.kind == MIG for at in record.at_ns]
    assert told == [0, 11, 22]


def test_a_slice_of_a_gpu_whose_energy_nobody_knows_has_none_either():
    """A share of nothing known is not 0 joules."""
    step = [reading(power_watts=None), reading("MIG-1", kind=MIG, parent=UUID, profile="3g.40gb", power_watts=None)]
    bench = Bench(FakeSource.of(step))
    bench.read()
    assert (bench.device("MIG-1").method, bench.device("MIG-1").energy_mj) == (NO_ENERGY, None)


def test_a_clock_that_is_set_back_never_makes_a_record_go_back():
    """By a little it is waited for; by much it is a new boot."""
    steps = [*counted(3), replace(counted(1, first=3)[0], at_ns=AT), *counted(2, first=4)]
    far = [replace(one, at_ns=one.at_ns - 3_600 * SECOND) for one in counted(3, first=6)]
    bench = Bench(FakeSource.of(*moments([*steps, *far])))
    bench.read(times=9)
    bench.sampler.stop()
    assert all(now > before for record in bench.records for before, now in pairwise(record.at_ns))
    assert [len(record.at_ns) for record in bench.records] == [5, 3]
    assert len({record.key.boot for record in bench.records}) == 2


# ---- what is shown -----------------------------------------------------------------------------------


def test_what_cannot_be_believed_is_not_shown_and_has_its_name():
    """Neither a sentinel nor a utilization of 0 at 600 W goes into anybody's mean."""
    steps = by_second(70, power_watts=600.0, utilization=0.0, temperature_celsius=255)
    bench = Bench(FakeSource.of(*moments(steps)), stuck_seconds=60)
    bench.read(times=70)
    seen = bench.device().reading
    assert (seen.utilization, seen.temperature_celsius, seen.power_watts) == (None, None, 600)
    assert seen.faults == {FAULT_SENTINEL, FAULT_STUCK_UTILIZATION}


def test_energy_that_is_shown_never_falls_where_the_driver_was_loaded_anew():
    """The counter began anew; the device says so."""
    steps = [*counted(3), *(replace(one, energy_mj=one.energy_mj - 10**9) for one in counted(3, first=3))]
    bench = Bench(FakeSource.of(*moments(steps)))
    shown = [bench.read().device().energy_mj for _ in steps]
    assert shown == sorted(shown)
    assert bench.device().reading.faults == {FAULT_ENERGY_WENT_BACK}


def test_a_device_of_this_host_has_its_name():
    """The driver does not say where it is."""
    bench = Bench(FakeSource.of([reading(host="")]))
    assert bench.read().device().reading.host == "here"


def test_devices_stand_by_host_and_number_and_processors_last():
    """Slices behind their GPU."""
    readings = [
        reading("cpu-0", source="rapl", kind=CPU, index=0),
        reading("MIG-1", kind=MIG, parent=UUID, index=0),
        reading(OTHER, index=1),
        reading(),
    ]
    assert Bench(FakeSource.of(readings)).read().shown() == [UUID, "MIG-1", OTHER, "cpu-0"]


def test_a_stale_reading_vanishes():
    """After three periods nobody knows what is there."""
    bench = Bench(FakeSource.of([reading()]))
    bench.read()
    bench.seconds = 3.0
    assert bench.shown() == [UUID]
    bench.seconds = 3.5
    assert bench.shown() == []


# ---- what goes away ----------------------------------------------------------------------------------


def test_a_device_that_is_gone_ends_its_series_and_leaves_its_record():
    """Its sister goes on."""
    both = [[first, second] for first, second in zip(counted(3), counted(3, uuid=OTHER), strict=True)]
    alone = moments(counted(2, first=3, uuid=OTHER))
    bench = Bench(FakeSource.of(*both, *alone))
    bench.read(times=4)
    assert bench.shown() == [OTHER]
    (record,) = bench.records
    assert (record.uuid, len(record.at_ns)) == (UUID, 3)


def test_a_device_that_comes_back_is_a_new_boot():
    """From when it is there again."""
    bench = Bench(FakeSource.of(*moments(counted(2)), [], *moments(counted(2, first=3))))
    bench.read(times=5)
    bench.sampler.stop()
    assert [record.key.boot.rpartition("/")[2] for record in bench.records] == [str(AT), str(AT + 3 * SECOND)]


def test_a_source_that_fails_says_so_once_and_leaves_its_records(caplog):
    """It is down, its devices end after three periods, and it is tried again."""
    failure = GpuError("nvml: the driver does not answer; look at nvidia-smi")
    source = FakeSource.of(*moments(counted(2)), *[failure] * 4, *moments(counted(1, first=6)))
    bench = Bench(source)
    with caplog.at_level(logging.INFO):
        bench.read(times=6)
        assert bench.sampler.view().sources == {"nvml": False}
        assert bench.shown() == []
        assert [len(record.at_ns) for record in bench.records] == [2]
        bench.read()
    assert [entry.getMessage() for entry in caplog.records] == [
        "nvml: the driver does not answer; look at nvidia-smi; it is tried again",
        "nvml is read again",
    ]
    assert bench.sampler.view().sources == {"nvml": True}
    bench.sampler.stop()
    # the counter went on while the source was away: one boot, nothing lost
    assert len({record.key.boot for record in bench.records}) == 1


def test_why_a_source_gives_nothing_is_shown_as_long_as_it_gives_nothing():
    """With the reason that it has now, and none once it answers."""
    first, second = GpuError("nvml: no driver"), GpuError("nvml: it is another version than its library")
    bench = Bench(FakeSource.of([reading()], first, second, [reading()]))
    told = [dict(bench.read().sampler.view().complaints) for _ in range(4)]
    assert told == [{}, {"nvml": str(first)}, {"nvml": str(second)}, {}]


def test_a_source_that_breaks_in_a_way_nobody_foresaw_is_down_like_another(caplog):
    """It ends no other source, and the log has where it broke."""
    broken = FakeSource.of(ZeroDivisionError("inside a driver"), name="http://x/metrics")
    bench = Bench(FakeSource.of([reading()]), broken)
    bench.read(0).read(1).read(1)
    assert bench.sampler.view().sources == {"nvml": True, "http://x/metrics": False}
    assert caplog.text.count("Traceback") == 1
    assert bench.shown() == [UUID]


def test_before_it_was_read_a_source_is_neither_up_nor_down():
    """Unknown is not 0."""
    assert Bench(FakeSource.of([])).sampler.view().sources == {}


# ---- several sources ---------------------------------------------------------------------------------


def test_a_device_of_two_sources_is_taken_from_the_first_with_what_only_the_second_knows():
    """The driver reads it, Kubernetes knows its pod, and DCGM how busy its tensor cores are."""
    nvml = FakeSource.of(*moments(counted(9)))
    dcgm = FakeSource.of([reading(source="dcgm", pod="llm/a", tensor_active=0.3, power_watts=1.0)], name="dcgm")
    bench = Bench(nvml, dcgm)
    for _ in range(3):
        bench.sampler.read(0)
        bench.sampler.read(1)
        bench.seconds += 1
    seen = bench.device().reading
    assert (seen.source, seen.pod, seen.tensor_active, seen.power_watts) == ("nvml", "llm/a", 0.3, 480.0)
    bench.sampler.stop()
    assert {record.source for record in bench.records} == {"nvml"}


def test_the_second_source_takes_over_where_the_first_fails():
    """The same device, in a boot of its own."""
    nvml = FakeSource.of(*moments(counted(2)), GpuError("nvml: away"))
    dcgm = FakeSource.of(*moments(counted(9, source="dcgm")), name="dcgm")
    bench = Bench(nvml, dcgm)
    for _ in range(8):
        bench.sampler.read(0)
        bench.sampler.read(1)
        bench.seconds += 1
    assert bench.device().reading.source == "dcgm"
    bench.sampler.stop()
    assert [record.source for record in bench.records] == ["nvml", "dcgm"]
    assert bench.records[1].at_ns[0] > bench.records[0].at_ns[-1]


# ---- threads -----------------------------------------------------------------------------------------


def test_a_slice_that_two_sources_name_differently_is_there_once():
    """NVML's MIG-… and DCGM's UUID/NUMBER are one slice; where only DCGM tells slices they are there."""
    profile = {"kind": MIG, "parent": UUID, "profile": "3g.40gb"}
    whole = reading(energy_mj=10**9)
    numbered = [reading(f"{UUID}/{number}", source="dcgm", power_watts=None, **profile) for number in (1, 2)]
    named = [reading(f"MIG-{number}", power_watts=None, **profile) for number in (1, 2)]
    dcgm = FakeSource.of([replace(whole, source="dcgm"), *numbered], name="dcgm")
    bench = Bench(FakeSource.of([whole, *named]), dcgm)
    bench.read().read(1)
    assert bench.shown() == [UUID, "MIG-1", "MIG-2"]
    bench = Bench(FakeSource.of([whole]), dcgm)
    bench.read().read(1)
    assert bench.shown() == [UUID, f"{UUID}/1", f"{UUID}/2"]


class Clocked(FakeSource):
    """Says when it was read often enough, and may hang until it is let go."""

    def __init__(self, name, often=3, hang=None):
        super().__init__([[]], name)
        self.often = often
        self.enough = threading.Event()
        self.hang = hang

    def read(self):
        self.asked += 1
        if self.asked >= self.often:
            self.enough.set()
        if self.hang is not None:
            self.hang.wait(30)
        return [reading(self.name, after=0, source="nvml")]


def test_a_source_that_hangs_keeps_no_other_waiting():
    """Each has a thread of its own, and is closed when its reading has ended."""
    let_go = threading.Event()
    hanging, quick = Clocked("hanging", often=1, hang=let_go), Clocked("quick", often=5)
    records: list[DeviceSamples] = []
    sampler = Sampler([hanging, quick], records.extend, sample_seconds=0.01)
    sampler.start()
    assert hanging.enough.wait(30)
    assert quick.enough.wait(30)
    let_go.set()
    sampler.stop()
    assert (hanging.closed, quick.closed) == (1, 1)
    assert {record.uuid for record in records} >= {"quick"}


def test_a_source_is_never_read_more_often_than_its_period():
    """A thread that waits, not one that turns."""
    source = Clocked("nvml", often=4)
    sampler = Sampler([source], lambda _: None, sample_seconds=0.05)
    began = time.monotonic()
    sampler.start()
    assert source.enough.wait(30)
    sampler.stop()
    assert source.asked <= (time.monotonic() - began) / 0.05 + 2
