"""Devices, drivers and MIG instances come and go while they are read."""

import logging
import sys

import pynvml
import pytest
from tests.collectors.gpu.fake_nvml import FakeNvml, FakeSlice
from tests.collectors.gpu.nvml_host import ROW, Clock, gpu, source_of

from farthing.collectors.gpu.nvml import NvmlSource
from farthing.domain.errors import GpuError
from farthing.domain.gpu import GPU, MIG


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def proc(tmp_path):
    """Where the kernel lists the GPUs that its driver has."""
    (tmp_path / "0000:00:06.0").mkdir()
    return tmp_path


# ---- devices come and go --------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["*", "nvmlDeviceGetUtilizationRates", "TOTAL_ENERGY_CONSUMPTION"])
def test_a_gpu_that_is_lost_ends_its_readings_and_no_others(how, clock, proc, caplog):
    """Whichever call says so; it is said once each time, and looked for again every 10 s."""
    caplog.set_level(logging.WARNING)
    lost, kept = gpu(0), gpu(1)
    source = source_of(FakeNvml(lost, kept), clock, proc)
    assert [reading.uuid for reading in source.read()] == [lost.uuid, kept.uuid]
    lost.errors[how] = pynvml.NVML_ERROR_GPU_IS_LOST
    for _ in range(40):
        clock.pass_seconds(1)
        assert [reading.uuid for reading in source.read()] == [kept.uuid]
    assert [record.getMessage() for record in caplog.records] == ["nvml: GPU-00000000 (index 0) is lost: GPU is lost"]
    lost.errors.clear()
    clock.pass_seconds(10)
    assert [reading.uuid for reading in source.read()] == [lost.uuid, kept.uuid]
    lost.errors[how] = pynvml.NVML_ERROR_GPU_IS_LOST
    source.read()
    assert len(caplog.records) == 2


def test_a_gpu_that_appears_is_seen_within_10_s(clock, proc):
    """NVML enumerates when it is initialised; the kernel's list says when that has to be done again."""
    nvml = FakeNvml(gpu(0))
    source = source_of(nvml, clock, proc)
    source.read()
    nvml.gpus.append(gpu(1))
    (proc / "0000:00:07.0").mkdir()
    seen = []
    for _ in range(10):
        clock.pass_seconds(1)
        seen.append(len(source.read()))
    assert seen == [1] * 9 + [2]
    assert nvml.calls["nvmlInit"] == 2


def test_a_gpu_that_is_taken_away_is_gone_within_10_s(clock, proc):
    """And the others are read on."""
    nvml = FakeNvml(gpu(0), gpu(1))
    (proc / "0000:00:07.0").mkdir()
    source = source_of(nvml, clock, proc)
    source.read()
    nvml.gpus.pop()
    (proc / "0000:00:07.0").rmdir()
    clock.pass_seconds(10)
    assert [reading.uuid for reading in source.read()] == ["GPU-00000000"]


def test_a_driver_that_is_loaded_anew_is_initialised_again_at_once(clock, proc, caplog):
    """No reading is missed, and what the old driver lacked is asked of the new one."""
    caplog.set_level(logging.WARNING)
    one = gpu(errors={"nvmlDeviceGetTemperature": pynvml.NVML_ERROR_NOT_SUPPORTED})
    nvml = FakeNvml(one, missing={"nvmlDeviceGetTemperatureV"})
    source = source_of(nvml, clock, proc)
    assert source.read()[0].temperature_celsius is None
    one.errors.clear()
    nvml.unload()
    assert source.read()[0].temperature_celsius == 66
    assert len(caplog.records) == 1


def test_a_driver_that_stays_away_is_an_error_until_it_is_back(clock, proc):
    """Each read tries again."""
    nvml = FakeNvml(gpu())
    source = source_of(nvml, clock, proc)
    source.read()
    nvml.unload()
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    for _ in range(2):
        with pytest.raises(GpuError, match="the NVIDIA driver is not loaded"):
            source.read()
    nvml.init_error = None
    assert len(source.read()) == 1


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("LIBRARY_NOT_FOUND", "install the driver"),
        ("DRIVER_NOT_LOADED", "modprobe nvidia"),
        ("NO_PERMISSION", "/dev/nvidiactl"),
        ("LIB_RM_VERSION_MISMATCH", "reboot or reload"),
        ("UNKNOWN", "nvidia-smi"),
    ],
)
def test_a_driver_that_cannot_be_used_is_one_line_with_a_remedy(code, remedy, clock, proc):
    """The message names the source."""
    nvml = FakeNvml(gpu(), init_error=getattr(pynvml, f"NVML_ERROR_{code}"))
    with pytest.raises(GpuError) as raised:
        source_of(nvml, clock, proc).read()
    message = str(raised.value)
    assert message.startswith("nvml: ")
    assert remedy in message
    assert "\n" not in message


def test_devices_that_this_user_may_not_open_are_one_error(clock, proc):
    """As in a container that was given the library and no device."""
    refused = {"nvmlDeviceGetHandleByIndex": pynvml.NVML_ERROR_NO_PERMISSION}
    with pytest.raises(GpuError, match="/dev/nvidia0"):
        source_of(FakeNvml(gpu(0, errors=refused), gpu(1, errors=refused)), clock, proc).read()
    [reading] = source_of(FakeNvml(gpu(0, errors=refused), gpu(1)), clock, proc).read()
    assert reading.index == 1


def test_a_host_without_gpus_has_no_readings(clock, tmp_path):
    """A driver is there, and the kernel lists nothing, or has no list."""
    assert not source_of(FakeNvml(), clock, tmp_path).read()
    assert not source_of(FakeNvml(), clock, tmp_path / "none").read()


def test_the_real_bindings_without_a_driver_say_so():
    """NVIDIA's own package on this machine; on one with a driver there is nothing to refuse."""
    source = NvmlSource()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(GpuError, match=r"^nvml: .*driver"):
            source.read()
    else:
        assert all(reading.source == "nvml" for reading in source.read())
    source.close()


def test_bindings_that_are_not_installed_say_what_to_install(monkeypatch):
    """A bare host."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(GpuError, match="pip install nvidia-ml-py"):
        NvmlSource()


def test_closing_twice_is_once(clock, proc):
    """And a source that never read has nothing to give back."""
    nvml = FakeNvml(gpu())
    source = source_of(nvml, clock, proc)
    source.close()
    source.read()
    source.close()
    source.close()
    assert nvml.calls["nvmlShutdown"] == 1


# ---- MIG ------------------------------------------------------------------------------------------
def mig_gpu(*slices):
    return gpu(mig=True, slices=list(slices), processes=((1, 2),))


def test_mig_instances_are_devices_of_their_own(clock, proc):
    """Memory and processes are theirs; power and energy their GPU's, whose utilisation nobody knows."""
    parts = (
        FakeSlice("MIG-1", "3g.40gb", used=30 << 30, memory_mib=40_448, processes=((4_711, 30 << 30),)),
        FakeSlice("MIG-2", "1g.10gb"),
    )
    nvml = FakeNvml(mig_gpu(*parts), gpu(1))
    whole, large, small, other = source_of(nvml, clock, proc).read()
    assert (whole.kind, whole.utilization, whole.power_watts, whole.energy_mj) == (GPU, None, 612.5, ROW["e_mj"])
    assert whole.processes == ()
    assert (large.kind, large.uuid, large.parent, large.profile) == (MIG, "MIG-1", "GPU-00000000", "3g.40gb")
    assert (large.name, large.index, large.host) == (whole.name, 0, "node-1")
    assert (large.memory_used_bytes, large.memory_total_bytes) == (30 << 30, 40_448 << 20)
    assert large.processes == ((4_711, 30 << 30),)
    assert {large.utilization, large.power_watts, large.energy_mj, large.temperature_celsius} == {None}
    assert (small.uuid, small.profile, other.uuid) == ("MIG-2", "1g.10gb", "GPU-00000001")


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [
        ("1g.10gb", (1, 1, 9_856)),
        ("1g.20gb", (1, 1, 19_968)),
        ("2g.20gb", (2, 2, 19_968)),
        ("3g.40gb", (3, 3, 40_448)),
        ("7g.80gb", (7, 7, 80_896)),
        ("1c.3g.40gb", (3, 1, 40_448)),
    ],
)
def test_a_profile_that_is_not_in_the_name_is_known_by_its_sizes(profile, sizes, clock, proc):
    """An H100's, of the MIG User Guide; gigabytes are whole eighths of the GPU's."""
    slices, computes, mebibytes = sizes
    part = FakeSlice("MIG-1", named=False, slices=slices, computes=computes, memory_mib=mebibytes)
    _, reading = source_of(FakeNvml(mig_gpu(part)), clock, proc).read()
    assert reading.profile == profile


def test_an_instance_that_is_gone_ends_and_is_looked_for_at_the_next_read(clock, proc):
    """Its GPU and the others are read on."""
    one = mig_gpu(FakeSlice("MIG-1"), FakeSlice("MIG-2"))
    source = source_of(FakeNvml(one), clock, proc)
    source.read()
    one.slices[0].errors["*"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert [reading.uuid for reading in source.read()] == [one.uuid, "MIG-2"]
    one.slices[0] = FakeSlice("MIG-3")
    assert [reading.uuid for reading in source.read()] == [one.uuid, "MIG-3", "MIG-2"]


def test_a_gpu_that_cannot_tell_how_many_instances_it_has_is_read_on(clock, proc):
    """It is there, with none."""
    one = mig_gpu(FakeSlice("MIG-1"))
    one.errors["nvmlDeviceGetMaxMigDeviceCount"] = pynvml.NVML_ERROR_UNKNOWN
    assert [reading.uuid for reading in source_of(FakeNvml(one), clock, proc).read()] == [one.uuid]


def test_instances_are_made_and_removed_while_they_are_read(clock, proc):
    """MIG mode is switched on and off without a new driver, too."""
    one = gpu()
    source = source_of(FakeNvml(one), clock, proc)
    assert [reading.kind for reading in source.read()] == [GPU]
    one.mig, one.slices = True, [FakeSlice("MIG-1")]
    clock.pass_seconds(10)
    assert [(reading.uuid, reading.utilization) for reading in source.read()] == [(one.uuid, None), ("MIG-1", None)]
    one.slices.append(FakeSlice("MIG-2"))
    clock.pass_seconds(10)
    assert [reading.uuid for reading in source.read()] == [one.uuid, "MIG-1", "MIG-2"]
    one.mig, one.slices = False, []
    clock.pass_seconds(10)
    assert [(reading.uuid, reading.utilization) for reading in source.read()] == [(one.uuid, 0.87)]
