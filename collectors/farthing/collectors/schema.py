"""The wire schema as typed structs: which fields each kind of record has, and their limits.

Limits keep what follows safe: every integer fits a signed 64-bit column, counts are small enough for the
product of two to fit one, and no string is longer than its column in the ledger. That none holds a control
character (PostgreSQL stores no NUL) is seen to by ``wire``, since a pattern on each string would take as long
as all the rest.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from farthing.domain.conventions import WIRE_VERSION
from farthing.domain.gpu import GPU
from farthing.domain.records import RecordKey
from farthing_probe import wire as probe_wire

__all__ = [
    "KINDS",
    "MAX_LINE_BYTES",
    "MAX_MARKS",
    "MAX_NAMES_BYTES",
    "MAX_STRING",
    "SEEN_BY",
    "AnyWire",
    "EngineWire",
    "WireCounters",
    "WireDevice",
    "WireGpu",
    "WireHead",
    "WireKey",
    "WireLifecycle",
    "WireMarks",
    "WireSequence",
    "WireStarted",
    "WireSteps",
    "WireUsage",
]

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_MARKS = 65_536
"""Entries of a column: 5 s at one mark every 76 us."""
MAX_STRING = 512
MAX_NAMES_BYTES = 1_536
"""Of a request's tenant, project, model and tier together: with the engine's name they are a key of the ledger's sums,
and PostgreSQL takes no key above 2,704 bytes. Only names in other alphabets come near."""
MAX_SEQUENCES = 1024
MAX_SIGNALS = 1024
MAX_GPUS = 1024
SEEN_BY = ("both", "client", "engine")
KINDS = (*probe_wire.KINDS, "device")
"""What a probe sends of its engine, and what a reader of GPUs sends of a device."""

Text = Annotated[str, Meta(max_length=MAX_STRING)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_STRING)]
# Lengths of the ledger's columns: a string that PostgreSQL cannot take would fail its whole batch for ever.
Text64 = Annotated[str, Meta(max_length=64)]
Name96 = Annotated[str, Meta(min_length=1, max_length=96)]
"""A device's UUID: with its prefix and a time it is a boot."""
SpanId = Annotated[str, Meta(pattern=r"\A(?!0{16})[0-9a-f]{16}\Z")]
"""As W3C Trace Context has it (3.2.2.4): lower case, and not all zeros."""
Pseudonym = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
"""Never an API key itself, which has another form."""
Text128 = Annotated[str, Meta(max_length=128)]
Text256 = Annotated[str, Meta(max_length=256)]
Name32 = Annotated[str, Meta(min_length=1, max_length=32)]
Name128 = Annotated[str, Meta(min_length=1, max_length=128)]
Name256 = Annotated[str, Meta(min_length=1, max_length=256)]
Time = Annotated[int, Meta(ge=0, le=2**62)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
State = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""A state of the scheduler; -1: this call brought no scheduler statistics."""
Total = Annotated[int, Meta(ge=0, le=2**62)]
Difference = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Column = Annotated[tuple[Count, ...], Meta(max_length=MAX_MARKS)]
StateColumn = Annotated[tuple[State, ...], Meta(max_length=MAX_MARKS)]
Totals = Annotated[tuple[Total, ...], Meta(max_length=MAX_MARKS)]


class _Wire(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    v: Annotated[int, Meta(ge=1, le=WIRE_VERSION)]
    boot: Name128
    proc: Count
    seq: Total

    def record_key(self) -> RecordKey:
        return RecordKey(self.boot, self.proc, self.seq)


class WireStarted(_Wire, frozen=True, tag="started"):
    at_ns: Time
    wall_ns: Time
    engine: Name128
    engine_kind: Name32
    version: Text
    model: Name256
    gpu: Text128
    gpu_count: Annotated[int, Meta(ge=1, le=MAX_GPUS)]
    gpu_uuids: Annotated[tuple[Name, ...], Meta(max_length=MAX_GPUS)] = ()
    details: bool = False
    processes: Annotated[int, Meta(ge=1, le=65_536)] = 1
    ranks: Annotated[int, Meta(ge=1, le=65_536)] = 1


class WireLifecycle(_Wire, frozen=True, tag="lifecycle"):
    at_ns: Time
    event: Name


class WireMarks(msgspec.Struct, frozen=True, omit_defaults=True):
    at_ns: Annotated[tuple[Difference, ...], Meta(max_length=MAX_MARKS)]
    running: StateColumn | None = None
    waiting: StateColumn | None = None
    prefill_requests: Column | None = None
    prefill_tokens: Column | None = None
    decode_requests: Column | None = None
    decode_tokens: Column | None = None
    encoder_inputs: Column | None = None
    encoder_tokens: Column | None = None
    generated: Column | None = None
    prompt_computed: Column | None = None
    prompt_cached: Column | None = None
    preempted: Column | None = None


class WireSteps(_Wire, frozen=True, tag="steps"):
    engine_index: Count
    until_ns: Time
    open_ns: Time
    base_ns: Time
    marks: WireMarks


class WireSequence(msgspec.Struct, frozen=True, omit_defaults=True):
    scheduled_ns: Time
    last_ns: Time
    prompt_tokens: Count
    cached_tokens: Count
    output_tokens: Count
    first_ns: Time | None = None
    queued_ns: Time = 0
    preemptions: Count = 0


class WireUsage(_Wire, frozen=True, tag="usage"):
    outcome: Name
    status: Annotated[int, Meta(ge=0, le=999)]
    arrived_ns: Time
    ended_ns: Time
    engine_index: Count = 0
    request_id: Text = ""
    model: Text256 = ""
    first_ns: Time | None = None
    last_ns: Time | None = None
    route: Text = ""
    finish_reason: Text = ""
    tenant: Text256 = ""
    project: Text = ""
    workload: Text = ""
    user: Text = ""
    tier: Text64 = ""
    trace_id: Text64 = ""
    prompt_tokens: Count | None = None
    cached_tokens: Count | None = None
    image_tokens: Count | None = None
    output_tokens: Count | None = None
    delivered_tokens: Count | None = None
    sequences: Annotated[tuple[WireSequence, ...], Meta(max_length=MAX_SEQUENCES)] = ()
    seen_by: Name = "both"
    span_id: SpanId = ""
    parent_span_id: SpanId = ""
    sampled: bool = False
    span_sent: bool = False
    estimate_nano: Total | None = None
    key_pseudonym: Pseudonym = ""


class WireGpu(_Wire, frozen=True, tag="gpu"):
    gpu_index: Count
    at_ns: Annotated[tuple[Time, ...], Meta(min_length=1, max_length=MAX_MARKS)]
    energy_mj: Totals
    power_mw: Column
    utilization_percent: Column
    memory_bytes: Totals


class WireCounters(_Wire, frozen=True, tag="counters"):
    at_ns: Time
    values: Annotated[dict[Name, Total], Meta(max_length=MAX_SIGNALS)] = {}
    gauges: Annotated[dict[Name, float], Meta(max_length=MAX_SIGNALS)] = {}


class WireDevice(_Wire, frozen=True, tag="device"):
    uuid: Name96
    name: Text256
    host: Text256
    index: Annotated[int, Meta(ge=-1, le=2**31 - 1)]
    source: Name32
    method: Name
    at_ns: Annotated[tuple[Time, ...], Meta(min_length=1, max_length=MAX_MARKS)]
    energy_mj: Totals
    parent: Text128 = ""
    profile: Text128 = ""
    pod: Text = ""
    device_kind: Name = GPU


class WireHead(msgspec.Struct, frozen=True):
    """What is looked at first when a line is refused: its version explains everything else that is wrong."""

    v: Any = None
    kind: Any = None


class WireKey(msgspec.Struct, frozen=True):
    """What every version of the schema has, by which a refused record can still be told from a lost one."""

    boot: Name128
    proc: Count
    seq: Total
    kind: Any = None

    def record_key(self) -> RecordKey:
        return RecordKey(self.boot, self.proc, self.seq)


EngineWire = WireStarted | WireLifecycle | WireSteps | WireUsage | WireGpu | WireCounters
AnyWire = EngineWire | WireDevice
