"""A device's energy from its readings: the driver's counter, else power times time, else its part of its GPU's.

1. ``counter``: the difference of two readings of the driver's counter. Where it fell, the driver was loaded anew and
   the new value is what was used since. Where it fell or rose by more than the device can have used, power times
   time takes its place.
2. ``integrated``: the trapezoid of power, (p0 + p1) / 2 x (t1 - t0), over readings at most a minute apart.
3. ``share``: of a MIG slice, its GPU's energy times the slice's part of the GPU's compute slices, since no hardware
   measures a slice. What no slice has, and what the GPU draws beside its slices, is the GPU's alone.
"""

from __future__ import annotations

import re
from typing import Final

from farthing.domain.clock import SECOND
from farthing.domain.conventions import FAULT_ENERGY_WENT_BACK, FAULT_SENTINEL
from farthing.domain.gpu import COUNTER, ENERGY_SHARE, INTEGRATED, MIG, NO_ENERGY, GpuReading

__all__ = ["Meter", "drawn_mj", "slice_fraction"]

RANK: Final = (COUNTER, ENERGY_SHARE, INTEGRATED, NO_ENERGY)
MISSES: Final = 10
PATIENCE_NS: Final = 20 * SECOND
"""Readings without what a method needs, one after another, and how long since the first, before another takes over."""
WAIT_NS: Final = 10 * SECOND
"""How long a slice waits for its GPU's energy to rise, of which it is told a share: a counter is read within 8 s."""
GAP_SECONDS: Final = 60
"""Power is not known between two readings that are further apart."""
WATTS: Final = 3_000.0
"""What a device can draw, where it has no limit."""
SPIKES: Final = 2.0
"""Above the limit for moments: no counter rises faster."""
LAG_SECONDS: Final = 60.0
"""How much older than its reading a counter's value may be: exporters ask the driver every half a minute or so."""
HELD_NS: Final = 300 * SECOND
"""How long a counter that fell or jumped is shown as a fault, so that a slow scraper sees it."""
COMPUTE_SLICES: Final = 7
"""Of a GPU in MIG mode: A100, H100, H200, B200 (NVIDIA MIG User Guide, "Supported MIG profiles")."""
COMPUTE_SLICES_A30: Final = 4
PROFILE: Final = re.compile(r"(?:(?P<compute>\d+)c\.)?(?P<slices>\d+)g\.")
"""``1g.10gb``, or ``1c.3g.40gb``: one compute slice of an instance of three."""


def slice_fraction(reading: GpuReading, gpu: GpuReading) -> float | None:
    """Which part of ``gpu`` a MIG slice is, 0 to 1: of its compute slices by the profile, else of its memory.

    None where neither is known.
    """
    profile = PROFILE.search(reading.profile)
    if profile:
        slices = int(profile["compute"] or profile["slices"])
        return min(1.0, slices / (COMPUTE_SLICES_A30 if "A30" in gpu.name.split() else COMPUTE_SLICES))
    if reading.memory_total_bytes and gpu.memory_total_bytes:
        return min(1.0, reading.memory_total_bytes / gpu.memory_total_bytes)
    return None


def drawn_mj(last: GpuReading, reading: GpuReading) -> float | None:
    """Millijoules between two readings by the trapezoid of their power; None where one lacks it."""
    if last.power_watts is None or reading.power_watts is None:
        return None
    return (last.power_watts + reading.power_watts) / 2 * (reading.at_ns - last.at_ns) * 1_000 / SECOND


class Meter:
    """The energy of one device; ``add`` takes its readings in the order of their times.

    ``energy_mj`` begins with the counter's own value where there is one, else with 0, and falls with ``begin_anew``
    alone.
    """

    def __init__(self) -> None:
        self.method = NO_ENERGY
        self.used_mj = 0.0
        """Since the first reading, whatever the method."""
        self._base_mj = 0.0
        self._used_before_mj = 0.0
        self._last: GpuReading | None = None
        """The last that was counted."""
        self._before: GpuReading | None = None
        """The last of all."""
        self._passed_mj = 0.0
        """Between the two, by power times time."""
        self._last_gpu_mj: float | None = None
        self._counter: int | None = None
        self._moved_ns = 0
        """When the counter's value was first seen."""
        self._misses = 0
        self._missed_ns = 0
        """When the first of them was."""
        self._strange_ns: dict[str, int] = {}

    @property
    def energy_mj(self) -> int:
        """Millijoules by the present method, as the books take them; 0 where it is none."""
        return 0 if self.method == NO_ENERGY else round(self._base_mj + self.used_mj - self._used_before_mj)

    def faults(self, at_ns: int) -> frozenset[str]:
        """What the counter showed lately that cannot be."""
        return frozenset(fault for fault, since in self._strange_ns.items() if at_ns - since < HELD_NS)

    def begin_anew(self, reading: GpuReading) -> None:
        """Let ``energy_mj`` be the counter's own value again; what was used so far stays."""
        self._base_mj, self._used_before_mj = float(reading.energy_mj or 0), self.used_mj

    def add(self, reading: GpuReading, gpu: GpuReading | None = None, gpu_mj: float | None = None) -> bool:
        """Count the energy up to a reading; False when the reading lacks what the method needs, as happens once in a
        while: the next one makes up for it.

        ``gpu`` and ``gpu_mj`` are of the GPU that a slice is part of: its reading, and what it used so far.
        """
        method, last, before = self._method_of(reading, gpu, gpu_mj), self._last, self._before
        self._before = reading
        if before is not None:
            self._passed_mj += self._trapezoid(before, reading)
        if last is not None and self._awaits(method, reading.at_ns, last.at_ns, gpu_mj):
            return False
        self._misses = 0
        if method != self.method:
            self._change(method, reading, gpu_mj)
        else:
            self.used_mj += self._used(reading, gpu, gpu_mj)
        self._last, self._last_gpu_mj, self._passed_mj = reading, gpu_mj, 0.0
        if reading.energy_mj is not None and reading.energy_mj != self._counter:
            self._counter, self._moved_ns = reading.energy_mj, reading.at_ns
        return True

    def of_another_gpu(self) -> None:
        """A slice's GPU is counted by somebody else from now on, from another beginning."""
        self._last_gpu_mj = None

    def _awaits(self, method: str, at_ns: int, last_ns: int, gpu_mj: float | None) -> bool:
        """Whether the next reading may tell what this one, by ``method``, does not."""
        if method == self.method:
            return method == ENERGY_SHARE and gpu_mj == self._last_gpu_mj and 0 <= at_ns - last_ns < WAIT_NS
        if RANK.index(method) < RANK.index(self.method):
            return False
        self._missed_ns = self._missed_ns if self._misses else at_ns
        self._misses += 1
        return self._misses < MISSES and at_ns - self._missed_ns < PATIENCE_NS

    @staticmethod
    def _method_of(reading: GpuReading, gpu: GpuReading | None, gpu_mj: float | None) -> str:
        if reading.energy_mj is not None:
            return COUNTER
        if reading.kind == MIG:
            known = gpu is not None and gpu_mj is not None and slice_fraction(reading, gpu) is not None
            return ENERGY_SHARE if known else NO_ENERGY
        return NO_ENERGY if reading.power_watts is None else INTEGRATED

    def _change(self, method: str, reading: GpuReading, gpu_mj: float | None) -> None:
        """Begin by another method; what passed since the last reading is counted as far as it is known."""
        passed_mj = max(0.0, self._passed_mj)  # where a clock went back between, less than nothing
        if method == COUNTER:
            self.used_mj += passed_mj
        self._base_mj = float(reading.energy_mj or 0) if method == COUNTER else 0.0
        self._used_before_mj = self.used_mj
        if method == INTEGRATED:
            self.used_mj += passed_mj
        self.method = method

    def _used(self, reading: GpuReading, gpu: GpuReading | None, gpu_mj: float | None) -> float:
        if self._last is None:
            return 0.0
        if self.method == COUNTER:
            return self._counted(reading, self._last)
        if self.method == ENERGY_SHARE:
            fraction = slice_fraction(reading, gpu) if gpu is not None else None
            if fraction is None or gpu_mj is None or self._last_gpu_mj is None:
                return 0.0
            return max(0.0, gpu_mj - self._last_gpu_mj) * fraction
        return self._trapezoid(self._last, reading) if self.method == INTEGRATED else 0.0

    def _counted(self, reading: GpuReading, last: GpuReading) -> float:
        if reading.energy_mj is None or self._counter is None:
            return 0.0
        used = reading.energy_mj - self._counter
        if used < 0:
            self._strange_ns[FAULT_ENERGY_WENT_BACK] = reading.at_ns
            used = reading.energy_mj
        seconds = (reading.at_ns - self._moved_ns) / SECOND + LAG_SECONDS
        if used <= 1_000 * seconds * SPIKES * (reading.power_limit_watts or WATTS):
            return float(used)
        if reading.energy_mj > self._counter:
            self._strange_ns[FAULT_SENTINEL] = reading.at_ns
        return self._trapezoid(last, reading)

    @staticmethod
    def _trapezoid(last: GpuReading, reading: GpuReading) -> float:
        """Millijoules between two readings; 0 where power is not known."""
        return 0.0 if reading.at_ns - last.at_ns > GAP_SECONDS * SECOND else drawn_mj(last, reading) or 0.0
