"""NVML's answers become readings in base units; what a device, a driver or a user lacks is None and asked once."""

import json
import subprocess
import sys
from dataclasses import replace

import pynvml
import pytest
from tests.collectors.gpu.fake_nvml import FakeGpu, FakeNvml, capture, samples
from tests.collectors.gpu.nvml_host import EVERYTHING, ROW, Clock, gpu, reading_of, source_of

from farthing.collectors.gpu.metering import Meter
from farthing.collectors.gpu.nvml import NvmlOptions
from farthing.collectors.gpu.nvml_queries import EventReason, throttle_reasons
from farthing.collectors.gpu.source import GpuSource
from farthing.domain.clock import nanoseconds
from farthing.domain.conventions import FAULT_SENTINEL
from farthing.domain.gpu import COUNTER, GPU, INTEGRATED, THROTTLE_REASONS

RECORDINGS = {"h100-llama8b-vllm0.26": 139_680, "h100-qwen2vl7b-vllm0.26": 93_673}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def proc(tmp_path):
    """Where the kernel lists the GPUs that its driver has."""
    (tmp_path / "0000:00:06.0").mkdir()
    return tmp_path


@pytest.mark.parametrize(("recording", "joules"), RECORDINGS.items())
def test_every_recorded_value_is_read_in_base_units(recording, joules, clock, proc):
    """Thousands of samples of a real H100: millijoules stay, milliwatts are watts, percents parts, MHz Hz."""
    device, rows = samples(recording)
    one = FakeGpu(rows[0], name=device["name"], limit_mw=device["power_limit_mw"])
    source = source_of(FakeNvml(one), clock, proc)
    assert len(rows) > 1_000
    for row in rows:
        one.row, clock.now_ns = row, nanoseconds(row["t"])
        [reading] = source.read()
        assert (reading.at_ns, reading.energy_mj, reading.power_watts) == (
            clock.now_ns,
            row["e_mj"],
            row["p_mw"] / 1000,
        )
        assert (reading.utilization, reading.memory_utilization) == (row["gpu"] / 100, row["memu"] / 100)
        assert reading.memory_used_bytes == max(0, row["mem"] - one.reserved)
        assert (reading.sm_clock_hz, reading.temperature_celsius) == (row["sm"] * 1_000_000, row["temp"])
        assert reading.throttle == throttle_reasons(row["thr"])
        assert (reading.power_limit_watts, reading.faults) == (700.0, frozenset())
    assert (rows[-1]["e_mj"] - rows[0]["e_mj"]) / 1000 == pytest.approx(joules, rel=1e-5)


@pytest.mark.parametrize(("recording", "joules"), RECORDINGS.items())
def test_a_counter_that_is_asked_seldom_loses_nothing(recording, joules, clock, proc):
    """But what the last second took; an eighth of the readings has it, however often they are taken."""
    device, rows = samples(recording)
    one = FakeGpu(rows[0], name=device["name"])
    source = source_of(FakeNvml(one), clock, proc, NvmlOptions(xid_events=False))
    energies = []
    for row in rows:
        one.row, clock.now_ns = row, nanoseconds(row["t"])
        energies.append(source.read()[0].energy_mj)
    known = [energy for energy in energies if energy is not None]
    assert (known[-1] - known[0]) / 1000 == pytest.approx(joules, rel=0.01)
    assert known == sorted(known)
    assert len(rows) / 8 <= len(known) < len(rows) / 7
    assert all(any(energies[at : at + 8]) for at in range(len(energies) - 8))


@pytest.mark.parametrize("every", [1, 10], ids=["10 Hz", "1 Hz"])
@pytest.mark.parametrize(("recording", "joules"), RECORDINGS.items())
def test_the_meter_takes_a_counter_that_is_asked_seldom_for_a_counter(recording, joules, every, clock, proc):
    """It never integrates power instead, and at 1 Hz and 10 Hz ends with the recording's energy."""
    device, rows = samples(recording)
    one = FakeGpu(rows[0], name=device["name"])
    source = source_of(FakeNvml(one), clock, proc, NvmlOptions(xid_events=False))
    meter = Meter()
    for row in rows[::every]:
        one.row, clock.now_ns = row, nanoseconds(row["t"])
        meter.add(source.read()[0])
        assert meter.method == COUNTER
    assert meter.used_mj / 1000 == pytest.approx(joules, rel=0.01)


@pytest.mark.parametrize(("recording", "joules"), RECORDINGS.items())
def test_power_at_1_hz_comes_close_to_the_counter_where_there_is_none(recording, joules, clock, proc):
    """Within 0.2 % of what the counter said: power is the mean of a second."""
    device, rows = samples(recording)
    lacking = ("TOTAL_ENERGY_CONSUMPTION", "nvmlDeviceGetTotalEnergyConsumption")
    one = FakeGpu(rows[0], name=device["name"], errors=dict.fromkeys(lacking, pynvml.NVML_ERROR_NOT_SUPPORTED))
    source = source_of(FakeNvml(one), clock, proc)
    meter, seen = Meter(), rows[::10]
    for row in seen:
        one.row, clock.now_ns = row, nanoseconds(row["t"])
        meter.add(source.read()[0])
        assert meter.method == INTEGRATED
    assert meter.used_mj == pytest.approx(seen[-1]["e_mj"] - seen[0]["e_mj"], rel=0.002)
    assert meter.used_mj / 1000 == pytest.approx(joules, rel=0.01)


def test_a_reading_says_what_the_device_is_and_all_that_it_tells(clock, proc):
    """The rest of a real H100's answers, as they were captured."""
    nvml = FakeNvml(gpu(processes=((4_711, 78_400_000_000), (4_712, None))))
    reading = reading_of(nvml, clock, proc)
    assert (reading.uuid, reading.host, reading.index, reading.kind) == ("GPU-00000000", "node-1", 0, GPU)
    assert (reading.name, reading.source) == ("NVIDIA H100 80GB HBM3", "nvml")
    assert reading.memory_total_bytes == 85_520_809_984
    assert (reading.memory_clock_hz, reading.max_sm_clock_hz) == (2_619_000_000, 1_980_000_000)
    assert reading.memory_temperature_celsius == 65
    assert (reading.ecc_corrected, reading.ecc_uncorrected, reading.remapped_rows_pending) == (0, 0, False)
    assert reading.processes == ((4_711, 78_400_000_000), (4_712, None))
    assert (reading.nvlink_tx_bytes, reading.pcie_tx_bytes_per_second, reading.xid_count) == (None, None, None)


def test_nvlink_counters_are_bytes_over_all_links(clock, proc):
    """Before NVLink 5 in KiB, by fields that a lone H100 refuses and an H200 with a peer has."""
    answers = {"NVLINK_THROUGHPUT_DATA_TX": 10_485_764, "NVLINK_THROUGHPUT_DATA_RX": 5}
    linked = gpu(captured=capture("h200x2-driver580"), answers=answers)
    reading = reading_of(FakeNvml(linked), clock, proc)
    assert (reading.nvlink_tx_bytes, reading.nvlink_rx_bytes) == (10_485_764 * 1024, 5 * 1024)


def test_nvlink_counters_of_newer_gpus_are_bytes_already(clock, proc):
    """Fields 202 and 204 come first."""
    answers = {"NVLINK_COUNT_XMIT_BYTES": 5_000, "NVLINK_COUNT_RCV_BYTES": 6_000}
    blackwell = gpu(answers=answers, errors=dict.fromkeys(answers, 0))
    for name in answers:
        blackwell.captured["fields"][name]["type"] = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    reading = reading_of(FakeNvml(blackwell), clock, proc)
    assert (reading.nvlink_tx_bytes, reading.nvlink_rx_bytes) == (5_000, 6_000)


def test_pcie_is_measured_only_where_somebody_wants_to_wait(clock, proc):
    """Kilobytes a second become bytes a second; by default the call that waits is never made."""
    nvml = FakeNvml(gpu())
    reading = reading_of(nvml, clock, proc, replace(EVERYTHING, blocking_pcie=True))
    assert (reading.pcie_tx_bytes_per_second, reading.pcie_rx_bytes_per_second) == (563_000, 967_000)
    nvml = FakeNvml(gpu())
    reading_of(nvml, clock, proc)
    assert not nvml.calls["nvmlDeviceGetPcieThroughput"]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (0, set()),
        (EventReason.GpuIdle, {"idle"}),
        (EventReason.SwPowerCap, {"power"}),
        (EventReason.HwThermalSlowdown, {"thermal"}),
        (EventReason.SwThermalSlowdown, {"thermal"}),
        (EventReason.HwSlowdown, {"hardware"}),
        (EventReason.HwPowerBrakeSlowdown, {"hardware"}),
        (EventReason.ApplicationsClocksSetting, {"settings"}),
        (EventReason.DisplayClockSetting, {"settings"}),
        (EventReason.SyncBoost, {"other"}),
        (0x8000, {"other"}),
        (36, {"power", "thermal"}),
        (0x1FF, set(THROTTLE_REASONS)),
    ],
)
def test_throttle_reasons_are_the_common_ones(reasons, expected, clock, proc):
    """36 is what the captured H100 said after its load."""
    one = gpu()
    one.row["thr"] = int(reasons)
    assert reading_of(FakeNvml(one), clock, proc).throttle == expected


# ---- what is not there ----------------------------------------------------------------------------
CALLS = {
    "nvmlDeviceGetUtilizationRates": ("utilization", "memory_utilization"),
    "nvmlDeviceGetClockInfo": ("sm_clock_hz", "memory_clock_hz"),
    "nvmlDeviceGetMaxClockInfo": ("max_sm_clock_hz",),
    "nvmlDeviceGetEnforcedPowerLimit": ("power_limit_watts",),
}
FIELDS = {"MEMORY_TEMP": ("memory_temperature_celsius",)}
REFUSALS = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "DEPRECATED")


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(("asked", "names"), [*CALLS.items(), *FIELDS.items()])
def test_what_is_not_supported_is_none_and_not_asked_again(asked, names, refusal, clock, proc):
    """Nothing else is missing for it; after NVML is initialised again it is asked again."""
    nvml = FakeNvml(gpu(errors={asked: getattr(pynvml, f"NVML_ERROR_{refusal}")}))
    whole = reading_of(FakeNvml(gpu()), clock, proc)
    source = source_of(nvml, clock, proc)
    for _ in range(40):
        assert source.read() == [replace(whole, at_ns=clock.now_ns, **dict.fromkeys(names))]
        clock.pass_seconds(1)
    assert nvml.calls[asked] + nvml.fields[asked] == len(names) - ("utilization" in names)
    source.close()
    source.read()
    assert nvml.calls[asked] + nvml.fields[asked] == 2 * (len(names) - ("utilization" in names))


def test_trouble_that_passes_is_unknown_for_that_moment(clock, proc):
    """An error that says nothing for good is no reason to stop asking."""
    one = gpu(
        errors={
            "nvmlDeviceGetTemperature": pynvml.NVML_ERROR_UNKNOWN,
            "TOTAL_ENERGY_CONSUMPTION": pynvml.NVML_ERROR_TIMEOUT,
        }
    )
    source = source_of(FakeNvml(one), clock, proc)
    [reading] = source.read()
    assert (reading.temperature_celsius, reading.energy_mj, reading.utilization) == (None, None, 0.87)
    one.errors.clear()
    [reading] = source.read()
    assert (reading.temperature_celsius, reading.energy_mj) == (66, ROW["e_mj"])


@pytest.mark.parametrize(
    ("lacking", "instead"),
    [
        ({"nvmlDeviceGetPowerUsage"}, "POWER_INSTANT"),
        ({"TOTAL_ENERGY_CONSUMPTION"}, "nvmlDeviceGetTotalEnergyConsumption"),
        ({"ECC_SBE_VOL_TOTAL"}, "nvmlDeviceGetTotalEccErrors"),
        ({"ECC_DBE_VOL_TOTAL"}, "nvmlDeviceGetTotalEccErrors"),
        ({"REMAPPED_PENDING"}, "nvmlDeviceGetRemappedRows"),
        ({"nvmlDeviceGetFieldValues"}, "nvmlDeviceGetTotalEnergyConsumption"),
        ({"nvmlDeviceGetCurrentClocksEventReasons"}, "nvmlDeviceGetCurrentClocksThrottleReasons"),
        ({"nvmlDeviceGetTemperature"}, "nvmlDeviceGetTemperatureV"),
        ({"nvmlDeviceGetMemoryInfo_v2"}, "nvmlDeviceGetMemoryInfo"),
        ({"nvmlDeviceGetComputeRunningProcesses_v3"}, "nvmlDeviceGetComputeRunningProcesses_v2"),
    ],
)
def test_older_drivers_are_asked_in_the_older_way(lacking, instead, clock, proc):
    """The same reading by another call, within the same read; the newer way is tried once."""
    fields = {name for name in lacking if not name.startswith("nvml")}
    processes = ((4_711, 78_400_000_000),)
    errors = dict.fromkeys(fields, pynvml.NVML_ERROR_NOT_SUPPORTED)
    nvml = FakeNvml(gpu(errors=errors, processes=processes), missing=lacking - fields)
    whole = reading_of(FakeNvml(gpu(processes=processes)), clock, proc)
    if "nvmlDeviceGetMemoryInfo_v2" in lacking:
        whole = replace(whole, memory_used_bytes=ROW["mem"])
    if "nvmlDeviceGetFieldValues" in lacking:
        whole = replace(whole, memory_temperature_celsius=None)
    source = source_of(nvml, clock, proc)
    assert source.read() == [whole]
    clock.pass_seconds(1)
    assert source.read() == [replace(whole, at_ns=clock.now_ns)]
    assert nvml.calls[instead] + nvml.fields[instead] >= 1
    (name,) = lacking
    assert nvml.calls[name] + nvml.fields[name] <= 3  # the field call itself: once for each of its groups


class OldBindings(FakeNvml):
    """An nvidia-ml-py from before the rename."""

    nvmlDeviceGetCurrentClocksEventReasons = property()  # noqa: N815  # reading it raises AttributeError


def test_older_bindings_are_asked_in_the_older_way(clock, proc):
    """A name that the installed nvidia-ml-py does not have is a call that the driver does not have."""
    assert reading_of(OldBindings(gpu()), clock, proc).throttle == {"power"}


@pytest.mark.parametrize(
    ("asked", "stand_in", "name"),
    [
        ("TOTAL_ENERGY_CONSUMPTION", (1 << 64) - 1, "energy_mj"),
        ("TOTAL_ENERGY_CONSUMPTION", 0, "energy_mj"),
        ("nvmlDeviceGetPowerUsage", (1 << 32) - 1, "power_watts"),
        ("nvmlDeviceGetPowerUsage", 0, "power_watts"),
        ("MEMORY_TEMP", (1 << 32) - 1, "memory_temperature_celsius"),
        ("ECC_DBE_VOL_TOTAL", (1 << 64) - 1, "ecc_uncorrected"),
        ("nvmlDeviceGetUtilizationRates", (101, 0), "utilization"),
        ("nvmlDeviceGetMemoryInfo", (1 << 64) - 1, "memory_used_bytes"),
    ],
)
def test_a_stand_in_for_no_value_is_none_and_told(asked, stand_in, name, clock, proc):
    """All bits set, more than all; and 0 W or 0 mJ of a device that is powered."""
    reading = reading_of(FakeNvml(gpu(answers={asked: stand_in})), clock, proc)
    assert getattr(reading, name) is None
    assert reading.faults == {FAULT_SENTINEL}


def test_an_idle_gpu_shows_no_fault(clock, proc):
    """0 % and 0 errors are values."""
    one = gpu()
    one.row |= {"gpu": 0, "memu": 0, "thr": 1, "mem": 0}
    reading = reading_of(FakeNvml(one), clock, proc)
    assert (reading.utilization, reading.memory_used_bytes, reading.throttle) == (0, 0, {"idle"})
    assert not reading.faults


# ---- how often ------------------------------------------------------------------------------------
def test_what_is_dear_or_changes_seldom_is_asked_seldom(clock, proc):
    """A minute at one reading a second: limits every 10 s, the highest clock once, energy every fourth second."""
    nvml = FakeNvml(gpu())
    source = source_of(nvml, clock, proc, NvmlOptions(xid_events=False))
    for _ in range(60):
        [reading] = source.read()
        assert (reading.power_limit_watts, reading.max_sm_clock_hz) == (700, 1_980_000_000)
        clock.pass_seconds(1)
    assert nvml.calls["nvmlDeviceGetUtilizationRates"] == nvml.calls["nvmlDeviceGetPowerUsage"] == 60
    assert nvml.fields["TOTAL_ENERGY_CONSUMPTION"] == 15
    assert nvml.calls["nvmlDeviceGetEnforcedPowerLimit"] == 6
    assert nvml.calls["nvmlDeviceGetMaxClockInfo"] == 1
    assert nvml.calls["nvmlInit"] == nvml.calls["nvmlDeviceGetHandleByIndex"] == 1
    # what changes seldom, twice at first; energy
    assert nvml.calls["nvmlDeviceGetFieldValues"] <= 6 + 2 + 15


def test_readings_that_come_a_little_early_ask_as_often(clock, proc):
    """A sampler's period is never to the millisecond."""
    nvml = FakeNvml(gpu())
    source = source_of(nvml, clock, proc, NvmlOptions(xid_events=False))
    for number in range(60):
        source.read()
        clock.pass_seconds(0.97 if number % 2 else 1.0)
    assert nvml.fields["TOTAL_ENERGY_CONSUMPTION"] == 15


def test_a_counter_that_did_not_answer_is_asked_at_the_next_reading(clock, proc):
    """Else a device would soon be taken for one without a counter."""
    one = gpu()
    nvml = FakeNvml(one)
    source = source_of(nvml, clock, proc, NvmlOptions(xid_events=False))
    known = []
    for second in range(10):
        one.errors = {"TOTAL_ENERGY_CONSUMPTION": pynvml.NVML_ERROR_TIMEOUT} if second in {4, 5} else {}
        [reading] = source.read()
        known.append(reading.energy_mj is not None)
        clock.pass_seconds(1)
    assert [second for second, there in enumerate(known) if there] == [0, 6]


def test_energy_counters_of_many_gpus_are_asked_in_proportion_less_often(clock, proc):
    """Eight: once in eight seconds each."""
    nvml = FakeNvml(*(gpu(number) for number in range(8)))
    source = source_of(nvml, clock, proc, NvmlOptions(xid_events=False))
    for _ in range(64):
        source.read()
        clock.pass_seconds(1)
    assert nvml.fields["TOTAL_ENERGY_CONSUMPTION"] == 8 * 8


def test_a_clock_that_is_set_back_stops_nothing(clock, proc):
    """An hour back: all is asked at once, not in an hour."""
    nvml = FakeNvml(gpu())
    source = source_of(nvml, clock, proc, NvmlOptions(xid_events=False))
    source.read()
    clock.pass_seconds(-3_600)
    [reading] = source.read()
    assert reading.energy_mj == ROW["e_mj"]
    assert nvml.calls["nvmlDeviceGetEnforcedPowerLimit"] == 2


# ---- what it needs --------------------------------------------------------------------------------
def test_it_runs_on_a_host_that_has_only_the_bindings_beside_the_domain():
    """Nothing of Farthing's other dependencies is imported, and nothing of NVIDIA before a source is made."""
    code = (
        "import sys, farthing.collectors.gpu.nvml as n; assert 'pynvml' not in sys.modules; n.NvmlSource(); "
        "import json; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {
        "numpy",
        "scipy",
        "pydantic",
        "httpx",
        "sqlalchemy",
        "yaml",
        "prometheus_client",
        "psutil",
        "anyio",
        "rich",
    }
    imported = set(json.loads(told.stdout))
    assert "pynvml" in imported
    assert not imported & foreign


def test_it_is_a_source(clock, proc):
    """Of the protocol."""
    source: GpuSource = source_of(FakeNvml(), clock, proc)
    assert source.name == "nvml"
