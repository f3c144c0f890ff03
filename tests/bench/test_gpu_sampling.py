"""The measured sampling of benchmarks/gpu, against a source without a device."""

import sys
import threading
from pathlib import Path

import pytest
from benchmarks.gpu.h100 import PERIODS, samplers
from benchmarks.gpu.report_data import Row, readings_of
from benchmarks.gpu.sampling import Cost, as_row, load_source, sample_until

from farthing.domain.gpu import THROTTLE_POWER, GpuReading

READING = GpuReading(uuid="GPU-1", at_ns=3, source="nvml", energy_mj=0, throttle=frozenset({THROTTLE_POWER}))


class Ticking:
    """A source that ends its run after so many reads."""

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
        return [READING]

    def close(self):
        """Nothing is held."""


def test_a_reading_is_written_without_what_is_unknown():
    """None is left out, 0 is not."""
    known = {"uuid": "GPU-1", "at_ns": 3, "source": "nvml", "energy_mj": 0, "throttle": ["power"]}
    row = as_row(READING)
    assert known.items() <= row.items()
    assert None not in row.values()
    assert "power_watts" not in row


def test_rounds_are_counted_and_a_failed_one_is_told():
    """The run goes on, and its report says what went wrong."""
    ended = threading.Event()
    rows: list[Row] = []
    cost = sample_until(ended, Ticking(ended, reads=3, broken=(2,)), 0.001, rows.extend)
    assert (cost.rounds, len(rows), cost.errors) == (3, 2, ["OSError: driver is gone"])
    assert cost.share is not None
    assert cost.process_cpu >= cost.read_cpu >= 0


def test_before_any_time_has_passed_no_share_is_known():
    """Rather than 0."""
    assert Cost(1.0).as_row()["share_of_a_core"] is None


def test_a_source_is_named_by_its_module():
    """As the run's options name it."""
    assert load_source("tests.bench.test_gpu_sampling:Ticking").name == "ticking"


def test_processes_of_their_own_sample_until_the_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each writes its readings and, last, its cost."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{':'.join(sys.path)}")
    with samplers(tmp_path, "tests.bench.test_gpu_sampling:Ticking", PERIODS):
        for _ in range(600):
            if all((tmp_path / f"readings-{period:g}s.jsonl.gz").exists() for period in PERIODS):
                break
            threading.Event().wait(0.05)
        threading.Event().wait(0.3)
    for period in PERIODS:
        rows, cost = readings_of(tmp_path / f"readings-{period:g}s.jsonl.gz")
        assert cost["period"] == period
        assert cost["rounds"] == len(rows) >= 1
        assert rows[0] == as_row(READING)
