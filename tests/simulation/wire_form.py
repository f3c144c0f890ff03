"""Records as the JSON objects that the probe posts."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from farthing.domain.records import Counters, GpuSamples, Lifecycle, Record, Started, StepBatch, Usage
from farthing_probe import wire

__all__ = ["to_wire"]


def to_wire(record: Record) -> dict[str, Any]:
    """One record as ``farthing_probe.wire`` builds it."""
    key = record.key
    head = key.boot, key.process, key.sequence
    match record:
        case Started():
            return wire.started(
                *head,
                at_ns=record.at_ns,
                wall_ns=record.anchor.to_wall(record.at_ns),
                engine=record.engine,
                engine_kind=record.kind,
                version=record.version,
                model=record.model,
                gpu=record.gpu,
                gpu_count=record.gpu_count,
                gpu_uuids=record.gpu_uuids,
                details=record.details,
                processes=record.processes,
            )
        case Lifecycle():
            return wire.lifecycle(*head, at_ns=record.at_ns, event=record.event)
        case StepBatch():
            columns = {column.name: getattr(record.marks, column.name) for column in fields(record.marks)}
            return wire.steps(
                *head,
                engine_index=record.engine_index,
                until_ns=record.until_ns,
                open_ns=record.open_ns,
                columns=columns,
            )
        case Usage():
            given = {column.name: getattr(record, column.name) for column in fields(record)}
            del given["key"]
            given["sequences"] = [wire.sequence(**asdict(sequence)) for sequence in record.sequences]
            return wire.usage(*head, **given)
        case GpuSamples() | Counters():
            raise TypeError("the simulation makes no such record")
