"""One device as one source reads it: its last reading, its energy, and what of it the inbox has not got yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Final

from farthing.collectors.gpu.faults import StuckUtilization, believed
from farthing.collectors.gpu.metering import Meter, drawn_mj
from farthing.domain.clock import SECOND
from farthing.domain.conventions import DEVICE_BOOT
from farthing.domain.devices import DeviceView
from farthing.domain.gpu import COUNTER, INTEGRATED, NO_ENERGY, DeviceSamples, GpuReading
from farthing.domain.records import RecordKey

__all__ = ["Track"]

RESUMED_SECONDS: Final = 600
"""After a longer silence of its source, or a clock that was set, a device is read anew."""
BACK_SECONDS: Final = 60
"""A clock that was set back by less is waited for."""
ANEW_SECONDS: Final = 60
"""How long a series lasts at least that ends because the driver's counter fell or jumped: a broken one always does."""
APART_NS: Final = 1_500_000_000
"""How far apart energy is told at least, where the counter is read more seldom than the power."""


class Track:
    """Takes a device's readings; hands out its samples as records of one boot, until its energy's method changes."""

    def __init__(self, stuck_seconds: float) -> None:
        self._stuck = StuckUtilization(stuck_seconds)
        self._meter = Meter()
        self._boot = ""
        self._sequence = 0
        self._at_ns: list[int] = []
        self._energy_mj: list[int] = []
        self._began_ns = 0
        """When the series began that the inbox gets."""
        self._told_ns = 0
        """The last moment that the inbox gets."""
        self._told_mj = 0
        self._since: list[GpuReading] = []
        """The reading of that moment, and those after it whose energy was not counted."""
        self._placed_ns = 0
        """Since when it is where it is."""
        self._gpu: Track | None = None
        """Of the GPU that it is part of, when its energy was looked at last."""
        self.reading: GpuReading | None = None
        self.pending: list[DeviceSamples] = []
        """Records that are complete."""
        self.shown: tuple[float, float] | None = None
        """What it had counted, and what was shown in all, when it was shown last."""

    @property
    def method(self) -> str:
        """Of ENERGY_METHODS, the present one."""
        return self._meter.method

    @property
    def counted_mj(self) -> float:
        """Millijoules since its first reading, as far as they are known."""
        return self._meter.used_mj

    @property
    def used_mj(self) -> float | None:
        """Millijoules since its first reading; None where none are known."""
        return None if self._meter.method == NO_ENERGY else self._meter.used_mj

    def add(self, reading: GpuReading, gpu: Track | None = None) -> bool:
        """Take one reading; ``gpu`` is the track of the GPU that a MIG slice is part of. False when its energy is not
        counted up to this reading: a later one makes up for it.
        """
        reading = self._stuck.look(believed(reading))
        late = reading.at_ns - self._told_ns
        if self._boot and (late > RESUMED_SECONDS * SECOND or late < -BACK_SECONDS * SECOND):
            self.finish()
            used = self._meter.used_mj
            self._meter, self._boot = Meter(), ""
            self._meter.used_mj = used
        before = self.reading
        if self._boot and before is not None and _placed(before) != _placed(reading):
            self.finish()
            self._placed_ns = reading.at_ns
        counted = (not self._boot or late > 0) and self._meter_it(reading, gpu)
        self.reading = replace(reading, faults=reading.faults | self._meter.faults(reading.at_ns))
        return counted

    def _meter_it(self, reading: GpuReading, gpu: Track | None) -> bool:
        if gpu is not self._gpu:
            self._gpu = gpu
            self._meter.of_another_gpu()
        method, told_ns = self._meter.method, self._told_ns
        counted = self._meter.add(
            reading, gpu.reading if gpu is not None else None, gpu.used_mj if gpu is not None else None
        )
        self._since.append(reading)
        if not counted:
            return False
        if self._boot and self._meter.method != method:
            self._close(method)
            self._boot = ""
        if not self._boot:
            follows = method != NO_ENERGY and self._meter.method == INTEGRATED
            # a moment later than the other method's last: one moment has one energy
            began = told_ns + 1 if follows else reading.at_ns
            self._begin(reading, began)
            if follows:
                self._tell(began, 0)
        elif method == COUNTER:
            self._tell_between()
        self._tell(reading.at_ns, self._meter.energy_mj)
        self._since = [reading]
        anew = self._meter.method == COUNTER and self._meter.energy_mj != reading.energy_mj
        if anew and reading.at_ns - self._began_ns >= ANEW_SECONDS * SECOND:
            # so that whoever reads the device next, and knows the driver's counter alone, goes on with this one
            self._close(COUNTER)
            self._meter.begin_anew(reading)
            self._begin(reading, reading.at_ns + 1)
            self._tell(self._began_ns, self._meter.energy_mj)
        return True

    def _begin(self, reading: GpuReading, began_ns: int) -> None:
        self._boot, self._sequence, self._began_ns = f"{DEVICE_BOOT}{reading.uuid}/{began_ns}", 0, began_ns

    def _tell(self, at_ns: int, energy_mj: int) -> None:
        self._at_ns.append(at_ns)
        self._energy_mj.append(energy_mj)
        self._told_ns, self._told_mj = at_ns, energy_mj

    def _tell_between(self) -> None:
        """Tell when within its last step the counter rose: by the trapezoids of the power that was read meanwhile."""
        told_mj, rose_mj = self._told_mj, self._meter.energy_mj - self._told_mj
        *passed, last = self._since
        parts = _parts(self._since)
        if rose_mj <= 0 or parts is None:
            return
        for one, part in zip(passed, parts, strict=False):
            apart_ns = min(one.at_ns - self._told_ns, last.at_ns - one.at_ns)
            # what was read elsewhere is not told as read here
            if apart_ns >= APART_NS and one.at_ns >= self._placed_ns:
                self._tell(one.at_ns, told_mj + int(rose_mj * part))

    def due(self, batch_seconds: float) -> bool:
        """Whether a record's worth of samples has come together."""
        return bool(self._at_ns) and self._at_ns[-1] - self._at_ns[0] >= batch_seconds * SECOND

    def finish(self) -> None:
        """Make a record of what there is, if there is anything."""
        self._close(self._meter.method)

    def view(self, parts: tuple[tuple[str, int], ...] = ()) -> DeviceView | None:
        """What is shown of it, with the energy of all who read its device; None before its first reading."""
        if self.reading is None:
            return None
        if self.method == NO_ENERGY:
            return DeviceView(self.reading, NO_ENERGY)
        return DeviceView(self.reading, self.method, sum(mj for _, mj in parts), parts)

    def _close(self, method: str) -> None:
        """Close the record; its device is described as it was last read."""
        reading = self.reading
        if reading is None or not self._at_ns:
            return
        self.pending.append(
            DeviceSamples(
                key=RecordKey(self._boot, 0, self._sequence),
                uuid=reading.uuid,
                name=reading.name,
                host=reading.host,
                index=-1 if reading.index is None else reading.index,
                source=reading.source,
                method=method,
                at_ns=tuple(self._at_ns),
                energy_mj=tuple(self._energy_mj),
                parent=reading.parent,
                profile=reading.profile,
                pod=reading.pod,
                kind=reading.kind,
            )
        )
        self._sequence += 1
        self._at_ns.clear()
        self._energy_mj.clear()


def _parts(readings: Sequence[GpuReading]) -> list[float] | None:
    """Of the energy from the first reading to the last, by power times time: the part up to each, 0 to 1.

    None where a reading lacks power, a clock went back, or nothing was drawn.
    """
    steps: list[float] = []
    for one, other in pairwise(readings):
        drawn = drawn_mj(one, other)
        if drawn is None or other.at_ns <= one.at_ns:
            return None
        steps.append(drawn)
    whole = sum(steps)
    return [step / whole for step in accumulate(steps, initial=0.0)] if whole > 0 else None


def _placed(reading: GpuReading) -> tuple[object, ...]:
    """What one record says once."""
    return reading.name, reading.host, reading.index, reading.source, reading.parent, reading.profile, reading.pod
