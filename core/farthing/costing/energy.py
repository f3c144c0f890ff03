"""Energy of a boot's devices, as one cumulative integer function, so that windows add up exactly."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction

from farthing.costing import fit as f
from farthing.costing.energy_readers import WHOLE, ReadDevice
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
    """A device of a boot, and where its energy is counted from."""

    read: ReadDevice
    own: bool = False
    """Whether the boot's own records tell it."""
    shift_mj: int = 0
    """What is counted apart from ``read``, once samples may be gone."""
    origin_mj: int | None = None
    """Millijoules at the boot's start, once samples before it may be gone."""


class EnergyTrack:
    """Millijoules of all of a boot's devices together, interpolated between samples, telescoping.

    Samples may come in any order and more than once. ``origin_ns`` is the boot's start. From the first sample among
    the boot's own records to the last they count, and those that others sent count before and after: who sends them
    names GPUs by numbers of its own, and most likely they are the same ones.
    """

    def __init__(self, origin_ns: int = 0) -> None:
        self._origin_ns = origin_ns
        self._before_mj = 0
        self._released_mj = 0
        """What devices that are the boot's no longer had counted."""
        self._released: dict[str, int] = {}
        """Up to when each of them counts."""
        self._own: dict[int, _Device] = {}
        self._beside: dict[str, _Device] = {}
        self._own_ns: tuple[int, int] | None = None
        """The first and the last moment of samples among the boot's own records."""

    def begin(self, origin_ns: int, before_mj: int) -> None:
        """Go on from a moment up to which so much was used: no sample before it is needed."""
        self._origin_ns, self._before_mj = origin_ns, before_mj

    def add(self, samples: GpuSamples) -> None:
        """Take samples of one GPU that came among the boot's own records."""
        device = self._own.setdefault(samples.gpu_index, _Device(ReadDevice(), own=True))
        device.read.add("", COUNTER, samples.at_ns, samples.energy_mj)
        first, last = self._own_ns or (samples.at_ns[0], samples.at_ns[-1])
        self._own_ns = min(first, samples.at_ns[0]), max(last, samples.at_ns[-1])

    def add_readings(self, readings: Readings) -> None:
        """Take samples of a device that somebody else sent."""
        if readings.method == NO_ENERGY:
            # it is read, and says nothing of energy: nobody needs to wait for it
            if readings.device in self._beside and not self._beside[readings.device].read.known:
                del self._beside[readings.device]
            return
        first = bisect_left(readings.at_ns, self._released.get(readings.device, readings.at_ns[0]))
        if first == len(readings.at_ns):
            return
        device = self._beside.setdefault(readings.device, _Device(ReadDevice()))
        device.read.share = readings.share
        device.read.add(readings.run, readings.method, readings.at_ns[first:], readings.energy_mj[first:])

    def expect(self, device: str, since_ns: int) -> None:
        """Wait for samples of a device that is known to be read."""
        self._beside.setdefault(device, _Device(ReadDevice(since_ns)))

    def release(self, device: str, until_ns: int | None) -> None:
        """Take back a device that turns out not to be the boot's; what is settled, up to a moment, stays counted."""
        released = self._beside.pop(device, None)
        if released is None or until_ns is None:
            return
        self._released_mj += self._value(released, until_ns)
        self._before_mj += self._used(released, until_ns)
        self._released[device] = until_ns

    @property
    def known(self) -> bool:
        """Whether any device has been sampled."""
        return any(device.read.known for device in self._all())

    @property
    def awaited(self) -> bool:
        """Whether samples come, or are expected, of a device that does not report among the boot's own records."""
        return bool(self._beside)

    def own_through_ns(self, until_ns: int) -> int | None:
        """Up to when every device among the boot's own records is known; None without any."""
        return min((device.read.through_ns(until_ns) for device in self._own.values()), default=None)

    def through_ns(self, until_ns: int) -> int:
        """Up to when every device is known that somebody else sends; 0 without any.

        A sample beyond ``until_ns`` counts as far as others lead there: alone, its clock may be ahead.
        """
        return min((device.read.through_ns(until_ns) for device in self._beside.values()), default=0)

    def tells(self, start_ns: int, end_ns: int, until_ns: int) -> bool:
        """Whether anything is known of a stretch, from samples that hang together with some up to ``until_ns``."""
        known = [device.read for device in self._all() if device.read.known]
        firsts = [read.first_ns for read in known]
        lasts = [last for read in known if (last := read.last_ns(until_ns)) is not None]
        return bool(lasts) and min(firsts) < end_ns and max(lasts) > start_ns

    @property
    def method(self) -> str:
        """How the energy of all devices is known: the weakest of theirs."""
        found = [device.read.method for device in self._all() if device.read.known]
        return max(found, key=ENERGY_METHODS.index, default=NO_ENERGY)

    def method_between(self, start_ns: int, end_ns: int) -> str:
        """The weakest method by which energy in [start, end) is counted."""
        found = [one.read.method_between(start_ns, end_ns) for one in self._own.values() if one.read.known]
        for span in self._besides(start_ns, end_ns):
            found += [one.read.method_between(*span) for one in self._beside.values() if one.read.known]
        return max(found, key=ENERGY_METHODS.index, default=COUNTER)

    def cumulative(self, at_ns: int) -> int:
        """Millijoules to a moment from an arbitrary one; flat outside the samples, never decreasing."""
        return self._released_mj + sum(self._value(device, at_ns) for device in self._all())

    def since_origin(self, at_ns: int) -> int:
        """Millijoules from the boot's start to a moment."""
        return self._before_mj + sum(self._used(device, at_ns) for device in self._all())

    def drop_before(self, at_ns: int) -> None:
        """Forget samples that no later moment needs."""
        for device in self._all():
            if not device.read.holds_before(at_ns):
                continue
            origin, before = self._value(device, self._origin_ns), self._value(device, at_ns)
            device.read.forget(at_ns)
            device.shift_mj += before - self._value(device, at_ns)
            # until samples reach the boot's start, its energy there is not known
            if device.origin_mj is None and device.read.first_ns > self._origin_ns:
                device.origin_mj = origin

    # ---- inside ------------------------------------------------------------------------------------

    def _all(self) -> list[_Device]:
        return [*self._own.values(), *self._beside.values()]

    def _used(self, device: _Device, at_ns: int) -> int:
        """Millijoules of a device from the boot's start to a moment."""
        origin = self._value(device, self._origin_ns) if device.origin_mj is None else device.origin_mj
        return max(0, self._value(device, at_ns) - origin)

    def _value(self, device: _Device, at_ns: int) -> int:
        value = device.read.value(at_ns) + device.shift_mj
        if device.own or self._own_ns is None:
            return value
        first, last = self._own_ns
        return value - device.read.value(min(max(at_ns, first), last)) + device.read.value(first)

    def _besides(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """What of a stretch the boot's own records do not tell."""
        if self._own_ns is None:
            return [(start_ns, end_ns)]
        first, last = self._own_ns
        found = [(start_ns, min(end_ns, first)), (max(start_ns, last), end_ns)]
        return [(start, end) for start, end in found if start < end]
