"""Seconds of ``farthing --help``, beside those of an empty Python and of importing typer alone.

Exit status 1 when the median is 0.4 s or more.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 15
LIMIT_SECONDS = 0.4
PROGRAMS: dict[str, Sequence[str | Path]] = {
    "farthing --help": [Path(sys.executable).parent / "farthing", "--help"],
    "python -c 'import typer'": [sys.executable, "-c", "import typer"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def seconds(arguments: Sequence[str | Path]) -> list[float]:
    """Wall seconds of each round, the first left out: it fills the file cache."""
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return taken[1:]


def main() -> int:
    """Print the table; 1 when the limit is missed."""
    medians = {}
    print(f"{'program':<28}{'median s':>10}{'fastest s':>11}{'slowest s':>11}")
    for name, arguments in PROGRAMS.items():
        taken = seconds(arguments)
        medians[name] = statistics.median(taken)
        print(f"{name:<28}{medians[name]:>10.3f}{min(taken):>11.3f}{max(taken):>11.3f}")
    kept = medians["farthing --help"] < LIMIT_SECONDS
    print(f"limit {LIMIT_SECONDS:g} s: {'kept' if kept else 'MISSED'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
