"""Recorded samples of a GPU as a reader beside the engine would have sent them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from farthing.collectors.wire import decode_line, decode_raw, device_record
from farthing.domain.clock import SECOND
from farthing.domain.gpu import COUNTER, DeviceSamples
from farthing.domain.records import GpuSamples, RawRecord, RecordKey, Started

__all__ = ["NAME", "UUID", "as_devices", "device", "integrated", "without_samples"]

UUID = "GPU-5c1f0c5e-8d4b-2b7a-91f0-6f3d1c9a7e21"
NAME = "NVIDIA H100 80GB HBM3"


def device(
    at_ns: Sequence[int], energy_mj: Sequence[int] | None = None, *, uuid: str = UUID, sequence: int = 0, **changed: Any
) -> RawRecord:
    """A record of one device's samples; without energies it is only there."""
    samples = DeviceSamples(
        key=RecordKey(f"device:{uuid}/{at_ns[0] if not sequence else 1}", 0, sequence),
        uuid=uuid,
        name=NAME,
        host="node-1",
        index=0,
        source="nvml",
        method="none" if energy_mj is None else COUNTER,
        at_ns=tuple(at_ns),
        energy_mj=(0,) * len(at_ns) if energy_mj is None else tuple(energy_mj),
    )
    return device_record(replace(samples, **changed))


def without_samples(raw: Iterable[RawRecord], uuids: Sequence[str] = (UUID,)) -> list[RawRecord]:
    """A boot's records without its probe's samples, numbered anew; its start tells the UUIDs of its GPUs."""
    kept: list[RawRecord] = []
    for record in raw:
        if record.kind == "gpu":
            continue
        line = json.loads(record.line) | {"seq": len(kept)}
        if record.kind == "started":
            line["gpu_uuids"] = list(uuids)
        kept.append(decode_raw(json.dumps(line, separators=(",", ":")).encode()))
    return kept


def as_devices(raw: Sequence[RawRecord], *, uuid: str = UUID, method: str = COUNTER) -> list[RawRecord]:
    """A boot's samples as records of a device of its own, in UTC; ``integrated`` from power alone."""
    started = next(
        one for record in raw if record.kind == "started" and isinstance(one := decode_line(record.line), Started)
    )
    found: list[RawRecord] = []
    energy = integrated(raw)
    for record in raw:
        if record.kind != "gpu":
            continue
        samples = decode_line(record.line)
        assert isinstance(samples, GpuSamples)
        at = tuple(map(started.anchor.to_wall, samples.at_ns))
        millijoules = samples.energy_mj if method == COUNTER else tuple(energy[moment] for moment in samples.at_ns)
        found.append(device(at, millijoules, uuid=uuid, sequence=len(found) + 1, method=method))
    return found


def integrated(raw: Iterable[RawRecord]) -> dict[int, int]:
    """Millijoules since the first sample, by its moment: power times time, by trapezoids."""
    total, found = 0, {}
    before: tuple[int, int] | None = None
    for record in raw:
        if record.kind != "gpu":
            continue
        samples = decode_line(record.line)
        assert isinstance(samples, GpuSamples)
        for at, milliwatts in zip(samples.at_ns, samples.power_mw, strict=True):
            if before:
                total += (at - before[0]) * (milliwatts + before[1])
            found[at] = total // (2 * SECOND)
            before = at, milliwatts
    return found
