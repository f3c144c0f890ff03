"""Processors are devices too: energy of RAPL counters over their wraps, utilisation and memory by psutil."""

import logging
import os
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.collectors.gpu.cpu import CpuSource
from farthing.collectors.gpu.rapl import Counter, packages
from farthing.collectors.gpu.source import GpuSource
from farthing.domain.clock import SECOND
from farthing.domain.gpu import CPU

RANGE_UJ = 262_143_328_850
"""Of a server of Intel's: 2^32 units of 61 uJ."""
Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")


class Host:
    """A sysfs tree, a psutil and a clock."""

    def __init__(self, root):
        self.powercap, self.cpus, self.cpuinfo = root / "powercap", root / "cpu", root / "cpuinfo"
        self.powercap.mkdir()
        self.cpus.mkdir()
        self.cpuinfo.write_text("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\n")
        self.now_ns = 1_795_445_124 * SECOND
        self.times = []
        self.memory = SimpleNamespace(total=64 << 30, available=24 << 30)

    def domain(self, folder, name, energy_uj=1_000_000, range_uj=RANGE_UJ):
        path = self.powercap / folder
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        return path / "energy_uj"

    def processor(self, number, package):
        topology = self.cpus / f"cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        self.times.append(Times(*[0.0] * 10))

    def works(self, number, **states):
        """Seconds that a processor spends in some states."""
        times = self.times[number]
        self.times[number] = times._replace(**{name: getattr(times, name) + value for name, value in states.items()})

    def source(self):
        system = SimpleNamespace(cpu_times=lambda percpu: list(self.times), virtual_memory=lambda: self.memory)
        paths = {"powercap": self.powercap, "cpus": self.cpus, "cpuinfo": self.cpuinfo}
        return CpuSource("edge-1", lambda: self.now_ns, **paths, system=system)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def lone(host):
    """One package of two processors with its memory's counter."""
    host.processor(0, 0)
    host.processor(1, 0)
    host.package = host.domain("intel-rapl:0", "package-0", 5_000_000)
    host.domain("intel-rapl:0:0", "core", 4_000_000)
    host.dram = host.domain("intel-rapl:0:1", "dram", 2_000_000)
    host.domain("intel-rapl:1", "psys", 9_000_000)
    host.domain("intel-rapl-mmio:0", "package-0", 5_000_000)
    return host


def test_a_package_is_a_device_with_its_energy_and_its_memorys(lone):
    """Cores are in the package already, the platform is more than it, and the second interface tells it twice."""
    [reading] = lone.source().read()
    assert (reading.uuid, reading.kind, reading.source) == ("CPU-edge-1-0", CPU, "rapl")
    assert (reading.host, reading.index, reading.at_ns) == ("edge-1", 0, lone.now_ns)
    assert reading.name == "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz"
    assert reading.energy_mj == 7_000
    assert (reading.memory_used_bytes, reading.memory_total_bytes) == (40 << 30, 64 << 30)
    assert (reading.utilization, reading.power_watts) == (None, None)


def test_utilisation_and_power_are_means_since_the_last_reading(lone):
    """10 s: one processor worked for 6 s, for a guest half of it; the package took 150 J, its memory 30 J."""
    source = lone.source()
    source.read()
    lone.now_ns += 10 * SECOND
    lone.works(0, user=4, guest=3, system=1, softirq=0.5, steal=0.5, idle=3, iowait=1)
    lone.works(1, idle=10)
    lone.package.write_text("155000000\n")
    lone.dram.write_text("32000000\n")
    [reading] = source.read()
    assert reading.utilization == pytest.approx(6 / 20)
    assert reading.power_watts == pytest.approx(18)
    assert reading.energy_mj == 187_000
    lone.now_ns += SECOND
    [reading] = source.read()
    assert (reading.utilization, reading.power_watts) == (None, 0)


def test_two_packages_are_two_devices_of_their_own_processors(host):
    """Dies of a package are one device; which memory is whose is not known."""
    for number, package in enumerate([0, 1, 0, 1]):
        host.processor(number, package)
    host.domain("intel-rapl:0", "package-0-die-0", 1_000_000)
    host.domain("intel-rapl:1", "package-0-die-1", 2_000_000)
    host.domain("intel-rapl:2", "package-1", 4_000_000)
    source = host.source()
    assert [reading.energy_mj for reading in source.read()] == [3_000, 4_000]
    host.works(0, user=1)
    host.works(2, idle=1)
    host.works(1, idle=1)
    host.works(3, idle=1)
    readings = source.read()
    assert [(reading.uuid, reading.utilization) for reading in readings] == [("CPU-edge-1-0", 0.5), ("CPU-edge-1-1", 0)]
    assert {reading.memory_used_bytes for reading in readings} == {None}


def test_the_tenth_processor_comes_after_the_ninth(host):
    """psutil gives them by number, and file names sort otherwise."""
    for number in range(11):
        host.processor(number, 1 if number == 10 else 0)
    source = host.source()
    source.read()
    for number in range(11):
        host.works(number, **{"user" if number == 10 else "idle": 1})
    assert [reading.utilization for reading in source.read()] == [0, 1]


def test_a_virtual_machine_that_knows_no_package_has_number_0(host):
    """The kernel says -1 there."""
    host.processor(0, -1)
    assert [reading.uuid for reading in host.source().read()] == ["CPU-edge-1-0"]


def test_a_host_without_topology_or_counters_is_one_package(host, caplog):
    """As in a sandbox; what is missing is said once."""
    caplog.set_level(logging.INFO)
    host.times = [Times(*[0.0] * 10)]
    host.cpuinfo.write_text("processor\t: 0\n")
    source = host.source()
    source.read()
    host.works(0, user=3, idle=1)
    [reading] = source.read()
    assert (reading.uuid, reading.utilization, reading.energy_mj) == ("CPU-edge-1-0", 0.75, None)
    assert reading.name.endswith(" processor")
    assert ["energy is unknown" in record.getMessage() for record in caplog.records] == [True]


def test_counters_that_are_for_root_alone_leave_energy_unknown_and_it_is_said_once(lone, monkeypatch, caplog):
    """Whoever runs the test: the refusal is the kernel's answer, and may end."""
    read_text = Path.read_text
    refused = {"energy_uj"}

    def refusing(path, *args, **named):
        if path.name in refused:
            raise PermissionError(13, os.strerror(13), str(path))
        return read_text(path, *args, **named)

    monkeypatch.setattr(Path, "read_text", refusing)
    source = lone.source()
    for _ in range(3):
        [reading] = source.read()
        assert (reading.energy_mj, reading.power_watts) == (None, None)
        lone.now_ns += SECOND
    [record] = caplog.records
    assert record.getMessage().startswith("cpu: the energy counters of processors are for root alone; run")
    assert "\n" not in record.getMessage()
    refused.clear()
    assert source.read()[0].energy_mj == 7_000


def test_a_counter_of_which_a_part_cannot_be_read_is_unknown(lone, caplog):
    """The package alone would be a step down."""
    source = lone.source()
    source.read()
    lone.dram.write_text("")
    assert source.read()[0].energy_mj is None
    assert len(caplog.records) == 1
    lone.now_ns += SECOND
    lone.dram.write_text("2000000\n")
    assert source.read()[0].energy_mj == 7_000


# ---- wraps ----------------------------------------------------------------------------------------
def counter(folder, energy_uj, range_uj=RANGE_UJ):
    """A counter's domain, read once at 0 s."""
    (folder / "energy_uj").write_text(str(energy_uj))
    if range_uj is not None:
        (folder / "max_energy_range_uj").write_text(str(range_uj))
    made = Counter(folder)
    made.read(0)
    return made


def read(made, energy_uj, at_ns):
    (made.folder / "energy_uj").write_text(str(energy_uj))
    return made.read(at_ns)


def test_a_wrap_goes_on_where_the_counter_ended(tmp_path):
    """50 J before the end and 100 J after it."""
    made = counter(tmp_path, RANGE_UJ - 50_000_000)
    assert read(made, 100_000_000, SECOND) == RANGE_UJ + 100_000_000


def test_a_counter_that_began_anew_counts_what_it_shows(tmp_path):
    """From the middle of the range: as a wrap it would be 131 kW."""
    made = counter(tmp_path, RANGE_UJ // 2)
    assert read(made, 20_000_000, SECOND) == RANGE_UJ // 2 + 20_000_000
    assert read(made, 25_000_000, 2 * SECOND) == RANGE_UJ // 2 + 25_000_000


def test_a_counter_that_fell_to_what_cannot_be_counts_nothing(tmp_path):
    """Neither as a wrap nor as a new beginning: 100 kJ in a second."""
    made = counter(tmp_path, 150_000_000_000)
    assert read(made, 100_000_000_000, SECOND) == 150_000_000_000


def test_a_counter_without_a_range_begins_anew(tmp_path):
    """Of a kernel that does not tell where it wraps."""
    made = counter(tmp_path, 150_000_000_000, range_uj=None)
    assert read(made, 20_000_000, SECOND) == 150_020_000_000


@given(
    start=st.integers(0, RANGE_UJ - 1),
    steps=st.lists(st.integers(0, 500_000_000), min_size=1, max_size=30),
)
def test_every_microjoule_is_counted_over_any_number_of_wraps(tmp_path_factory, start, steps):
    """At up to 500 W, read once a second, in a range of some 600 J."""
    range_uj = 600_000_000
    true = start % range_uj
    made = counter(tmp_path_factory.mktemp("rapl"), true, range_uj)
    for number, step in enumerate(steps, start=1):
        true += step
        assert read(made, true % range_uj, number * SECOND) == true


def test_an_empty_tree_has_no_packages(tmp_path):
    """And one that is not there."""
    assert not packages(tmp_path)
    assert not packages(tmp_path / "none")


def test_this_machine_can_be_read():
    """The real psutil, and whatever the kernel shows here."""
    source: GpuSource = CpuSource()
    source.read()
    readings = source.read()
    source.close()
    assert source.name == "cpu"
    assert readings
    assert all(reading.utilization is None or 0 <= reading.utilization <= 1 for reading in readings)
    if len(readings) == 1:
        assert readings[0].memory_total_bytes == psutil.virtual_memory().total
