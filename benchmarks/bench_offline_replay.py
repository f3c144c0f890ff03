"""Seconds of an offline replay of each packaged recording, as a command and in process, beside plain JSON parsing.

The baseline is ``json.loads`` of every line of the same files, measured in the same run, so that the ratio says
something on any machine. Exit status 1 when a command takes 10 s or longer.
"""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from farthing.replay.offline import cost_recording, to_json
from farthing.replay.recording import PACKAGED, load_recording, packaged_names
from farthing.service.server import price_book
from farthing.settings import Settings

ROUNDS = 5
LIMIT_SECONDS = 10.0
FILES = ("steps", "requests", "metrics", "nvml")
FARTHING = Path(sys.executable).parent / "farthing"


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median wall seconds of some rounds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def parse(name: str) -> int:
    """How many lines the recording has; each is parsed."""
    count = 0
    for file in FILES:
        with gzip.open(PACKAGED / name / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
            count += sum(1 for line in lines if json.loads(line))
    return count


def cost(name: str) -> None:
    """Load, cost and render one recording."""
    to_json(cost_recording(load_recording(name), Settings(), price_book(Settings())))


def command(name: str, folder: str) -> None:
    """The same as a command of its own, start of the interpreter and imports included."""
    arguments: list[str | Path] = [FARTHING, "replay", name, "--offline", "--output", "json"]
    subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Print the table; 1 when a limit is missed."""
    slowest = 0.0
    print(f"{'recording':<26}{'lines':>8}{'command s':>11}{'in process s':>14}{'json.loads s':>14}{'ratio':>7}")
    with TemporaryDirectory() as folder:
        for name in packaged_names():
            whole = seconds(lambda name=name: command(name, folder), rounds=3)  # type: ignore[misc]
            inner = seconds(lambda name=name: cost(name))  # type: ignore[misc]
            baseline = seconds(lambda name=name: parse(name))  # type: ignore[misc]
            slowest = max(slowest, whole)
            print(f"{name:<26}{parse(name):>8}{whole:>11.2f}{inner:>14.2f}{baseline:>14.2f}{inner / baseline:>7.1f}")
    print(f"limit {LIMIT_SECONDS:g} s a command: {'kept' if slowest < LIMIT_SECONDS else 'MISSED'}")
    return 0 if slowest < LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
