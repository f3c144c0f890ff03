"""Sources read in turn: what is shown, what goes into the inbox, and what happens when something goes away."""

import logging
import threading
import time
from dataclasses import replace

from tests.collectors.gpu.gpu_readings import AT, UUID, FakeSource, moments, reading
from tests.collectors.gpu.sampled import Bench, by_second, counted

from farthing.collectors.gpu.sampler import Sampler
from farthing.domain.clock import SECOND
from farthing.domain.conventions import FAULT_ENERGY_WENT_BACK, FAULT_SENTINEL, FAULT_STUCK_UTILIZATION
from farthing.domain.errors import GpuError
from farthing.domain.gpu import CPU, MIG, DeviceSamples

OTHER = "GPU-6f0c8f7e-0000-4000-8000-000000000002"


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
