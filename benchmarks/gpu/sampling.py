"""Reads GPUs as Farthing does, with its own source and sampler, and measures what that costs.

    python benchmarks/gpu/sampling.py --out FILE.jsonl.gz --source MODULE:NAME [--period 1.0] [--expose 15]

Runs until it is told to end (SIGTERM, SIGINT), in any environment with nvidia-ml-py, msgspec and prometheus_client;
Farthing's rooms ``core``, ``collectors``, ``collectors/probe`` and ``exporters`` must be on PYTHONPATH. FILE gets a
line ``{"reading": …}`` for each device and period, ``{"device": …}`` for each record that an inbox would get,
``{"scrape": …}`` for each exposition of ``farthing_gpu_`` series, and last ``{"cost": …}`` of the whole process:
reading, listening for XID errors in a thread, adding up energy, and writing these lines.
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

from farthing.collectors.gpu.sampler import Sampler
from farthing.collectors.gpu.source import GpuSource
from farthing.collectors.wire import device_line
from farthing.domain.devices import DevicesView
from farthing.domain.gpu import DeviceSamples, GpuReading

__all__ = ["Cost", "Metered", "as_row", "exposition", "load_source", "sample"]

Row = dict[str, Any]
Write = Callable[[bytes], None]
"""Takes a line, from any thread."""
Expose = Callable[[Callable[[], DevicesView]], str]


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
    expose_cpu: float = 0.0
    """Of expositions."""
    expositions: int = 0
    read_seconds: float = 0.0
    longest_read: float = 0.0
    rounds: int = 0
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


class Metered:
    """A source whose reads are written down and timed."""

    def __init__(self, source: GpuSource, write: Write, cost: Cost) -> None:
        self._source, self._write, self._cost = source, write, cost

    @property
    def name(self) -> str:
        """The source's own."""
        return self._source.name

    def read(self) -> Sequence[GpuReading]:
        """What the source reads; whatever it raises is written down and raised."""
        cost, began, spent = self._cost, time.monotonic(), time.thread_time()
        cost.rounds += 1
        try:
            readings = self._source.read()
        except Exception as error:
            cost.errors.append(f"{type(error).__name__}: {error}"[:200])
            raise
        finally:
            took = time.monotonic() - began
            cost.read_cpu += time.thread_time() - spent
            cost.read_seconds += took
            cost.longest_read = max(cost.longest_read, took)
        for reading in readings:
            self._write(_line("reading", as_row(reading)))
        return readings

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


def as_row(reading: GpuReading) -> Row:
    """A reading as JSON takes it, without what is unknown or empty."""
    known = {key: value for key, value in asdict(reading).items() if value is not None and value not in ("", ())}
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in known.items()}


def load_source(name: str) -> GpuSource:
    """An instance of the source that MODULE:NAME calls, without arguments."""
    module, _, attribute = name.partition(":")
    source: GpuSource = getattr(importlib.import_module(module), attribute)()
    return source


def sample(
    ended: threading.Event,
    source: GpuSource,
    cost: Cost,
    write: Write,
    *,
    expose: Expose | None = None,
    every: float = 15.0,
) -> None:
    """Read every ``cost.period`` seconds until told to end; ``expose`` is called ``every`` so many seconds."""

    def keep(records: Sequence[DeviceSamples]) -> None:
        for record in records:
            write(b'{"device":' + device_line(record) + b"}")

    sampler = Sampler([Metered(source, write, cost)], keep, sample_seconds=cost.period)
    cpu, began = time.process_time(), time.monotonic()
    sampler.start()
    while not ended.wait(every):
        if expose is None:
            continue
        spent, at = time.thread_time(), time.time()
        try:
            body = expose(sampler.view)
        except Exception as error:
            # what was measured so far is worth more than the rest of the series
            cost.errors.append(f"exposition: {type(error).__name__}: {error}"[:200])
            expose = None
            continue
        cost.expose_cpu += time.thread_time() - spent
        cost.expositions += 1
        write(_line("scrape", {"t": at, "body": body}))
    sampler.stop()
    cost.wall, cost.process_cpu = time.monotonic() - began, time.process_time() - cpu


def exposition(view: Callable[[], DevicesView]) -> str:
    """What Prometheus would scrape now."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  # only where it is asked for

    from farthing.exporters.prometheus_gpu import DeviceCollector  # noqa: PLC0415

    registry = CollectorRegistry()
    registry.register(DeviceCollector(view))
    return generate_latest(registry).decode()


def _line(kind: str, row: Row) -> bytes:
    return json.dumps({kind: row}).encode()


def main() -> None:
    """Sample until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the readings, .jsonl.gz")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between readings (1)")
    parser.add_argument("--source", required=True, metavar="MODULE:NAME", help="what reads: a GpuSource")
    parser.add_argument("--expose", type=float, metavar="SECONDS", help="how often series are exposed (never)")
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    source = load_source(options.source)
    with writing(options.out) as lines:
        cost = Cost(options.period, startup_cpu=time.process_time())
        every = options.expose or 15.0
        sample(ended, source, cost, lines.add, expose=exposition if options.expose else None, every=every)
        lines.add(_line("cost", cost.as_row()))
    print(json.dumps(cost.as_row()), flush=True)


if __name__ == "__main__":
    main()
