"""What reading eight GPUs once a second takes of a processor, without what the driver takes.

The fake NVML of the tests answers from real captures at the cost of a few Python calls, so its own time is measured
too, by making the same calls without Farthing, and given beside. What a driver takes is in the captures
(tests/fixtures/nvml) and in docs/h100.md. Exit status 1 when our part is a quarter of a percent of a core or more.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.collectors.gpu.fake_nvml import FakeGpu, FakeNvml, capture, samples

from farthing.collectors.gpu.cpu import CpuSource
from farthing.collectors.gpu.nvml import NvmlOptions, NvmlSource
from farthing.domain.clock import SECOND

RECORDING = "h100-llama8b-vllm0.26"
GPUS = 8
READS = 600
LIMIT = 0.0025


def gpus(rows: list[dict[str, Any]]) -> list[FakeGpu]:
    """Eight H200 with NVLink, some processes on each."""
    captured = capture("h200x2-driver580")
    processes = tuple((4_000 + number, 70 << 30) for number in range(4))
    return [FakeGpu(rows[0], captured, uuid=f"GPU-{number}", processes=processes) for number in range(GPUS)]


def per_read(source: Any, host: list[FakeGpu], rows: list[dict[str, Any]], clock: list[int]) -> float:
    """Processor seconds of a read, over ten minutes of readings; the first, which opens devices, is left out."""
    source.read()
    began = time.process_time_ns()
    for number in range(READS):
        clock[0] += SECOND
        for one in host:
            one.row = rows[number]
        assert len(source.read()) == GPUS
    return (time.process_time_ns() - began) / 1e9 / READS


def of_fake(nvml: FakeNvml, host: list[FakeGpu], rows: list[dict[str, Any]]) -> float:
    """Processor seconds that the fake takes of a read: the calls of every second, made bare."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(GPUS)]
    began = time.process_time_ns()
    for number in range(READS):
        for one, handle in zip(host, handles, strict=True):
            one.row = rows[number]
            nvml.nvmlDeviceGetUtilizationRates(handle)
            nvml.nvmlDeviceGetClockInfo(handle, 1)
            nvml.nvmlDeviceGetClockInfo(handle, 2)
            nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
            nvml.nvmlDeviceGetTemperature(handle, 0)
            nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            nvml.nvmlDeviceGetPowerUsage(handle)
    return (time.process_time_ns() - began) / 1e9 / READS


def main() -> int:
    """Print a table of microseconds and shares of a core."""
    _, rows = samples(RECORDING)
    host, clock = gpus(rows), [0]
    nvml = FakeNvml(*host)
    with tempfile.TemporaryDirectory() as folder:
        options = NvmlOptions(xid_events=False)
        source = NvmlSource(nvml, "node", lambda: clock[0], options=options, proc=Path(folder))
        whole = per_read(source, host, rows, clock)
        fake = of_fake(nvml, host, rows)
        source.close()
    ours = whole - fake
    processors = CpuSource()
    processors.read()
    began = time.process_time_ns()
    for _ in range(READS):
        processors.read()
    cpu = (time.process_time_ns() - began) / 1e9 / READS
    print(f"{'once a second':42s} {'us a read':>10s} {'of a core':>10s}")
    for name, seconds in (
        (f"{GPUS} GPUs, the fake's answers included", whole),
        ("  of these the fake's", fake),
        ("  of these ours", ours),
        ("processors (psutil, RAPL where there is any)", cpu),
    ):
        print(f"{name:44s} {seconds * 1e6:8.0f} {seconds:10.4%}")
    return 0 if ours < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
