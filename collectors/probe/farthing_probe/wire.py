"""The wire schema between the probe and Farthing's intake: JSON objects, one a line, gzip-compressed.

Every record carries ``v`` (schema version), ``kind`` and its key: ``boot`` (one per engine instance),
``proc`` (API-server process, 0-based) and ``seq`` (per process, from 0, without gaps). Times are integer
nanoseconds of the boot's monotonic clock, ``CLOCK_MONOTONIC``; the ``started`` record anchors it to UTC.

``POST /v1/usage`` takes ``usage`` records, ``POST /v1/windows`` everything else; both are idempotent.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "KINDS",
    "MARK_COLUMNS",
    "USAGE_PATH",
    "VERSION",
    "WINDOWS_PATH",
    "counters",
    "encode",
    "gpu_samples",
    "lifecycle",
    "path_of",
    "started",
    "steps",
    "usage",
]

VERSION = 1
USAGE_PATH = "/v1/usage"
WINDOWS_PATH = "/v1/windows"
KINDS = ("started", "lifecycle", "steps", "usage", "gpu", "counters")

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

Wire = dict[str, Any]


def _head(kind: str, boot: str, proc: int, seq: int) -> Wire:
    return {"v": VERSION, "kind": kind, "boot": boot, "proc": proc, "seq": seq}


def started(boot: str, proc: int, seq: int, **fields: Any) -> Wire:
    """A ``started`` record: at_ns, wall_ns, engine, engine_kind, version, model, gpu, gpu_count, gpu_uuids,
    details, processes.
    """
    return {**_head("started", boot, proc, seq), **fields}


def lifecycle(boot: str, proc: int, seq: int, *, at_ns: int, event: str) -> Wire:
    """A ``lifecycle`` record; events are ready, asleep, awake, draining, down, stop."""
    return {**_head("lifecycle", boot, proc, seq), "at_ns": at_ns, "event": event}


def steps(
    boot: str,
    proc: int,
    seq: int,
    *,
    engine_index: int,
    until_ns: int,
    open_ns: int,
    columns: Mapping[str, list[int]],
) -> Wire:
    """A ``steps`` record of step marks; ``columns`` holds every name of MARK_COLUMNS with absolute ``at_ns``.

    Columns that are zero throughout are left out; times travel as differences.
    """
    at = columns["at_ns"]
    base = at[0] if at else until_ns
    differences = [now - before for now, before in zip(at, [base, *at[:-1]], strict=True)]
    packed: Wire = {"at_ns": differences}
    for name in MARK_COLUMNS[1:]:
        values = columns[name]
        if any(values):
            packed[name] = values
    return {
        **_head("steps", boot, proc, seq),
        "engine_index": engine_index,
        "until_ns": until_ns,
        "open_ns": open_ns,
        "base_ns": base,
        "marks": packed,
    }


def usage(boot: str, proc: int, seq: int, **fields: Any) -> Wire:
    """A ``usage`` record; fields that are None are left out."""
    return {**_head("usage", boot, proc, seq), **{k: v for k, v in fields.items() if v is not None}}


def gpu_samples(boot: str, proc: int, seq: int, *, gpu_index: int, columns: Mapping[str, list[int]]) -> Wire:
    """A ``gpu`` record: columns at_ns, energy_mj, power_mw, utilization_percent, memory_bytes."""
    return {**_head("gpu", boot, proc, seq), "gpu_index": gpu_index, **columns}


def counters(
    boot: str, proc: int, seq: int, *, at_ns: int, values: Mapping[str, int], gauges: Mapping[str, float]
) -> Wire:
    """A ``counters`` record: the engine's cumulative counters by signal name."""
    return {
        **_head("counters", boot, proc, seq),
        "at_ns": at_ns,
        "values": dict(values),
        "gauges": dict(gauges),
    }


def path_of(record: Mapping[str, Any]) -> str:
    """Where a record is posted."""
    return USAGE_PATH if record["kind"] == "usage" else WINDOWS_PATH


def encode(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Gzip-compressed JSON lines of records; deterministic for equal input."""
    text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    return gzip.compress(text.encode(), compresslevel=5, mtime=0)
