"""XID errors are counted by device, by a thread that waits for them and ends when it is told to."""

import threading
from pathlib import Path

import pynvml
import pytest
from tests.collectors.gpu.fake_nvml import FakeGpu, FakeNvml

from farthing.collectors.gpu.nvml import NvmlOptions, NvmlSource
from farthing.collectors.gpu.nvml_events import XidWatch

ROW = {"e_mj": 1, "p_mw": 1, "gpu": 0, "memu": 0, "mem": 0, "sm": 345, "thr": 1, "temp": 30}
FALLEN_OFF_THE_BUS, DOUBLE_BIT_ECC = 79, 48
NOWHERE = Path("/nonexistent")


def gpu(number=0, **changes):
    return FakeGpu(dict(ROW), uuid=f"GPU-{number}", **changes)


class Counted(FakeNvml):
    """Tells when its waiter has come back for more, so that a test needs no clock."""

    def __init__(self, *gpus, **named):
        super().__init__(*gpus, **named)
        self.waits = threading.Semaphore(0)

    def nvmlEventSetWait_v2(self, eventSet, timeoutms):  # noqa: N802, N803
        self.waits.release()
        return super().nvmlEventSetWait_v2(eventSet, timeoutms)

    def has_waited(self, times):
        """Until the waiter has begun to wait so often more."""
        for _ in range(times):
            assert self.waits.acquire(timeout=20)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "farthing-xid"]


@pytest.fixture
def watching():
    """Makes a watch over some GPUs; all are closed in the end, and leave no thread."""
    made = []

    def make(*gpus, **named):
        nvml = Counted(*gpus, **named)
        nvml.nvmlInit()
        watch = XidWatch(nvml, wait_ms=20)
        made.append(watch)
        for index, one in enumerate(gpus):
            watch.listen(nvml.nvmlDeviceGetHandleByIndex(index), one.uuid)
        return nvml, watch

    yield make
    for watch in made:
        watch.close()
    assert not threads()


def test_errors_are_counted_by_device_with_the_last_ones_number(watching):
    """Before the first there were none, which is not unknown."""
    first, second = gpu(0), gpu(1)
    nvml, watch = watching(first, second)
    assert (watch.seen("GPU-0"), watch.seen("GPU-1"), watch.seen("GPU-2")) == ((0, None), (0, None), None)
    nvml.xid(first, DOUBLE_BIT_ECC)
    nvml.xid(first, FALLEN_OFF_THE_BUS)
    nvml.xid(second, 31)
    nvml.has_waited(4)
    assert (watch.seen("GPU-0"), watch.seen("GPU-1")) == ((2, FALLEN_OFF_THE_BUS), (1, 31))
    assert next(iter(nvml.sets.values())) == [("GPU-0", 8), ("GPU-1", 8)]


@pytest.mark.parametrize("refusal", ["NOT_SUPPORTED", "NO_PERMISSION"])
def test_a_device_that_refuses_is_left_out_without_noise(refusal, watching, caplog):
    """The others are listened to."""
    refusing = gpu(0, errors={"nvmlDeviceRegisterEvents": getattr(pynvml, f"NVML_ERROR_{refusal}")})
    heard = gpu(1)
    nvml, watch = watching(refusing, heard)
    nvml.xid(heard, 31)
    nvml.xid(refusing, 31)
    nvml.has_waited(3)
    assert (watch.seen("GPU-0"), watch.seen("GPU-1")) == (None, (1, 31))
    assert [record.getMessage() for record in caplog.records] == ["GPU-1: XID error 31"]


def test_where_there_are_no_events_there_is_no_thread(watching, caplog):
    """As on hosts whose driver has no event sets; it is tried once."""
    nvml, watch = watching(gpu(0), gpu(1), missing={"nvmlEventSetCreate"})
    assert watch.seen("GPU-0") is None
    assert not threads()
    assert not caplog.records
    assert nvml.calls["nvmlEventSetCreate"] == 1


def test_an_event_of_another_kind_is_no_error(watching):
    """Registered for XID alone, but a driver may know better."""
    one = gpu()
    nvml, watch = watching(one)
    nvml.xid(one, 5, kind=pynvml.nvmlEventTypePState)
    nvml.has_waited(2)
    assert watch.seen("GPU-0") == (0, None)


def test_a_wait_that_fails_is_tried_again_without_haste(watching):
    """A GPU that fell off its bus makes every wait fail at once."""
    one = gpu()
    nvml, watch = watching(one)
    nvml.events.put(pynvml.NVML_ERROR_GPU_IS_LOST)
    nvml.events.put(pynvml.NVML_ERROR_UNKNOWN)
    nvml.xid(one, FALLEN_OFF_THE_BUS)
    nvml.has_waited(4)
    assert watch.seen("GPU-0") == (1, FALLEN_OFF_THE_BUS)


@pytest.mark.parametrize("code", ["UNINITIALIZED", "FUNCTION_NOT_FOUND"])
def test_a_wait_that_can_never_succeed_ends_the_thread(code, watching):
    """The driver is gone, or too old to wait for."""
    nvml, _ = watching(gpu())
    [thread] = threads()
    nvml.events.put(getattr(pynvml, f"NVML_ERROR_{code}"))
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_counts_outlast_the_end_of_listening(watching):
    """A driver that is loaded anew is no reason for a counter to fall."""
    one = gpu()
    nvml, watch = watching(one)
    nvml.xid(one, 31)
    nvml.has_waited(2)
    watch.close()
    watch.close()
    assert not nvml.sets
    assert not threads()
    watch.listen(nvml.nvmlDeviceGetHandleByIndex(0), one.uuid)
    nvml.xid(one, 13)
    nvml.has_waited(2)
    assert watch.seen("GPU-0") == (2, 13)


def test_readings_have_the_errors_of_their_device(watching):
    """Of the source as a whole, over a reload of the driver; a source that closes leaves no thread."""
    first, second = gpu(0), gpu(1, errors={"nvmlDeviceRegisterEvents": pynvml.NVML_ERROR_NOT_SUPPORTED})
    nvml = Counted(first, second)
    source = NvmlSource(nvml, "node-1", lambda: 0, options=NvmlOptions(), proc=NOWHERE)
    assert [(reading.xid, reading.xid_count) for reading in source.read()] == [(None, 0), (None, None)]
    nvml.xid(first, FALLEN_OFF_THE_BUS)
    nvml.has_waited(2)
    assert [(reading.xid, reading.xid_count) for reading in source.read()] == [(79, 1), (None, None)]
    nvml.unload()
    assert [(reading.xid, reading.xid_count) for reading in source.read()] == [(79, 1), (None, None)]
    source.close()
    assert not threads()
    assert not nvml.sets
