"""What the inbox is told of devices: that they were there, and their energy, between readings and through trouble."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.collectors.gpu.gpu_readings import AT, UUID, FakeSource, moments, read_again, reading, recorded
from tests.collectors.gpu.sampled import Bench, by_second, counted

from farthing.collectors.wire import decode_device, device_line
from farthing.domain.clock import SECOND
from farthing.domain.errors import GpuError
from farthing.domain.gpu import COUNTER, ENERGY_SHARE, INTEGRATED, MIG, NO_ENERGY

OTHER = "GPU-6f0c8f7e-0000-4000-8000-000000000002"


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


@pytest.mark.parametrize("moved", [1, 2, 3, 5])
def test_a_pod_that_comes_between_two_values_of_the_counter_moves_no_energy(moved):
    """500 W all the time: what is told lies on the line, and what was read in one pod is not told as another's."""
    steps = [
        reading(after=second, pod="llm/a" if second < moved else "llm/b", power_watts=500.0, energy_mj=counter)
        for second, counter in enumerate([10**9, *[None] * 7, 10**9 + 4_000_000])
    ]
    bench = Bench(FakeSource.of(*moments(steps)))
    bench.read(times=len(steps))
    bench.sampler.stop()
    assert bench.told(pod="llm/a") == [(0, 10**9)]
    after = bench.told(pod="llm/b")
    assert after == [(second, 10**9 + second * 500_000) for second, _ in after]
    assert after[0][0] >= moved
    assert after[-1][0] == 8


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


@pytest.mark.parametrize("period", [1, 5, 10, 20])
def test_a_device_whose_counter_goes_missing_is_told_within_less_than_a_minute(period):
    """It is there, so it is paid for: a minute without samples would be one without the device."""
    steps = [reading(after=at, energy_mj=None if at else 10**9) for at in range(0, 30 * period, period)]
    bench = Bench(FakeSource.of(*moments(steps)), sample_seconds=period)
    bench.read(times=30, seconds=period)
    bench.sampler.stop()
    told = [at for at, _ in bench.told()]
    assert max(after - before for before, after in pairwise(told)) < 60
    assert told[-1] == 29 * period


def test_what_was_drawn_while_a_counter_was_missing_is_known_by_every_reading():
    """100 W, from the first second on 700 W: 6.7 kJ of the ten seconds, by trapezoids."""
    steps = [
        reading(after=second, power_watts=700.0 if second else 100.0, energy_mj=None if second else 10**9)
        for second in range(12)
    ]
    bench = Bench(FakeSource.of(*moments(steps)))
    bench.read(times=12)
    bench.sampler.stop()
    assert (10, 6_700_000) in bench.told(method=INTEGRATED)


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


@pytest.mark.parametrize(("period", "moments_told"), [(1, [0, 10, 20]), (5, [0, 10, 20]), (30, [0, 30, 60])])
def test_a_slice_is_told_all_the_same_where_its_gpus_counter_stands_still(period, moments_told):
    """It is there, so it is paid for, however seldom it is read."""
    steps = [
        [
            reading(after=at, energy_mj=10**9),
            reading("MIG-1", after=at, kind=MIG, parent=UUID, profile="3g.40gb", power_watts=None),
        ]
        for at in range(0, 30 * period, period)
    ]
    bench = Bench(FakeSource.of(*steps), sample_seconds=period)
    bench.read(times=30, seconds=period)
    bench.sampler.stop()
    assert [at for at, _ in bench.told(kind=MIG)][:3] == moments_told


def test_a_slice_that_waits_for_its_gpus_counter_has_its_share_after_a_reading_without_its_size():
    """The size is missing in one reading of many."""
    steps = [
        [
            reading(after=second, energy_mj=10**9 + second // 10 * 7_000_000),
            reading(
                "MIG-1",
                after=second,
                kind=MIG,
                parent=UUID,
                profile="" if second == 9 else "3g.40gb",
                power_watts=None,
            ),
        ]
        for second in range(61)
    ]
    bench = Bench(FakeSource.of(*steps))
    bench.read(times=61)
    bench.sampler.stop()
    assert {record.method for record in bench.records if record.kind == MIG} == {ENERGY_SHARE}
    assert bench.told(kind=MIG)[-1] == (60, 6 * 3_000_000)


def test_a_slice_has_its_share_by_whichever_source_counts_its_gpu():
    """The driver is away for half a minute and comes back, while the exporter tells the slice all the time: its GPU is
    counted by one and by the other, and nothing twice.
    """
    part = {"source": "dcgm", "kind": MIG, "parent": UUID, "profile": "3g.40gb", "power_watts": None}
    driver = [
        GpuError("gone") if 200 <= second < 230 else [reading(after=second, energy_mj=10**9 + second * 700_000)]
        for second in range(300)
    ]
    exporter = [
        [
            reading(after=second, source="dcgm", energy_mj=10**9 + second * 700_000),
            reading(f"{UUID}/1", after=second, **part),
        ]
        for second in range(300)
    ]
    bench = Bench(FakeSource.of(*driver), FakeSource.of(*exporter, name="dcgm"))
    for _ in range(300):
        bench.sampler.read(0)
        bench.read(1)
    assert bench.device(f"{UUID}/1").energy_mj == pytest.approx(299 * 300_000, rel=0.03)
    bench.sampler.stop()
    away = [energy for at, energy in bench.told(uuid=f"{UUID}/1") if 205 <= at < 230]
    assert away[-1] - away[0] == (len(away) - 1) * 300_000


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
