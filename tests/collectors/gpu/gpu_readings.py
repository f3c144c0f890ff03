"""Readings of devices for tests: of a recorded H100, and made up; and a source that gives what it is told to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from farthing.collectors.wire import decode_device
from farthing.domain.clock import SECOND, nanoseconds
from farthing.domain.gpu import DeviceSamples, GpuReading
from farthing.replay.recording import PACKAGED, SAMPLES

UUID = "GPU-6f0c8f7e-0000-4000-8000-000000000001"
AT = 1_795_445_124 * SECOND


def reading(uuid=UUID, *, after=0.0, **fields):
    """An H100 that works, ``after`` seconds from the beginning."""
    known = {
        "source": "nvml",
        "host": "node-1",
        "index": 0,
        "name": "NVIDIA H100 80GB HBM3",
        "utilization": 0.98,
        "power_watts": 480.0,
        "power_limit_watts": 700.0,
    }
    return GpuReading(uuid=uuid, at_ns=AT + round(after * SECOND), **{**known, **fields})


def recorded(name="h100-llama8b-vllm0.26", every=1):
    """Each ``every``-th of a recording's NVML samples as a reading, at about a tenth of a second."""
    with gzip.open(PACKAGED / name / SAMPLES, "rt") as file:
        head, *rows = (json.loads(line, parse_float=str) for line in file)
    for row in rows[::every]:
        yield GpuReading(
            uuid=UUID,
            at_ns=nanoseconds(row["t"]),
            source="nvml",
            index=0,
            name=head["name"],
            utilization=row["gpu"] / 100,
            memory_used_bytes=row["mem"],
            power_watts=row["p_mw"] / 1_000,
            power_limit_watts=head["power_limit_mw"] / 1_000,
            energy_mj=row["e_mj"],
            temperature_celsius=row["temp"],
        )


def read_again(seconds="1"):
    """Readings of a run on an H100, as Farthing's own source told them, and the records that were made of them."""
    readings: list[GpuReading] = []
    records: list[DeviceSamples] = []
    with gzip.open(PACKAGED / "h100-llama8b-devices-vllm0.26" / f"readings-{seconds}s.jsonl.gz", "rt") as file:
        for line in file:
            row = json.loads(line)
            if "reading" in row:
                sets = {"throttle", "faults"} & row["reading"].keys()
                readings.append(GpuReading(**row["reading"] | {key: frozenset(row["reading"][key]) for key in sets}))
            elif "device" in row:
                records.append(decode_device(json.dumps(row["device"]).encode()))
    return readings, records


@dataclass
class FakeSource:
    """Gives one answer after the other: readings, or an error that it raises; the last one again and again."""

    answers: list[Sequence[GpuReading] | Exception]
    name: str = "nvml"
    closed: int = 0
    asked: int = field(default=0)

    @classmethod
    def of(cls, *answers: Sequence[GpuReading] | Exception, name="nvml") -> FakeSource:
        return cls(list(answers), name)

    def read(self) -> Sequence[GpuReading]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


def moments(readings: Iterable[GpuReading]) -> list[Sequence[GpuReading]]:
    """One answer for each reading."""
    return [[one] for one in readings]
