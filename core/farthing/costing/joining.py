"""Energy joined to windows whose money is settled: it waits for devices' samples, and money never waits for it.

Costing decides what each window costs when its requests are known and its fit is ready. Its energy is split by a fit
of its own, which sees the windows that the money's fit saw; so equal samples give equal energy, in whatever order they
came, as long as they come within the grace period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from farthing.costing.energy import ENERGY_DEFAULTS, ENERGY_FEATURES, ENERGY_RIDGE_JOULES, EnergyTrack
from farthing.costing.energy_readers import GAP_NS
from farthing.costing.fit import ENCODER_TOKENS, FEATURES, FitHistory
from farthing.costing.late import LateBook
from farthing.costing.settle import Energy, Settlement, WindowTime, with_energy
from farthing.costing.timing import Span
from farthing.costing.work import WindowWork
from farthing.domain.clock import SECOND
from farthing.domain.conventions import UNKNOWN
from farthing.domain.gpu import COUNTER
from farthing.domain.model import Adjustment, Fit, SettledWindow
from farthing.domain.records import Started

__all__ = ["Decided", "EnergyJoin", "Measured", "Moment"]


class Measured(NamedTuple):
    """A window whose requests are all known, or given up: what it waits for is the fit."""

    span: Span
    time: WindowTime
    work: WindowWork


class Decided(NamedTuple):
    """A window whose money is settled."""

    measured: Measured
    settlement: Settlement
    bill_nano: int
    fit: Fit


class Moment(NamedTuple):
    """How far a boot is known, on its monotonic clock."""

    watermark_ns: int
    measured_ns: int
    """Up to where the windows of every index are measured."""
    ended: bool


@dataclass(slots=True)
class _Index:
    """One engine index: its windows that wait for energy."""

    joules: FitHistory
    late: LateBook
    waiting: deque[tuple[Decided, int] | Adjustment] = field(default_factory=deque)
    """Windows that are settled but for their energy, with how many windows' energy their split goes by; and what late
    records moved in them."""
    unmetered: deque[Measured] = field(default_factory=deque)
    measured: int = 0
    metered: int = 0
    """Windows of those whose energy is known, or given up."""
    energies: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Millijoules of windows that are not joined yet, by their start, and whether counters tell all of them; a missing
    one is unknown."""
    used_mj: int | None = None
    """The devices' cumulative energy up to where windows were given theirs."""
    metered_ns: int | None = None
    """Up to where that is."""


class EnergyJoin:
    """Takes windows as they are measured and decided, and gives them back with their energy, in order.

    ``track`` knows the energy; ``lates`` are the late books of the engine's indices.
    """

    def __init__(
        self, started: Started, track: EnergyTrack, lates: Iterable[LateBook], horizon: int, grace_ns: int
    ) -> None:
        self._started = started
        self._track = track
        self._grace_ns = grace_ns
        self._indices = [_Index(_joules(horizon), late) for late in lates]

    @property
    def waits(self) -> bool:
        """Whether windows are settled but for their energy."""
        return any(index.waiting for index in self._indices)

    def waiting(self, number: int) -> list[Decided]:
        """The windows of an index that wait."""
        return [one[0] for one in self._indices[number].waiting if not isinstance(one, Adjustment)]

    def sizes(self) -> list[int]:
        """How many entries wait, by index."""
        return [len(index.waiting) for index in self._indices]

    def forget_after(self, sizes: list[int]) -> None:
        """Take back what was decided since ``sizes``: it has come to a time without a price."""
        for index, size in zip(self._indices, sizes, strict=True):
            while len(index.waiting) > size:
                index.waiting.pop()

    def release(self, device: str) -> None:
        """A device turns out not to be the boot's: no window that waits is given any of its energy."""
        done = [index.metered_ns for index in self._indices if index.metered_ns is not None]
        self._track.release(device, max(done, default=None))

    def measured(self, number: int, measured: Measured) -> None:
        """A window was measured: its energy is asked for."""
        self._indices[number].unmetered.append(measured)
        self._indices[number].measured += 1

    def decided(self, number: int, decided: Decided) -> SettledWindow:
        """A window's money is settled; returns it without energy."""
        index = self._indices[number]
        index.waiting.append((decided, index.measured))
        return self._window(number, decided, None, None)

    def adjusted(self, number: int, adjustments: Iterable[Adjustment]) -> list[Adjustment]:
        """Let what late records moved follow the windows that it was moved in; returns what has none to follow."""
        index = self._indices[number]
        starts = {decided.measured.span.start for decided in self.waiting(number)}
        free = []
        for adjustment in adjustments:
            if adjustment.start_ns in starts:
                index.waiting.append(adjustment)
            else:
                free.append(adjustment)
        return free

    def join(self, now: Moment, *, wait: bool = True) -> tuple[list[SettledWindow], list[Adjustment]]:
        """What does not wait any longer, in order; all of it, unless ``wait``."""
        windows: list[SettledWindow] = []
        adjustments: list[Adjustment] = []
        for number, index in enumerate(self._indices):
            while index.waiting:
                head = index.waiting[0]
                if isinstance(head, Adjustment):
                    adjustments.append(head)
                elif self._meter(number, index, head[1], now, wait=wait):
                    windows.append(self._joined(number, index, head[0]))
                else:
                    break
                index.waiting.popleft()
        if self._track.known:
            needed = (index.unmetered[0].span.start for index in self._indices if index.unmetered)
            self._track.drop_before(min([now.measured_ns, *needed]))
        return windows, adjustments

    # ---- inside --------------------------------------------------------------------------------------

    def _meter(self, number: int, index: _Index, count: int, now: Moment, *, wait: bool) -> bool:
        """Whether the energy of so many windows is known or given up; what is, is added to the fit."""
        while index.metered < count and (not wait or self._is_told(index.unmetered[0].span, now)):
            span, time, work = index.unmetered.popleft()
            index.metered += 1
            if not self._track.tells(span.start, span.end, _until(now)):
                index.used_mj = None
                continue
            millijoules = self._used(number, index, span)
            index.metered_ns = span.end
            index.energies[span.start] = millijoules, self._track.method_between(span.start, span.end) == COUNTER
            row = [*(work.features[name] for name in FEATURES), sum(time.other_ns.values()) / SECOND]
            index.joules.add(np.array([row]), np.array([millijoules / 1_000]))
        return index.metered >= count

    def _is_told(self, span: Span, now: Moment) -> bool:
        """Whether nothing is waited for that could still tell a window's energy.

        Devices that report beside the boot's records are waited for until the watermark is a grace period past what
        is known of them: books do not wait for a collector that has died.
        """
        track, until_ns = self._track, _until(now)
        if not (track.known or track.awaited):
            return True
        own = track.own_through_ns(until_ns)
        if own is not None:
            if own >= span.end or (now.ended and not track.awaited):
                return True
            if not now.ended and now.watermark_ns <= max(own, self._started.at_ns) + self._grace_ns:
                return False
        through = track.through_ns(until_ns) if track.awaited else own or 0
        return through >= span.end or now.watermark_ns > max(through, self._started.at_ns) + self._grace_ns

    def _used(self, number: int, index: _Index, span: Span) -> int:
        """A window's millijoules: never below 0, and with its neighbours' never more than the devices used."""
        start = self._track.cumulative(span.start)
        before = start if index.used_mj is None else max(start, index.used_mj)
        until = index.used_mj = max(before, self._track.cumulative(span.end))
        # equal shares that add up over indices, as of money: Hermite's identity
        count = len(self._indices)
        return (until + number) // count - (before + number) // count

    def _joined(self, number: int, index: _Index, decided: Decided) -> SettledWindow:
        (span, time, work), settlement, _, money = decided
        millijoules, metered = index.energies.pop(span.start, (None, False))
        if millijoules is None:
            return self._window(number, decided, None, None)
        fit = index.joules.current()
        energy = Energy(millijoules, fit, metered)
        model = self._started.model or UNKNOWN
        split = with_energy(settlement, time, work, energy=energy, fit=money, model=model)
        window = self._window(number, decided._replace(settlement=split), millijoules, fit)
        index.late.add_energy(window)
        return window

    def _window(self, number: int, decided: Decided, energy_mj: int | None, energy_fit: Fit | None) -> SettledWindow:
        (span, time, work), result, bill_nano, fit = decided
        tokens = {
            "prompt_computed": int(work.totals["prompt_computed"]),
            "prompt_cached": int(work.totals["prompt_cached"]),
            "engine_output": int(work.totals["generated"]),
            "encoder": int(work.features[ENCODER_TOKENS]),
        }
        return SettledWindow(
            self._started.key.boot,
            number,
            span.start,
            span.end,
            bill_nano,
            time.busy_ns,
            result.phase_ns,
            work.features,
            tokens,
            result.postings,
            result.requests,
            fit.version,
            fit,
            energy_mj,
            energy_fit,
            result.saved,
        )


def _until(now: Moment) -> int:
    """Up to when samples are of now, on the boot's clock: one that is later and alone is of a clock that is ahead."""
    return now.watermark_ns + (GAP_NS if now.ended else 0)


def _joules(horizon: int) -> FitHistory:
    return FitHistory(
        horizon, features=ENERGY_FEATURES, defaults=ENERGY_DEFAULTS, ridge=ENERGY_RIDGE_JOULES, name="energy-nnls"
    )
