"""The measured sampling of benchmarks/gpu, against a source without a device."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu.h100 import PERIODS, samplers
from benchmarks.gpu.report_data import sampled
from benchmarks.gpu.sampling import Cost, as_row, exposition, load_source, sample

from farthing.collectors.engines.exposition import parse_exposition
from farthing.collectors.wire import decode_device
from farthing.domain import conventions as names
from farthing.domain.gpu import COUNTER, THROTTLE_POWER, GpuReading


class Ticking:
    """A source that ends its run after so many reads; each read finds 5 J more on the counter."""

    name = "ticking"

    def __init__(self, ended=None, reads=3, broken=()):
        self.ended, self.reads, self.broken, self.done = ended or threading.Event(), reads, broken, 0

    def read(self):
        """One device, or an error on the rounds that are broken."""
        self.done += 1
        if self.done == self.reads:
            self.ended.set()
        if self.done in self.broken:
            raise OSError("driver is gone")
        return [reading(5_000 * self.done)]

    def close(self):
        """Nothing is held."""


def reading(energy_mj: int) -> GpuReading:
    """A device now."""
    throttle = frozenset({THROTTLE_POWER})
    return GpuReading(uuid="GPU-1", at_ns=time.time_ns(), source="nvml", energy_mj=energy_mj, throttle=throttle)


def test_a_reading_is_written_without_what_is_unknown():
    """None is left out, 0 is not."""
    row = as_row(reading(0))
    assert row.items() >= {"uuid": "GPU-1", "source": "nvml", "energy_mj": 0}.items()
    assert row["throttle"] == ["power"]
    assert None not in row.values()
    assert "power_watts" not in row


def test_rounds_are_counted_and_a_failed_one_is_told():
    """The run goes on, its report says what went wrong, and the energy comes out as records."""
    ended = threading.Event()
    lines: list[dict[str, Any]] = []
    cost = Cost(0.01)
    sample(ended, Ticking(ended, reads=4, broken=(2,)), cost, lambda line: lines.append(json.loads(line)))
    readings = [line["reading"] for line in lines if "reading" in line]
    records = [decode_device(json.dumps(line["device"]).encode()) for line in lines if "device" in line]
    assert cost.rounds >= 4
    assert len(readings) == cost.rounds - 1
    assert cost.errors == ["OSError: driver is gone"]
    assert {record.method for record in records} == {COUNTER}
    assert records[-1].energy_mj[-1] - records[0].energy_mj[0] == 5_000 * (cost.rounds - 1)
    assert cost.share is not None
    assert cost.longest_read <= cost.read_seconds


def test_series_are_exposed_beside_the_readings():
    """As a Prometheus would scrape them, and their cost is told apart."""
    ended = threading.Event()
    lines: list[dict[str, Any]] = []
    cost = Cost(0.01)

    def write(line: bytes) -> None:
        lines.append(json.loads(line))
        if "scrape" in lines[-1]:
            ended.set()

    sample(ended, Ticking(reads=10_000), cost, write, expose=exposition, every=0.3)
    (scrape,) = (line["scrape"] for line in lines if "scrape" in line)
    samples = parse_exposition(scrape["body"].encode(), "text/plain; version=0.0.4", "sampling")
    (energy,) = samples.find(names.METRIC_GPU_ENERGY)
    assert energy.labels[names.LABEL_UUID] == "GPU-1"
    assert energy.value > 0
    assert cost.expositions == 1
    assert 0 <= cost.expose_cpu <= cost.process_cpu


def test_an_exposition_that_fails_ends_no_sampling():
    """It is told, once, and readings go on."""
    ended = threading.Event()
    cost = Cost(0.01)
    source = Ticking(ended, reads=60)
    sample(ended, source, cost, lambda _: None, expose=lambda _: str(1 / 0), every=0.1)
    assert cost.errors == ["exposition: ZeroDivisionError: division by zero"]
    assert cost.rounds >= 60


def test_before_any_time_has_passed_no_share_is_known():
    """Rather than 0."""
    assert Cost(1.0).as_row()["share_of_a_core"] is None


def test_a_source_is_named_by_its_module():
    """As the run's options name it."""
    assert load_source("tests.bench.test_gpu_sampling:Ticking").name == "ticking"


def test_processes_of_their_own_sample_until_the_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each writes its readings, the records that come of them and, last, its cost."""
    files = {period: tmp_path / f"readings-{period:g}s.jsonl.gz" for period in PERIODS}
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{':'.join(sys.path)}")
    with samplers(tmp_path, "tests.bench.test_gpu_sampling:Ticking", PERIODS):
        for _ in range(1200):
            if all(file.exists() for file in files.values()):
                break
            threading.Event().wait(0.05)
        threading.Event().wait(1.5)
    for period, file in files.items():
        written = sampled(file)
        assert written.cost["period"] == period
        assert written.cost["rounds"] == len(written.readings) >= 2
        assert sum(len(record["at_ns"]) for record in written.records) >= 2


def test_a_file_without_its_cost_is_refused(tmp_path: Path):
    """The process that wrote it was killed, and what it measured is not all there."""
    (tmp_path / "x.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="no line with the cost"):
        sampled(tmp_path / "x.gz")
