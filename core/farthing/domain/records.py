"""What the probe, the replay and the scraper report: immutable records, keyed so that twice is once.

All times are integer nanoseconds of the boot's monotonic clock; ``Started.anchor`` ties it to UTC.
A record's key is (boot, process, sequence); sequences of a process start at 0 and have no gaps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from farthing.domain.clock import Anchor

__all__ = [
    "Counters",
    "EngineSequence",
    "GpuSamples",
    "Lifecycle",
    "RawRecord",
    "Record",
    "RecordKey",
    "Started",
    "StepBatch",
    "StepMarks",
    "Usage",
    "event_ns",
    "mirrored",
]


# the two that there is one of for each record of an inbox: structs are made, and found in a dict, six times as fast
class RecordKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identity of a record: the instance's boot, the API-server process, and that process's sequence number."""

    boot: str
    process: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Started:
    """An engine instance came up: who it is, what it runs on, and its clock's anchor."""

    key: RecordKey
    at_ns: int
    anchor: Anchor
    engine: str
    """Instance name, as in farthing.yaml ``engines[].name``."""
    kind: str
    """``vllm``, ``sglang`` …"""
    version: str
    model: str
    gpu: str
    """Device name as its driver gives it, e.g. ``NVIDIA H100 80GB HBM3``."""
    gpu_count: int
    gpu_uuids: tuple[str, ...] = ()
    details: bool = False
    """The engine reports scheduler details per step (``--enable-logging-iteration-details``)."""
    processes: int = 1
    """API-server processes that report under this boot."""
    ranks: int = 1
    """Data-parallel engine indices, 0 to ranks - 1; they share the GPUs equally."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A change of the instance's state: ready, asleep, awake, draining, down; or stop, each process's last record."""

    key: RecordKey
    at_ns: int
    event: str


@dataclass(frozen=True, slots=True)
class StepMarks:
    """Columns over the calls of a stat logger's ``record()``; all tuples have one length.

    A mark is an engine step when ``prefill_requests + decode_requests > 0``; the others only report state.
    ``at_ns`` is when the step's outputs arrived; ``running`` is what remains scheduled after it. With several
    API servers the scheduler's statistics reach one of them per step: a call without them has ``running`` and
    ``waiting`` -1 (unknown) and no scheduled work, but may bring outputs.
    """

    at_ns: tuple[int, ...]
    running: tuple[int, ...]
    waiting: tuple[int, ...]
    prefill_requests: tuple[int, ...]
    prefill_tokens: tuple[int, ...]
    decode_requests: tuple[int, ...]
    decode_tokens: tuple[int, ...]
    encoder_inputs: tuple[int, ...]
    encoder_tokens: tuple[int, ...]
    generated: tuple[int, ...]
    """Output tokens the engine emitted."""
    prompt_computed: tuple[int, ...]
    """Prompt tokens computed, counted when a prefill ends."""
    prompt_cached: tuple[int, ...]
    """Prompt tokens taken from a prefix cache (local and external), counted when a prefill ends."""
    preempted: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.at_ns)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """All marks of one engine index that a process saw up to ``until_ns``, exclusive of earlier batches.

    ``open_ns`` is the arrival of the oldest request still open in that process at ``until_ns`` (equal to
    ``until_ns`` when none is): usage records of everything that ended before lie at lower sequences.
    """

    key: RecordKey
    engine_index: int
    until_ns: int
    open_ns: int
    marks: StepMarks


@dataclass(frozen=True, slots=True)
class EngineSequence:
    """What the engine says of one generated sequence of a request (``n = 2`` has two)."""

    scheduled_ns: int
    first_ns: int | None
    """First output token; None when there was none."""
    last_ns: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queued_ns: int = 0
    """Duration in the engine's queue."""
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """One request, as its client and its engine saw it. Holds no prompt, image or answer.

    Token fields are None when nobody told (an aborted request has no usage); costing then estimates them.
    """

    key: RecordKey
    request_id: str
    engine_index: int
    model: str
    outcome: str
    """finished, aborted, failed or rejected."""
    status: int
    """HTTP status; 499 for a client that hung up."""
    arrived_ns: int
    ended_ns: int
    first_ns: int | None = None
    """First byte of output that left for the client."""
    last_ns: int | None = None
    route: str = ""
    finish_reason: str = ""
    tenant: str = "unknown"
    project: str = ""
    workload: str = ""
    user: str = ""
    tier: str = "unknown"
    trace_id: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    image_tokens: int | None = None
    output_tokens: int | None = None
    delivered_tokens: int | None = None
    """Output tokens counted as stream chunks, where ``output_tokens`` is unknown."""
    sequences: tuple[EngineSequence, ...] = ()
    seen_by: str = "both"
    """``both``, ``client`` (no engine statistics: aborted or refused) or ``engine`` (no HTTP side)."""
    span_id: str = ""
    """Of the edge span: 16 hexadecimal digits; empty without a trace."""
    parent_span_id: str = ""
    """The caller's span; empty at a root."""
    sampled: bool = False
    """Whether the trace is kept (W3C Trace Context, 3.2.2.5, the sampled flag)."""
    span_sent: bool = False
    """The probe has handed the edge span to a collector itself."""
    estimate_nano: int | None = None
    """What it would cost at the unit prices that the probe last heard of, nano-dollars; None where one is unknown."""
    key_pseudonym: str = ""
    """Of the API key, under the probe's salt: 16 hexadecimal digits; for the audit trail."""


@dataclass(frozen=True, slots=True)
class GpuSamples:
    """Device samples of one GPU: columns of equal length. ``energy_mj`` is the driver's counter, in millijoules."""

    key: RecordKey
    gpu_index: int
    at_ns: tuple[int, ...]
    energy_mj: tuple[int, ...]
    power_mw: tuple[int, ...]
    utilization_percent: tuple[int, ...]
    memory_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counters:
    """The engine's own cumulative counters at a moment, by signal name (see the engine catalogue).

    For an engine without the probe these are all there is, and costing estimates from their differences;
    with the probe they only check that nothing was lost.
    """

    key: RecordKey
    at_ns: int
    values: dict[str, int] = field(default_factory=dict)
    """Totals since the boot, by signal: ``prompt_tokens``, ``generation_tokens`` …"""
    gauges: dict[str, float] = field(default_factory=dict)


Record: TypeAlias = Started | Lifecycle | StepBatch | Usage | GpuSamples | Counters


class RawRecord(msgspec.Struct, frozen=True, gc=False):
    """A validated record as intake hands it to durable storage; ``line`` decodes to the record again."""

    key: RecordKey
    kind: str
    """Wire kind (started, lifecycle, steps, usage, gpu, counters or device), or one of conventions' INBOX_* kinds."""
    event_ns: int
    """Monotonic nanoseconds of the boot; of a device's samples, which have no boot's clock, UTC."""
    line: bytes
    """UTF-8 JSON without its line end, holding nothing but the fields that the wire schema names."""


def mirrored(key: RecordKey) -> RecordKey:
    """The key under which the refusal of ``key`` lies in the inbox, and the other way round.

    Sequences of refusals are negative: a record that is mended and sent again still has its own key to itself.
    """
    return RecordKey(key.boot, key.process, -1 - key.sequence)


def event_ns(record: Record) -> int:
    """When a record became true, in the boot's monotonic nanoseconds: what watermarks and windows go by.

    Steps count from the end of their batch, usage from the request's end, GPU samples from their last sample.
    """
    match record:
        case StepBatch():
            return record.until_ns
        case Usage():
            return record.ended_ns
        case GpuSamples():
            return record.at_ns[-1]
        case _:
            return record.at_ns
