"""Reads what a run of ``h100.py`` brought back."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Row", "Sampled", "phases_of", "sampled"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one sampling process wrote."""

    readings: tuple[Row, ...]
    """Known fields of GpuReading, in order."""
    records: tuple[Row, ...]
    """Records of kind ``device``, as the wire has them."""
    scrapes: tuple[Row, ...]
    """Expositions of ``farthing_gpu_`` series: seconds since the epoch, and the text."""
    cost: Row
    """Fields of ``sampling.Cost``."""


def sampled(path: Path) -> Sampled:
    """The file of a sampling process; ValueError when it says no cost."""
    found: dict[str, list[Row]] = {"reading": [], "device": [], "scrape": [], "cost": []}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            ((kind, row),) = json.loads(line).items()
            found[kind].append(row)
    if len(found["cost"]) != 1:
        raise ValueError(f"{path}: no line with the cost; the process that wrote it did not end by itself")
    return Sampled(tuple(found["reading"]), tuple(found["device"]), tuple(found["scrape"]), found["cost"][0])


def phases_of(path: Path) -> list[tuple[str, int]]:
    """(phase, UTC nanoseconds of its begin) from phases.txt, in order."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        _, name, at = line.split()
        whole, _, part = at.partition(".")
        found.append((name, int(whole) * 1_000_000_000 + int(part.ljust(9, "0")[:9])))
    return found
