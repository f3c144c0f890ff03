"""Spend that is not what a series usually spends at that hour: spikes, drops and level shifts, with their dollars.

Each hour is judged by what came before it alone, so an anomaly is found as soon as its first hour is complete, and a
longer history never takes one back. Expected is level x day of the week x hour of the day, in logarithms (of spend plus
a hundredth of the mean, so that an hour without spend has one). All of them are medians over four weeks: a day that was
odd does not teach that odd is usual, and one that comes again does. What is left over, the surprise, has a robust
spread (1.4826 x median absolute deviation, P. J. Huber, "Robust Statistics", Wiley 1981, section 5.1); an hour is odd
when it is beyond so many spreads, beyond a smallest factor, and beyond what one day in ten reaches anyhow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from farthing.books.usual import DAY, FIRST, FLOOR, WINDOW, Usual, learn
from farthing.domain.money import NANO

__all__ = ["Anomaly", "AnomalySettings", "Kind", "detect"]

Kind = Literal["spike", "drop", "level_shift"]

_WORTH = 0.05
"""Part of the mean hour that an odd hour's difference has to exceed."""
_GAP = 1
"""Ordinary hours within an anomaly that do not end it."""
_PACE, _FAST = 0.1, 0.3
"""Part of an ordinary hour's surprise that the next hours are expected to share; on days of a kind never seen."""
_UNSEEN = 1.5
_CALM = 2.5


@dataclass(frozen=True, slots=True)
class AnomalySettings:
    """When spend is odd enough to tell."""

    minimum_impact_nano: int = NANO
    """Nano-dollars that an anomaly has to be away from the expected, over all its hours."""
    spreads: float = 3.5
    """Robust standard deviations of the surprise beyond which an hour is odd."""
    smallest_factor: float = 2.0
    """Observed / expected (or the other way round) that is never odd below, however steady the series."""
    largest_factor: float = 2.5
    """The same that is always odd above, in a series so calm that this is at least 2.5 spreads."""
    level_shift_hours: int = 24
    """An anomaly that lasts so long is the new level; what follows is judged by that."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Adjoining hours of odd spend; amounts are sums over them."""

    kind: Kind
    start_hour: int
    """First odd hour, hours since the epoch."""
    end_hour: int | None
    """The hour after the last odd one, or after which the new level counts as usual; None while it goes on."""
    observed_nano: int
    expected_nano: int
    low_nano: int
    high_nano: int
    """What would have been ordinary."""
    impact_nano: int
    """Observed - expected: above 0 it cost more than usual."""


def detect(history: Sequence[int | None], *, start_hour: int, settings: AnomalySettings | None = None) -> list[Anomaly]:
    """Anomalies of a series of nano-dollars per UTC hour, in the order of their start; the last may still be open.

    ``start_hour`` counts hours since the epoch; None is an hour whose spend is unknown: it is not judged, does not end
    an anomaly and adds nothing to one. The first three days are only learnt from; until there are two weeks, days of
    the week are told apart as working days and weekends only, and a day of a kind never seen is judged with more
    caution, and only upwards. Two ordinary hours end an anomaly; one does not. An anomaly is told once its impact
    reaches the smallest that the settings ask for. Six weeks of history are enough.

    Raises ValueError when an amount is negative.
    """
    watch = _Watch(history, start_hour, settings or AnomalySettings())
    told = [run.told(watch.first_hour) for run in watch.runs()]
    return [anomaly for anomaly in told if abs(anomaly.impact_nano) >= watch.settings.minimum_impact_nano]


@dataclass(slots=True)
class _Run:
    """Odd hours so far; start and end are positions in the watch."""

    sign: int
    start: int
    end: int
    kind: Kind
    open: bool = True
    hours: int = 0
    observed: int = 0
    expected: int = 0
    low: int = 0
    high: int = 0

    def add(self, observed: int, expected: int, low: int, high: int) -> None:
        """One more hour, nano-dollars."""
        self.hours += 1
        self.observed += observed
        self.expected += expected
        self.low += low
        self.high += high

    def told(self, first_hour: int) -> Anomaly:
        """As an anomaly, whose hours count since the epoch."""
        end = None if self.open else first_hour + self.end
        impact = self.observed - self.expected
        return Anomaly(
            self.kind, first_hour + self.start, end, self.observed, self.expected, self.low, self.high, impact
        )


class _Watch:
    """One pass over a series."""

    def __init__(self, history: Sequence[int | None], start_hour: int, settings: AnomalySettings) -> None:
        known = [value for value in history if value is not None]
        if known and min(known) < 0:
            raise ValueError(f"spend of {min(known)} nano-dollars in an hour is negative; give spend before credits")
        self.history, self.settings = history, settings
        self.first_hour = start_hour // DAY * DAY
        self.offset = start_hour - self.first_hour
        rows = -(-(self.offset + len(history)) // DAY)
        self.spend, self.surprise = np.full((rows, DAY), np.nan), np.full((rows, DAY), np.nan)
        """Of all hours, and of the judged ones; a row a UTC day."""
        self.odd = np.zeros((rows, DAY), dtype=bool)
        self.usual: Usual | None = None
        self.drift = 0.0
        self.found: list[_Run] = []

    def runs(self) -> list[_Run]:
        """All runs of odd hours, whatever their impact."""
        for i, value in enumerate(self.history):
            at = self.offset + i
            if i >= FIRST and (self.usual is None or at % DAY == 0):
                self._learn(at)
            if value is not None:
                self.spend.reshape(-1)[at] = value
                if self.usual is not None:
                    self._judge(self.usual, at, value)
        return self.found

    def _judge(self, usual: Usual, at: int, value: int) -> None:
        middle = float(usual.log[at % DAY]) + self.drift
        surprise = math.log(value + usual.floor) - middle
        self.surprise.reshape(-1)[at] = surprise
        sign = 1 if surprise > 0 else -1
        threshold = self._threshold(usual, at % DAY, sign)
        run = self.found[-1] if self.found and self.found[-1].open else None
        goes_on = run is not None and run.sign == sign and abs(surprise) > threshold / 2
        away = abs(value - usual.nano(middle)) > _WORTH / FLOOR * usual.floor and (sign > 0 or usual.drops)
        if away and (goes_on or abs(surprise) > threshold):
            run = self._extend(run, sign, at)
            run.add(value, *(usual.nano(middle + step) for step in (0.0, -threshold, threshold)))
            if run.hours >= self.settings.level_shift_hours:
                self._shift(run, at)
            return
        if run is not None and at >= run.end + _GAP:
            run.open = False
        pace = _PACE if usual.caution < _UNSEEN else _FAST
        self.drift += pace * max(-threshold, min(threshold, surprise))

    def _threshold(self, usual: Usual, hour: int, sign: int) -> float:
        settings, spread = self.settings, float(usual.spread[hour])
        steady = usual.caution * max(settings.spreads * spread, math.log(settings.smallest_factor))
        most = math.log(settings.largest_factor)
        if usual.caution < _UNSEEN and _CALM * spread < most:
            steady = min(steady, most)
        return max(steady, usual.caution * usual.ordinary[sign > 0])

    def _extend(self, run: _Run | None, sign: int, at: int) -> _Run:
        """The run that this odd hour belongs to: the open one, or a new one."""
        if run is None or run.sign != sign:
            if run is not None:
                run.open = False
            run = _Run(sign, at, at, "spike" if sign > 0 else "drop")
            self.found.append(run)
        run.end = at + 1
        self.odd.reshape(-1)[at] = True
        return run

    def _shift(self, run: _Run, at: int) -> None:
        """Take the run's level for usual: the past is moved to it, which keeps its curves and spreads."""
        run.kind, run.open = "level_shift", False
        self.spend.reshape(-1)[: run.start] *= run.observed / max(1, run.expected)
        self.odd.reshape(-1)[run.start : run.end] = False
        self.surprise.reshape(-1)[run.start : run.end] = np.nan
        self._learn(at + 1)

    def _learn(self, at: int) -> None:
        """What is usual on the day of hour ``at``, and how far the last day was off it."""
        row = min(at // DAY, len(self.spend) - 1)
        first = max(0, row - WINDOW)
        rows = slice(first, row + 1)
        learnt = learn(self.spend[rows], self.surprise[rows], self.first_hour // DAY + first)
        self.usual, self.drift = None, 0.0
        if learnt is not None:
            self.usual, off = learnt
            off = np.where(self.odd[rows], np.nan, off).reshape(-1)[: at - first * DAY][-DAY:]
            for value in off[~np.isnan(off)].tolist():
                self.drift += _PACE * (max(-1.0, min(1.0, value)) - self.drift)
