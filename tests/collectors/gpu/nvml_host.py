"""A host of fake GPUs, and its clock, for tests of the source that reads them."""

from tests.collectors.gpu.fake_nvml import FakeGpu

from farthing.collectors.gpu.nvml import NvmlOptions, NvmlSource
from farthing.domain.clock import SECOND

ROW = {
    "t": 0,
    "e_mj": 27526259,
    "p_mw": 612_500,
    "gpu": 87,
    "memu": 45,
    "mem": 78910390272,
    "sm": 1755,
    "thr": 4,
    "temp": 66,
}
EVERYTHING = NvmlOptions(energy_ns=0, xid_events=False)


class Clock:
    """UTC nanoseconds that stand still until they are moved."""

    def __init__(self):
        self.now_ns = 1_795_445_124 * SECOND

    def __call__(self):
        return self.now_ns

    def pass_seconds(self, seconds):
        self.now_ns += int(seconds * SECOND)


def gpu(number=0, **changes):
    """A GPU of its own UUID."""
    return FakeGpu(dict(ROW), uuid=f"GPU-{number:08d}", **changes)


def source_of(nvml, clock, proc, options=EVERYTHING):
    return NvmlSource(nvml, "node-1", clock, options=options, proc=proc)


def reading_of(nvml, clock, proc, options=EVERYTHING):
    """The one reading of a new source."""
    [reading] = source_of(nvml, clock, proc, options).read()
    return reading
