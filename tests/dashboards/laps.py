"""Recorded series as laps that follow one another for hours: counters go on from lap to lap, gauges begin anew."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = ["CUMULATIVE", "Floats", "Lap", "Series", "labels_of", "read_exposition", "series_text"]

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and sorted labels."""
Floats = npt.NDArray[np.float64]
CUMULATIVE = ("_total", "_bucket", "_count", "_sum")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Lap:
    """One pass through a recording: what each series was at each moment, NaN where it was absent.

    A ``carried`` lap is one of books, which begin empty: its counters gain what they come to, and a gauge that is
    absent at first is, from the second lap on, what it was at the end of the one before. ``anew``: each lap is a
    process of its own, whose counters begin again.
    """

    seconds: float
    moments: Floats
    """Seconds since the lap's start, ascending; the last may lie at its end, or after it."""
    values: Mapping[Series, Floats]
    carried: bool = False
    anew: bool = False
    gone: Floats = field(default_factory=lambda: np.empty(0))
    """1.0 at moments at which nothing answered; empty: always something did."""

    def only(self, names: Collection[str]) -> Lap:
        """The same of some metrics."""
        return replace(self, values={series: found for series, found in self.values.items() if series[0] in names})

    def at(self, offsets: Floats) -> dict[Series, Floats]:
        """The series at so many seconds since the first lap's start, NaN where absent."""
        laps, positions = np.divmod(offsets, self.seconds)
        index = np.searchsorted(self.moments, positions + 1e-6, side="right") - 1
        before = index < 0
        index = np.maximum(index, 0)
        absent = before | (self.gone[index] > 0 if self.gone.size else np.zeros(index.size, bool))
        return {series: self._of(series, recorded, index, laps, absent) for series, recorded in self.values.items()}

    def _of(
        self, series: Series, recorded: Floats, index: npt.NDArray[np.intp], laps: Floats, absent: object
    ) -> Floats:
        found = recorded[index]
        later = laps > 0
        if series[0].endswith(CUMULATIVE) and not self.anew:
            first = 0.0 if self.carried or math.isnan(recorded[0]) else float(recorded[0])
            found = np.where(later & np.isnan(found), 0.0, found) + laps * (_last(recorded) - first)
            # the last digits of sums of floats must not look like a process that began anew
            known = ~np.isnan(found)
            found[known] = np.maximum.accumulate(found[known])
        elif self.carried:
            found = np.where(later & np.isnan(found), recorded[-1], found)
        return np.where(absent, np.nan, found)  # type: ignore[call-overload, no-any-return]


def _last(recorded: Floats) -> float:
    known = recorded[~np.isnan(recorded)]
    return float(known[-1]) if known.size else math.nan


def lap_of(
    seconds: float,
    pictures: Iterable[tuple[float, Mapping[Series, float]]],
    *,
    carried: bool = False,
    anew: bool = False,
) -> Lap:
    """A lap of pictures: (seconds since its start, values); an empty picture is a scrape that failed."""
    taken = list(pictures)
    moments = np.array([at for at, _ in taken])
    values: dict[Series, Floats] = {}
    for row, (_, picture) in enumerate(taken):
        for series, value in picture.items():
            if series not in values:
                values[series] = np.full(len(taken), np.nan)
            values[series][row] = value
    gone = np.array([0.0 if picture else 1.0 for _, picture in taken])
    return Lap(seconds, moments, values, carried=carried, anew=anew, gone=gone if gone.any() else np.empty(0))


def read_exposition(text: str, wanted: frozenset[str] | None = None) -> dict[Series, float]:
    """The samples of a text exposition, of the ``wanted`` names; empty labels are none, creation times are left out."""
    found: dict[Series, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        name, _, labels = series.partition("{")
        if name.endswith("_created") or (wanted is not None and name not in wanted):
            continue
        found[name, labels_of(labels)] = float(value)
    return found


def labels_of(text: str) -> tuple[tuple[str, str], ...]:
    """Labels between an exposition's braces, sorted; values stay escaped, as they are written again."""
    return tuple(sorted((name, value) for name, value in _LABEL.findall(text) if value))


def series_text(series: Series, changes: Mapping[str, str]) -> str:
    """A series as an exposition names it, with some of its labels changed or added."""
    labels = {**dict(series[1]), **changes}
    inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if value)
    return f"{series[0]}{{{inside}}}"


def added(parts: Sequence[Floats]) -> Floats:
    """The sum of series where at least one is known; NaN elsewhere."""
    stacked = np.vstack(parts)
    total = np.nansum(stacked, axis=0)
    return np.where(np.isnan(stacked).all(axis=0), np.nan, total)
