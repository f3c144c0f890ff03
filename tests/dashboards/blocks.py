"""Samples as blocks of a Prometheus: OpenMetrics text by hours, and promtool, as many at once as there are cores."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.alerts.real_parts import program
from tests.dashboards.laps import Floats

__all__ = ["BlockWriter", "make_blocks", "run_promtool"]

BLOCK_SECONDS = 7_200
"""What promtool puts into one block: hours of UTC, two by two."""


class BlockWriter:
    """Takes series and makes blocks of them in a data folder; a file for each block, so that promtool reads it once."""

    def __init__(self, folder: Path, data: Path, times: Floats) -> None:
        self._data = data
        self.times = times
        self._texts = [str(int(at)) for at in times]
        numbers = (times // BLOCK_SECONDS).astype(int)
        self._spans = [(int(n), np.flatnonzero(numbers == n)) for n in np.unique(numbers)]
        data.mkdir(parents=True, exist_ok=True)
        self._files = {
            number: (folder / f"samples-{number}-{int(times[0])}.txt").open("w") for number, _ in self._spans
        }
        self.samples = 0

    def add(self, series: str, values: Floats) -> None:
        """A series' values at all times; NaN: it is absent there."""
        written = values.tolist()
        for number, span in self._spans:
            lines = [
                f"{series} {value!r} {self._texts[i]}\n"
                for i in range(span[0], span[-1] + 1)
                if (value := written[i]) == value
            ]
            self._files[number].writelines(lines)
            self.samples += len(lines)

    def make(self) -> int:
        """Make the blocks; returns how many samples went into them."""
        for file in self._files.values():
            file.write("# EOF\n")
            file.close()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._make, [Path(file.name) for file in self._files.values()]))
        return self.samples

    def _make(self, file: Path) -> None:
        run_promtool("tsdb", "create-blocks-from", "openmetrics", str(file), str(self._data))
        file.unlink()


def make_blocks(folder: Path, data: Path, lines: Iterable[str]) -> None:
    """Blocks of a few lines of OpenMetrics."""
    file = folder / "lines.txt"
    with file.open("w") as output:
        output.writelines(lines)
        output.write("# EOF\n")
    run_promtool("tsdb", "create-blocks-from", "openmetrics", str(file), str(data))


def run_promtool(*arguments: str) -> None:
    """Fails with what promtool said."""
    made = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-2_000:] + made.stderr[-2_000:]
