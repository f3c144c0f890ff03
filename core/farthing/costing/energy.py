"""Energy of a boot's devices, as one cumulative integer function, so that windows add up exactly."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction

from farthing.costing import fit as f
from farthing.domain.clock import SECOND
from farthing.domain.gpu import COUNTER, ENERGY_METHODS, NO_ENERGY
from farthing.domain.records import GpuSamples

__all__ = ["ENERGY_DEFAULTS", "ENERGY_FEATURES", "ENERGY_RIDGE_JOULES", "IDLE_SECONDS", "EnergyTrack", "Readings"]

IDLE_SECONDS = "idle_seconds"
ENERGY_FEATURES = (*f.FEATURES, IDLE_SECONDS)

ENERGY_DEFAULTS = {
    # joules per unit: the default seconds of fit.py at the power an H100 draws in that kind of work
    # (about 350 W reading weights, 650 W computing prompts, 450 W attending), and 120 W awake without work
    f.STEPS: 2.1,
    f.PREFILL_TOKENS: 1.0e-2,
    f.PREFILL_CONTEXT: 7e-7,
    f.DECODE_TOKENS: 8e-3,
    f.ATTENDED: 1.75e-5,
    f.ENCODER_STEPS: 1.2,
    f.ENCODER_TOKENS: 9e-3,
    IDLE_SECONDS: 120.0,
}
ENERGY_RIDGE_JOULES = 20.0
"""How much a coefficient that is off by 100 % is held against the fit: 0.05 s at 400 W."""

MOST_MILLIWATTS = 10_000_000
"""No device draws more: a counter that rose faster between two samples tells nothing of the time between them."""
LAG_NS = 60 * SECOND
"""How much older than its sample a counter's value may be: exporters ask the driver every half a minute or so."""

WHOLE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Readings:
    """Samples of one device on a boot's clock: columns of equal length, in the order of time."""

    device: str
    """Its UUID."""
    run: str
    """Of the collector: what is integrated begins anew with each."""
    method: str
    """One of ENERGY_METHODS that tells energy."""
    at_ns: tuple[int, ...]
    """Monotonic nanoseconds of the boot."""
    energy_mj: tuple[int, ...]
    """Cumulative millijoules."""
    share: Fraction = WHOLE
    """The part of the device that the boot has to itself."""


@dataclass(slots=True)
class _Device:
    """One device's samples in the order of time, whatever order they came in."""

    share: Fraction = WHOLE
    method: str = COUNTER
    since_ns: int = 0
    """What is expected of it is known up to here while it has no sample."""
    at: list[int] = field(default_factory=list)
    counter: list[int] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    total: list[int] = field(default_factory=list)
    """Millijoules since whatever was the first sample; a counter that fell goes on from where it was."""
    origin: int | None = None
    """``total`` at the boot's start, once samples before it may be gone."""

    @property
    def through_ns(self) -> int:
        return self.at[-1] if self.at else self.since_ns

    def add(self, at: int, counter: int, run: str) -> None:
        """Take a reading; one of a moment that is known changes nothing, nor does one of a time that is settled."""
        place = bisect_left(self.at, at)
        if (place < len(self.at) and self.at[place] == at) or (place == 0 and self.origin is not None):
            return
        total = self.total[place - 1] + self._used(self._reading(place - 1), (at, counter, run)) if place else 0
        if place < len(self.at):
            after = self._used((at, counter, run), self._reading(place))
            if place:
                # what a counter that began anew in between did not count
                lift = total + after - self.total[place]
                self.total[place:] = [value + lift for value in self.total[place:]]
            else:
                total = self.total[0] - after
        self.at.insert(place, at)
        self.counter.insert(place, counter)
        self.run.insert(place, run)
        self.total.insert(place, total)

    def _reading(self, place: int) -> tuple[int, int, str]:
        return self.at[place], self.counter[place], self.run[place]

    def _used(self, before: tuple[int, int, str], after: tuple[int, int, str]) -> int:
        """Millijoules between two readings: 0 where they tell more than a device can use in that time.

        A counter that fell began anew, and so does every run's integral.
        """
        if self.method != COUNTER and before[2] != after[2]:
            return 0
        used = max(0, after[1] - before[1])
        return used if used * SECOND <= (after[0] - before[0] + LAG_NS) * MOST_MILLIWATTS else 0

    def value(self, at_ns: int) -> int:
        """Millijoules of the boot's share up to a moment: flat outside the samples, never decreasing."""
        if not self.at:
            return 0
        return self._interpolated(at_ns) * self.share.numerator // self.share.denominator

    def _interpolated(self, at_ns: int) -> int:
        i = bisect_right(self.at, at_ns)
        if i == 0:
            return self.total[0]
        if i == len(self.at):
            return self.total[-1]
        begin, end = self.at[i - 1], self.at[i]
        return self.total[i - 1] + (self.total[i] - self.total[i - 1]) * (at_ns - begin) // (end - begin)


class EnergyTrack:
    """Millijoules of all of a boot's devices together, interpolated between samples, telescoping.

    Samples may come in any order and more than once. ``origin_ns`` is the boot's start.
    """

    def __init__(self, origin_ns: int = 0) -> None:
        self._origin_ns = origin_ns
        self._before_mj = 0
        self._devices: dict[Hashable, _Device] = {}

    def begin(self, origin_ns: int, before_mj: int) -> None:
        """Go on from a moment up to which so much was used: no sample before it is needed."""
        self._origin_ns, self._before_mj = origin_ns, before_mj

    def add(self, samples: GpuSamples) -> None:
        """Take samples of one GPU that came among the boot's own records."""
        device = self._devices.setdefault(samples.gpu_index, _Device())
        for at, counter in zip(samples.at_ns, samples.energy_mj, strict=True):
            device.add(at, counter, "")

    def add_readings(self, readings: Readings) -> None:
        """Take samples of a device that somebody else sent."""
        if readings.method == NO_ENERGY:
            # it is read, and says nothing of energy: nobody needs to wait for it
            if readings.device in self._devices and not self._devices[readings.device].at:
                del self._devices[readings.device]
            return
        device = self._devices.setdefault(readings.device, _Device())
        device.share = readings.share
        if not device.at or ENERGY_METHODS.index(readings.method) > ENERGY_METHODS.index(device.method):
            device.method = readings.method
        for at, counter in zip(readings.at_ns, readings.energy_mj, strict=True):
            device.add(at, counter, readings.run)

    def expect(self, device: str, since_ns: int) -> None:
        """Wait for samples of a device that is known to be read."""
        self._devices.setdefault(device, _Device(since_ns=since_ns))

    @property
    def known(self) -> bool:
        """Whether any device has been sampled."""
        return any(device.at for device in self._devices.values())

    @property
    def awaited(self) -> bool:
        """Whether samples come, or are expected, of a device that does not report among the boot's own records."""
        return any(isinstance(name, str) for name in self._devices)

    @property
    def through_ns(self) -> int:
        """Until when every device is known; 0 without any."""
        return min((device.through_ns for device in self._devices.values()), default=0)

    @property
    def first_ns(self) -> int | None:
        """Of the first sample of any device."""
        return min((device.at[0] for device in self._devices.values() if device.at), default=None)

    @property
    def last_ns(self) -> int:
        """Of the last sample of any device."""
        return max((device.at[-1] for device in self._devices.values() if device.at), default=0)

    @property
    def method(self) -> str:
        """How the energy of all devices is known: the weakest of theirs."""
        found = [device.method for device in self._devices.values() if device.at]
        return max(found, key=ENERGY_METHODS.index, default=NO_ENERGY)

    def cumulative(self, at_ns: int) -> int:
        """Millijoules to a moment from an arbitrary one; flat outside the samples, never decreasing."""
        return sum(device.value(at_ns) for device in self._devices.values())

    def since_origin(self, at_ns: int) -> int:
        """Millijoules from the boot's start to a moment."""
        total = self._before_mj
        for device in self._devices.values():
            origin = device.value(self._origin_ns) if device.origin is None else device.origin
            total += max(0, device.value(at_ns) - origin)
        return total

    def drop_before(self, at_ns: int) -> None:
        """Forget samples that no later moment needs."""
        for device in self._devices.values():
            keep = max(0, bisect_right(device.at, at_ns) - 1)
            if not keep:
                continue
            if device.origin is None:
                device.origin = device.value(self._origin_ns)
            for column in (device.at, device.counter, device.run, device.total):
                del column[:keep]
