"""Reads GPUs through Farthing's own source, once per period as an agent does, and measures what that costs.

    python benchmarks/gpu/sampling.py --out FILE.jsonl.gz [--period 1.0] [--source MODULE:NAME]

Runs until it is told to end (SIGTERM, SIGINT), in any environment with nvidia-ml-py; Farthing's rooms ``core`` and
``collectors`` must be on PYTHONPATH. FILE gets one line ``{"reading": …}`` per device and period, and a last line
``{"cost": …}`` of the whole process: reading, listening for XID errors in a thread, and writing these lines.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.lines import writing

__all__ = ["SOURCE", "Cost", "as_row", "load_source", "sample_until"]

SOURCE = "farthing.collectors.gpu.nvml:NvmlSource"

Row = dict[str, Any]


@dataclass(slots=True)
class Cost:
    """What sampling took; seconds, by the clocks of the operating system."""

    period: float
    wall: float = 0.0
    process_cpu: float = 0.0
    """User and system time of every thread, start-up left out."""
    startup_cpu: float = 0.0
    read_cpu: float = 0.0
    """Of the reading thread, within ``read`` alone."""
    rounds: int = 0
    missed: int = 0
    """Periods that passed because the round before took too long."""
    longest_read: float = 0.0
    errors: list[str] = field(default_factory=list)
    """One line for every round that could not read."""

    @property
    def share(self) -> float | None:
        """Part of one core; None before any time has passed."""
        return self.process_cpu / self.wall if self.wall > 0 else None

    def as_row(self) -> Row:
        """For the last line of the file; bytes of the largest resident set included."""
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {**asdict(self), "share_of_a_core": self.share, "max_rss_bytes": largest}


def as_row(reading: Any) -> Row:
    """A GpuReading as JSON takes it, without what is unknown or empty."""
    known = {key: value for key, value in asdict(reading).items() if value is not None and value not in ("", ())}
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in known.items()}


def load_source(name: str) -> Any:
    """An instance of the GpuSource that MODULE:NAME calls, without arguments."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def sample_until(
    ended: threading.Event, source: Any, period: float, write: Callable[[Sequence[Row]], None], startup: float = 0.0
) -> Cost:
    """Read at every multiple of ``period`` seconds after now, until told to end; a failed read is counted."""
    cost = Cost(period, startup_cpu=startup)
    cpu, began = time.process_time(), time.monotonic()
    due = began
    while not ended.wait(max(0.0, due - time.monotonic())):
        started, spent = time.monotonic(), time.thread_time()
        try:
            readings = source.read()
        except Exception as error:
            # whatever a driver does: the run goes on, and its report says so
            readings = ()
            cost.errors.append(f"{type(error).__name__}: {error}"[:200])
        cost.read_cpu += time.thread_time() - spent
        cost.longest_read = max(cost.longest_read, time.monotonic() - started)
        cost.rounds += 1
        write([{"reading": as_row(reading)} for reading in readings])
        due += period
        late = int((time.monotonic() - due) / period) if time.monotonic() > due else 0
        cost.missed += late
        due += late * period
    cost.wall = time.monotonic() - began
    cost.process_cpu = time.process_time() - cpu
    return cost


def main() -> None:
    """Sample until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the readings, .jsonl.gz")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between readings (1)")
    parser.add_argument("--source", default=SOURCE, metavar="MODULE:NAME", help=f"what reads ({SOURCE})")
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    source = load_source(options.source)
    try:
        with writing(options.out) as lines:

            def write(rows: Sequence[Row]) -> None:
                lines.add(*(json.dumps(row).encode() for row in rows))

            cost = sample_until(ended, source, options.period, write, time.process_time())
            write([{"cost": cost.as_row()}])
    finally:
        source.close()
    print(json.dumps(cost.as_row()), flush=True)


if __name__ == "__main__":
    main()
