"""The one loader of recordings: a folder of gzip JSON lines, as replayed, costed offline and tested against.

See recordings/README.md for the files. Every error is a RecordingError that names the file and the line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from farthing.collectors.wire import decode_device, decode_line
from farthing.domain.clock import Anchor, nanoseconds
from farthing.domain.errors import RecordError, RecordingError
from farthing.domain.gpu import DeviceSamples
from farthing.domain.records import RecordKey
from farthing.replay import fields
from farthing.replay.fields import wrong_field

__all__ = ["PACKAGED", "Recording", "Scrape", "load_recording", "packaged_names"]

PACKAGED = Path(__file__).parent / "recordings"
RECORDS = "records.jsonl.gz"
"""Where it is there, the recording was made by a probe, and needs neither steps nor requests."""
SAMPLES = "nvml.jsonl.gz"
DEVICES = "devices.jsonl.gz"
GPU_METRICS = "gpu_metrics.jsonl.gz"
"""What Farthing's own reading of the devices gave beside the run: its records, and the series that it exposed."""
_FORMAT = "see docs/replay.md for the format"

Decoder: TypeAlias = "msgspec.json.Decoder[Any]"


@dataclass(frozen=True, slots=True)
class Scrape:
    """One GET of the engine's metrics: UTC nanoseconds, and the exposition (empty: the scrape failed)."""

    wall_ns: int
    body: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded run; rows are as they lie in the files, times still in seconds (Decimal)."""

    name: str
    steps: tuple[dict[str, Any], ...]
    requests: tuple[dict[str, Any], ...]
    scrapes: tuple[Scrape, ...]
    gpu: dict[str, Any]
    """The device: name, driver, power_limit_mw; the name alone where a probe recorded without samples."""
    gpu_samples: tuple[dict[str, Any], ...]
    start_ns: int
    """UTC nanoseconds of the first record of any file."""
    end_ns: int
    """UTC nanoseconds of the last record of any file."""
    anchor: Anchor
    """Of the first boot."""
    boots: tuple[tuple[dict[str, Any], ...], ...] = ()
    """Records of the wire as a probe sent them, by boot; ``steps`` and ``requests`` are empty then."""
    devices: tuple[DeviceSamples, ...] = ()
    """What an inbox got of the devices, read once a second; empty where they were not read."""
    gpu_scrapes: tuple[Scrape, ...] = ()
    """The ``farthing_gpu_`` series that were exposed meanwhile."""

    def last_exposition(self) -> str:
        """The last scrape that succeeded."""
        return next(scrape.body for scrape in reversed(self.scrapes) if scrape.body)

    def exposition_at(self, wall_ns: int) -> str:
        """What the engine answered at a UTC moment: the latest scrape up to then; empty when it was down."""
        body = self.scrapes[0].body
        for scrape in self.scrapes:
            if scrape.wall_ns > wall_ns:
                break
            body = scrape.body
        return body

    def down_ns(self) -> int | None:
        """UTC nanoseconds from when the engine was gone, by evidence: its GPU memory freed, or a failed scrape."""
        failed = None
        for scrape in reversed(self.scrapes):
            if scrape.body:
                break
            failed = scrape.wall_ns
        if failed is None:
            return None
        most = max((sample["mem"] for sample in self.gpu_samples), default=0)
        freed = None
        for sample in reversed(self.gpu_samples):
            if sample["mem"] * 10 > most:
                break
            freed = nanoseconds(sample["t"])
        return min(failed, freed) if freed is not None else failed


def packaged_names() -> list[str]:
    """Names of the recordings that ship with Farthing."""
    return sorted(path.name for path in PACKAGED.iterdir() if path.is_dir())


def load_recording(source: str | Path) -> Recording:
    """The recording in a folder, or a packaged one by its name.

    Raises RecordingError when there is none, or when a file is missing, truncated or malformed.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = PACKAGED / str(source)
        if not folder.is_dir() or folder.parent != PACKAGED:
            known = ", ".join(packaged_names())
            raise RecordingError(
                f"{source}: no such folder, and no packaged recording of that name (packaged: {known})"
            )
    boots: tuple[tuple[dict[str, Any], ...], ...] = ()
    steps: list[dict[str, Any]] = []
    requests: list[dict[str, Any]] = []
    if (folder / RECORDS).exists():
        boots = _boots(folder / RECORDS)
        anchor = Anchor(wall_ns=boots[0][0]["wall_ns"], mono_ns=boots[0][0]["at_ns"])
    else:
        steps = _rows(folder / "steps.jsonl.gz", fields.STEP)
        requests = _rows(folder / "requests.jsonl.gz", fields.REQUEST)
        anchor = Anchor(wall_ns=nanoseconds(steps[0]["t"]), mono_ns=nanoseconds(steps[0]["m"]))
    metrics = _rows(folder / "metrics.jsonl.gz", fields.SCRAPE)
    if boots and not (folder / SAMPLES).exists():
        # the machine had no NVML; the probe says what the device is
        nvml: list[dict[str, Any]] = [{"name": boots[0][0]["gpu"]}]
    else:
        nvml = _rows(folder / SAMPLES, fields.GPU_SAMPLE, first_line=fields.DEVICE)
    if not any(row["body"] for row in metrics):
        raise RecordingError(f"{folder / 'metrics.jsonl.gz'}: holds no scrape that succeeded; {_FORMAT}")
    scrapes = _scrapes(metrics)
    moments = [nanoseconds(rows[i]["t"]) for rows in (steps, metrics, nvml[1:]) if rows for i in (0, -1)]
    moments += [nanoseconds(row[key]) for row in requests for key in ("t0", "end")]
    moments += [boot[0]["wall_ns"] for boot in boots]
    return Recording(
        name=folder.name,
        steps=tuple(steps),
        requests=tuple(requests),
        scrapes=scrapes,
        gpu=nvml[0],
        gpu_samples=tuple(nvml[1:]),
        start_ns=min(moments),
        end_ns=max(moments),
        anchor=anchor,
        boots=boots,
        devices=_devices(folder / DEVICES) if (folder / DEVICES).exists() else (),
        gpu_scrapes=_scrapes(_rows(folder / GPU_METRICS, fields.SCRAPE)) if (folder / GPU_METRICS).exists() else (),
    )


def _scrapes(rows: list[dict[str, Any]]) -> tuple[Scrape, ...]:
    return tuple(Scrape(nanoseconds(row["t"]), row["body"]) for row in rows)


def _devices(path: Path) -> tuple[DeviceSamples, ...]:
    """The records of devices, in the order of their keys; every record once."""
    records: dict[RecordKey, DeviceSamples] = {}
    for number, row in enumerate(_rows(path, fields.RECORD), start=1):
        try:
            record = decode_device(msgspec.json.encode(row))
        except RecordError as error:
            raise RecordingError(f"{path}:{number}: {error}; {_FORMAT}") from error
        records[record.key] = record
    return tuple(records[key] for key in sorted(records))


def _boots(path: Path) -> tuple[tuple[dict[str, Any], ...], ...]:
    """The records of a probe by boot, each beginning with its start; every record once, in sequence by process."""
    boots: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for number, row in enumerate(_rows(path, fields.RECORD), start=1):
        try:
            decode_line(msgspec.json.encode(row))
        except RecordError as error:
            raise RecordingError(f"{path}:{number}: {error}; {_FORMAT}") from error
        boots.setdefault(row["boot"], {})[row["proc"], row["seq"]] = row
    result = []
    for name, records in boots.items():
        first = records.get((0, 0))
        if first is None or first["kind"] != "started":
            raise RecordingError(f"{path}: boot {name} has no record of its start; {_FORMAT}")
        result.append(tuple(records[key] for key in sorted(records)))
    return tuple(sorted(result, key=lambda boot: int(boot[0]["wall_ns"])))


def _rows(path: Path, lines_of: Decoder, first_line: Decoder | None = None) -> list[dict[str, Any]]:
    """The lines of a file, each checked for the fields that are read; ``first_line`` is of another type."""
    rows: list[dict[str, Any]] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                decoder = first_line if first_line is not None and number == 1 else lines_of
                rows.append(_row(f"{path}:{number}", line, decoder))
    except FileNotFoundError as error:
        raise RecordingError(f"{path}: missing; a recording needs it ({_FORMAT})") from error
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise RecordingError(
            f"{path}: truncated or not gzip after line {len(rows)} ({error}); copy the file again"
        ) from error
    if not rows:
        raise RecordingError(f"{path}: empty; a recording needs it ({_FORMAT})")
    return rows


def _row(where: str, line: str, decoder: Decoder) -> dict[str, Any]:
    try:
        decoder.decode(line)
        # once more, because only this parser keeps the decimals of times beyond what a double holds
        row: dict[str, Any] = json.loads(line, parse_float=Decimal)
    except msgspec.ValidationError as error:
        raise RecordingError(f"{where}: {wrong_field(error)}; {_FORMAT}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise RecordingError(f"{where}: not a JSON line ({error}); {_FORMAT}") from error
    return row
