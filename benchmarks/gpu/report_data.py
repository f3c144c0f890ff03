"""Reads what a run of ``h100.py`` brought back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

__all__ = ["Row", "phases_of", "readings_of"]

Row = dict[str, Any]


def readings_of(path: Path) -> tuple[list[Row], Row]:
    """The readings of a sampling process in order, and its cost; ValueError when the file says no cost."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if not rows or "cost" not in rows[-1]:
        raise ValueError(f"{path}: its last line is no cost; the process that wrote it did not end by itself")
    return [row["reading"] for row in rows[:-1]], rows[-1]["cost"]


def phases_of(path: Path) -> list[tuple[str, int]]:
    """(phase, UTC nanoseconds of its begin) from phases.txt, in order."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        _, name, at = line.split()
        whole, _, part = at.partition(".")
        found.append((name, int(whole) * 1_000_000_000 + int(part.ljust(9, "0")[:9])))
    return found
