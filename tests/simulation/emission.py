"""One boot's life as the records that the probe would have sent: numbered per process, usage before its window.

Every process tells of its start; process 0 tells of the instance's life. Each process sends its marks, of every
rank, in batches on its own timer; a batch that ends at ``until_ns`` comes after all usage that ended by then.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from tests.simulation.config import SimConfig
from tests.simulation.frontend import Mark
from tests.simulation.requests import Request
from tests.simulation.run import Boot

from farthing.domain.clock import MILLISECOND, SECOND, Anchor
from farthing.domain.records import (
    Lifecycle,
    Record,
    RecordKey,
    Started,
    StepBatch,
    StepMarks,
    Usage,
    event_ns,
)

__all__ = ["Emitted", "boot_id", "emit"]

WALL_NS = 1_795_000_000 * SECOND
"""UTC of the host's monotonic zero."""
_COLUMNS = tuple(column.name for column in fields(StepMarks))
_NO_KEY = RecordKey("", 0, 0)
_FIRST, _LIFE, _USAGE, _STEPS, _LAST = range(5)

_Item = tuple[int, int, int, Record, Request | None]
"""Event time, rank among equal times, tie-breaker, record without its key, and whose it is."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """A boot's records in canonical order, and the key of every request's record, sent or not."""

    records: list[Record]
    keys: dict[str, RecordKey]
    unsent: set[RecordKey]


def boot_id(config: SimConfig, boot: Boot) -> str:
    """The identity that the processes of a boot share."""
    return f"{config.engine}-{config.seed}-{boot.number}"


def emit(config: SimConfig, boot: Boot) -> Emitted:
    """Records in canonical order: by sequence within a process, by event time and process between them."""
    identity = boot_id(config, boot)
    keys: dict[str, RecordKey] = {}
    unsent: set[RecordKey] = set()
    streams: list[list[Record]] = []
    for process in range(config.servers):
        stream: list[Record] = []
        items = sorted(_items(config, boot, process), key=lambda item: item[:3])
        lost = _lost_from(items) if boot.killed else None
        for sequence, (at_ns, _, _, record, request) in enumerate(items):
            key = RecordKey(identity, process, sequence)
            if request is not None:
                keys[request.spec.request_id] = key
            if lost is not None and at_ns > lost:
                unsent.update([key] if request is not None else [])
            else:
                stream.append(replace(record, key=key))
        streams.append(stream)
    merged = heapq.merge(*streams, key=lambda record: (event_ns(record), record.key.process))
    return Emitted(list(merged), keys, unsent)


def _lost_from(items: list[_Item]) -> int:
    """The end of the last batch that left before everything died: what came later was in memory only."""
    return max((at_ns for at_ns, _, _, record, _ in items if isinstance(record, StepBatch)), default=0)


def _items(config: SimConfig, boot: Boot, process: int) -> Iterator[_Item]:
    anchor = Anchor(WALL_NS + boot.start_ns, boot.start_ns)
    started = Started(
        key=_NO_KEY,
        at_ns=boot.start_ns,
        anchor=anchor,
        engine=config.engine,
        kind="vllm",
        version="0.26.0",
        model=config.model,
        gpu=config.gpu,
        gpu_count=config.ranks,
        details=config.observation.details,
        processes=config.servers,
        ranks=config.ranks,
    )
    yield boot.start_ns, _FIRST, 0, started, None
    if process == 0:
        for number, (at_ns, event) in enumerate(boot.events):
            yield at_ns, _LIFE, number, Lifecycle(_NO_KEY, at_ns, event), None
    if process == 0 or config.observation.stops == "each":
        # after whatever any process still had to send
        yield boot.stop_ns, _LAST, 0, Lifecycle(_NO_KEY, boot.stop_ns, "stop"), None
    mine = [(request, usage) for request, usage in boot.frontend.usages if request.process == process]
    for number, (request, usage) in enumerate(mine):
        yield usage.ended_ns, _USAGE, number, usage, request
    yield from _batches(config, boot, process, [usage for _, usage in mine])


def _batches(config: SimConfig, boot: Boot, process: int, usages: list[Usage]) -> Iterator[_Item]:
    period = config.observation.batch_ns
    arrived = np.array([usage.arrived_ns for usage in usages], np.int64)
    ended = np.array([usage.ended_ns for usage in usages], np.int64)
    last = boot.stop_ns - 2 * MILLISECOND
    if boot.killed and boot.dead_ns is not None:
        last = boot.dead_ns
    tracks = [boot.frontend.marks.get((process, rank), []) for rank in range(config.ranks)]
    taken = [0] * config.ranks
    # timers of different processes do not tick together
    until = boot.start_ns + process * period * 3 // 8
    while until < last:
        until = until + period
        if until > last:
            if boot.killed:
                return
            until = last
        pending = arrived[(arrived <= until) & (ended > until)]
        open_ns = int(pending.min()) if len(pending) else until
        for rank, track in enumerate(tracks):
            begin = end = taken[rank]
            while end < len(track) and track[end].at_ns <= until:
                end += 1
            taken[rank] = end
            batch = StepBatch(_NO_KEY, rank, until, open_ns, _marks(track[begin:end]))
            yield until, _STEPS, rank, batch, None


def _marks(marks: list[Mark]) -> StepMarks:
    columns = {name: tuple([getattr(mark, name) for mark in marks]) for name in _COLUMNS}
    return StepMarks(**columns)
