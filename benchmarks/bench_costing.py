"""How fast costing is: one busy engine's hour-like load, a fleet's minute, and the memory of a long day.

Prints seconds of processor time, which other programs on the machine hardly change, and beside them the time of a fixed
piece of numpy work in the same run, so that figures of different machines can be compared as ratios. What it must hold
is that 12,000 windows, a minute of 1,000 engines, take at most 2 s on one core. Run, with OPENBLAS_NUM_THREADS=1:
python -m benchmarks.bench_costing
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from farthing.costing.stream import CostStream
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.records import (
    EngineSequence,
    Lifecycle,
    Record,
    RecordKey,
    Started,
    StepBatch,
    StepMarks,
    Usage,
)
from farthing.service.server import calm_collector

BATCH = 5 * SECOND


def started(boot: str) -> Started:
    """A boot at time zero."""
    return Started(RecordKey(boot, 0, 0), 0, Anchor(1_795_000_000 * SECOND, 0), "e", "vllm", "", "m", "X", 1)


def load(boot: str, seconds: int, *, steps_per_batch: int, requests_per_batch: int, concurrency: int) -> list[Record]:
    """A steady load: equal steps, requests that begin and end within a batch; as many records as a real one."""
    records: list[Record] = [started(boot), Lifecycle(RecordKey(boot, 0, 1), 0, "ready")]
    gap = BATCH // steps_per_batch
    for batch in range(seconds * SECOND // BATCH):
        begin = batch * BATCH
        at = tuple(begin + gap * (i + 1) for i in range(steps_per_batch))
        every = max(1, steps_per_batch // max(1, requests_per_batch))
        prefills = tuple(int(i % every == 0) for i in range(steps_per_batch))
        nothing = (0,) * steps_per_batch
        for number in range(requests_per_batch):
            first = at[min(number * every, steps_per_batch - 2)]
            last = min(first + gap * 40, at[-2])
            tokens = 1 + (last - first) // gap
            sequence = EngineSequence(first - gap // 2, first, last, 500, 0, tokens)
            key = RecordKey(boot, 0, len(records))
            records.append(
                Usage(
                    key,
                    str(number),
                    0,
                    "m",
                    "finished",
                    200,
                    first - gap,
                    last,
                    first,
                    last,
                    tenant=f"t{number % 4}",
                    sequences=(sequence,),
                )
            )
        marks = StepMarks(
            at_ns=at,
            running=(concurrency,) * steps_per_batch,
            waiting=nothing,
            prefill_requests=prefills,
            prefill_tokens=tuple(500 * p for p in prefills),
            decode_requests=(concurrency,) * steps_per_batch,
            decode_tokens=(concurrency,) * steps_per_batch,
            encoder_inputs=nothing,
            encoder_tokens=nothing,
            generated=(concurrency,) * steps_per_batch,
            prompt_computed=tuple(500 * p for p in prefills),
            prompt_cached=nothing,
            preempted=nothing,
        )
        until = begin + BATCH
        records.append(StepBatch(RecordKey(boot, 0, len(records)), 0, until, until, marks))
    return records


def cost(records: list[Record]) -> int:
    """How many windows the records settle."""
    first = records[0]
    assert isinstance(first, Started)
    stream = CostStream(first, lambda start, end: end - start)
    return sum(len(stream.feed(record)) for record in records[1:]) + len(stream.finish())


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of processor time that work takes, the best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def fleet(requests_per_batch: int) -> tuple[float, float, int]:
    """A minute of 1,000 engines, each of which has run for six before: seconds of processor time and on the clock, and
    how many windows it has.
    """
    records = load("b", 420, steps_per_batch=50, requests_per_batch=requests_per_batch, concurrency=requests_per_batch)
    last = next(i for i, r in enumerate(records) if isinstance(r, StepBatch) and r.until_ns == 360 * SECOND)
    first = records[0]
    assert isinstance(first, Started)
    # the records are shared, the streams are not
    streams = [CostStream(first, lambda start, end: end - start) for _ in range(1_000)]
    for stream in streams:
        for record in records[1 : last + 1]:
            stream.feed(record)
    began, clock = time.process_time(), time.perf_counter()
    windows = sum(len(stream.feed(record)) for stream in streams for record in records[last + 1 :])
    return time.process_time() - began, time.perf_counter() - clock, windows


def yardstick() -> None:
    """A fixed piece of numpy and Python work."""
    matrix = np.arange(250_000, dtype=float).reshape(500, 500)
    for _ in range(10):
        matrix = np.tanh(matrix @ matrix.T / 1e6)
    sum(i * i for i in range(500_000))


def main() -> None:
    """Print the table."""
    calm_collector()
    unit = seconds_of(yardstick)
    print(f"yardstick {unit:.3f} s")
    busy = load("b", 250, steps_per_batch=500, requests_per_batch=50, concurrency=32)
    took = seconds_of(lambda: cost(busy))
    print(f"25,000 steps and 2,500 requests: {took:.2f} s ({took / unit:.1f} yardsticks)")
    for requests in (1, 5):
        took, clock, windows = fleet(requests)
        each = f"{requests} request{'s' if requests > 1 else ''} a window each"
        figures = f"{took:.2f} s ({took / unit:.1f} yardsticks), {clock:.2f} s on the clock"
        print(f"a minute of 1,000 engines, {each} ({windows} windows): {figures}")
    tracemalloc.start()
    stream = CostStream(started("day"), lambda start, end: end - start)
    hour = load("day", 3_600, steps_per_batch=20, requests_per_batch=4, concurrency=4)
    print(f"records of an hour: {len(hour)}")
    peaks = []
    for n in range(24):
        tracemalloc.reset_peak()
        for record in hour[2:]:
            stream.feed(_shifted(record, n * 3_600 * SECOND))
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
    print(f"peak memory in MiB by hour of a day: first {peaks[0]:.1f}, second {peaks[1]:.1f}, last {peaks[-1]:.1f}")


def _shifted(record: Record, by: int) -> Record:
    key = record.key
    if isinstance(record, StepBatch):
        at = tuple(moment + by for moment in record.marks.at_ns)
        marks = StepMarks(
            at, *(getattr(record.marks, name) for name in StepMarks.__dataclass_fields__ if name != "at_ns")
        )
        return StepBatch(key, 0, record.until_ns + by, record.open_ns + by, marks)
    if isinstance(record, Usage):
        (sequence,) = record.sequences
        first, last = (sequence.first_ns or 0) + by, sequence.last_ns + by
        moved = replace(sequence, scheduled_ns=sequence.scheduled_ns + by, first_ns=first, last_ns=last)
        arrived, ended = record.arrived_ns + by, record.ended_ns + by
        return replace(record, arrived_ns=arrived, ended_ns=ended, first_ns=first, last_ns=last, sequences=(moved,))
    return record


if __name__ == "__main__":
    main()
