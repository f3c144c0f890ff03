"""The wire schema between the probe and Farthing's intake: JSON objects, one a line, gzip-compressed.

Every record carries ``v`` (schema version), ``kind`` and its key: ``boot`` (one per engine instance),
``proc`` (API-server process, 0-based) and ``seq`` (per process, from 0, without gaps). Times are integer
nanoseconds of the boot's monotonic clock, ``CLOCK_MONOTONIC``; the ``started`` record anchors it to UTC.

``POST /v1/usage`` takes ``usage`` records, ``POST /v1/windows`` everything else; both are idempotent.
Intake ignores fields it does not know, and refuses a record by the name of the field that is wrong.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "EVENTS",
    "GPU_COLUMNS",
    "KINDS",
    "MARK_COLUMNS",
    "MOST_ENTRIES",
    "USAGE_PATH",
    "VERSION",
    "WINDOWS_PATH",
    "counters",
    "encode",
    "gpu_samples",
    "lifecycle",
    "path_of",
    "sequence",
    "started",
    "steps",
    "usage",
]

VERSION = 1
MOST_ENTRIES = 1024
"""Of ``sequences`` in one record; intake takes no more, so an entry of as many may be of several sequences."""
USAGE_PATH = "/v1/usage"
WINDOWS_PATH = "/v1/windows"
KINDS = ("started", "lifecycle", "steps", "usage", "gpu", "counters")
EVENTS = ("ready", "asleep", "awake", "draining", "down", "stop")
"""Events of a ``lifecycle`` record; ``stop`` is the boot's last record."""

MARK_COLUMNS = (
    "at_ns",
    "running",
    "waiting",
    "prefill_requests",
    "prefill_tokens",
    "decode_requests",
    "decode_tokens",
    "encoder_inputs",
    "encoder_tokens",
    "generated",
    "prompt_computed",
    "prompt_cached",
    "preempted",
)
"""Columns of a ``steps`` record; ``at_ns`` travels as differences, the first from ``base_ns``."""

GPU_COLUMNS = ("at_ns", "energy_mj", "power_mw", "utilization_percent", "memory_bytes")
"""Columns of a ``gpu`` record, absolute values; all are required, since an unknown reading is not 0."""

Wire = dict[str, Any]


def _head(kind: str, boot: str, proc: int, seq: int) -> Wire:
    return {"v": VERSION, "kind": kind, "boot": boot, "proc": proc, "seq": seq}


def _given(fields: Mapping[str, Any]) -> Wire:
    """Fields that say something: None and empty strings are what their absence means."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def started(
    boot: str,
    proc: int,
    seq: int,
    *,
    at_ns: int,
    wall_ns: int,
    engine: str,
    engine_kind: str,
    version: str,
    model: str,
    gpu: str,
    gpu_count: int,
    gpu_uuids: Sequence[str] = (),
    details: bool = False,
    processes: int = 1,
    ranks: int = 1,
) -> Wire:
    """A ``started`` record; ``wall_ns`` is the UTC reading of the moment ``at_ns`` (nanoseconds since the epoch)."""
    return {
        **_head("started", boot, proc, seq),
        "at_ns": at_ns,
        "wall_ns": wall_ns,
        "engine": engine,
        "engine_kind": engine_kind,
        "version": version,
        "model": model,
        "gpu": gpu,
        "gpu_count": gpu_count,
        "gpu_uuids": list(gpu_uuids),
        "details": details,
        "processes": processes,
        "ranks": ranks,
    }


def lifecycle(boot: str, proc: int, seq: int, *, at_ns: int, event: str) -> Wire:
    """A ``lifecycle`` record; ``event`` is one of EVENTS."""
    return {**_head("lifecycle", boot, proc, seq), "at_ns": at_ns, "event": event}


def steps(
    boot: str,
    proc: int,
    seq: int,
    *,
    engine_index: int,
    until_ns: int,
    open_ns: int,
    columns: Mapping[str, Sequence[int]],
) -> Wire:
    """A ``steps`` record of step marks; ``columns`` holds every name of MARK_COLUMNS with absolute ``at_ns``.

    Columns that are zero throughout are left out; times travel as differences.
    """
    at = columns["at_ns"]
    base = at[0] if at else until_ns
    differences = [now - before for now, before in zip(at, [base, *at][: len(at)], strict=True)]
    packed: Wire = {"at_ns": differences}
    for name in MARK_COLUMNS[1:]:
        values = columns[name]
        if any(values):
            packed[name] = list(values)
    return {
        **_head("steps", boot, proc, seq),
        "engine_index": engine_index,
        "until_ns": until_ns,
        "open_ns": open_ns,
        "base_ns": base,
        "marks": packed,
    }


def sequence(
    *,
    scheduled_ns: int,
    first_ns: int | None,
    last_ns: int,
    prompt_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    queued_ns: int = 0,
    preemptions: int = 0,
) -> Wire:
    """One entry of a usage record's ``sequences``; ``queued_ns`` is a duration, the other times are moments."""
    return _given(
        {
            "scheduled_ns": scheduled_ns,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "output_tokens": output_tokens,
            "queued_ns": queued_ns,
            "preemptions": preemptions,
        }
    )


def usage(
    boot: str,
    proc: int,
    seq: int,
    *,
    request_id: str,
    engine_index: int,
    model: str,
    outcome: str,
    status: int,
    arrived_ns: int,
    ended_ns: int,
    first_ns: int | None = None,
    last_ns: int | None = None,
    route: str = "",
    finish_reason: str = "",
    tenant: str = "",
    project: str = "",
    workload: str = "",
    user: str = "",
    tier: str = "",
    trace_id: str = "",
    prompt_tokens: int | None = None,
    cached_tokens: int | None = None,
    image_tokens: int | None = None,
    output_tokens: int | None = None,
    delivered_tokens: int | None = None,
    sequences: Sequence[Mapping[str, Any]] = (),
    seen_by: str = "both",
    span_id: str = "",
    parent_span_id: str = "",
    sampled: bool = False,
    span_sent: bool = False,
    estimate_nano: int | None = None,
    key_pseudonym: str = "",
) -> Wire:
    """A ``usage`` record; what is None or empty is left out, and a tenant or tier left out is ``unknown``.

    ``outcome`` is finished, aborted, failed or rejected; ``seen_by`` is both, client or engine. Token counts
    are of the whole request as its client was told; ``sequences`` hold the engine's own, see ``sequence``. The edge
    span's ids come with a ``trace_id``; ``estimate_nano`` is in nano-dollars, and left out where it is unknown.
    """
    fields = _given(
        {
            "request_id": request_id,
            "engine_index": engine_index,
            "model": model,
            "outcome": outcome,
            "status": status,
            "arrived_ns": arrived_ns,
            "ended_ns": ended_ns,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "route": route,
            "finish_reason": finish_reason,
            "tenant": tenant,
            "project": project,
            "workload": workload,
            "user": user,
            "tier": tier,
            "trace_id": trace_id,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "image_tokens": image_tokens,
            "output_tokens": output_tokens,
            "delivered_tokens": delivered_tokens,
            "seen_by": seen_by,
            "span_id": span_id,
            "parent_span_id": parent_span_id,
            "sampled": sampled or None,
            "span_sent": span_sent or None,
            "estimate_nano": estimate_nano,
            "key_pseudonym": key_pseudonym,
        }
    )
    if sequences:
        fields["sequences"] = [dict(entry) for entry in sequences]
    return {**_head("usage", boot, proc, seq), **fields}


def gpu_samples(boot: str, proc: int, seq: int, *, gpu_index: int, columns: Mapping[str, Sequence[int]]) -> Wire:
    """A ``gpu`` record of at least one sample; ``columns`` holds every name of GPU_COLUMNS.

    Units: nanoseconds, millijoules (the driver's cumulative counter), milliwatts, percent, bytes.
    """
    return {
        **_head("gpu", boot, proc, seq),
        "gpu_index": gpu_index,
        **{name: list(columns[name]) for name in GPU_COLUMNS},
    }


def counters(
    boot: str, proc: int, seq: int, *, at_ns: int, values: Mapping[str, int], gauges: Mapping[str, float]
) -> Wire:
    """A ``counters`` record: the engine's cumulative counters by signal name, and its gauges.

    A gauge that is not a finite number is left out: JSON has no word for it, and unknown is not 0.
    """
    return {
        **_head("counters", boot, proc, seq),
        "at_ns": at_ns,
        "values": dict(values),
        "gauges": {name: value for name, value in gauges.items() if math.isfinite(value)},
    }


def path_of(record: Mapping[str, Any]) -> str:
    """Where a record is posted."""
    return USAGE_PATH if record["kind"] == "usage" else WINDOWS_PATH


def encode(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Gzip-compressed JSON lines of records; deterministic for equal input."""
    text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    return gzip.compress(text.encode(), compresslevel=5, mtime=0)
