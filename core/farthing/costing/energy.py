"""Energy by the devices' own counters, as one cumulative integer function, so that windows add up exactly."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from farthing.costing import fit as f
from farthing.domain.records import GpuSamples

__all__ = ["ENERGY_DEFAULTS", "ENERGY_FEATURES", "ENERGY_RIDGE_JOULES", "IDLE_SECONDS", "EnergyTrack"]

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


@dataclass(slots=True)
class _Device:
    at: list[int] = field(default_factory=list)
    total: list[int] = field(default_factory=list)
    """Millijoules since the first sample; a counter that fell starts again from where it was."""
    last: int = 0


class EnergyTrack:
    """Millijoules of all of a boot's GPUs together, interpolated between samples, telescoping."""

    def __init__(self) -> None:
        self._devices: dict[int, _Device] = {}

    def add(self, samples: GpuSamples) -> None:
        """Take samples of one GPU; those not later than what is known are ignored."""
        device = self._devices.setdefault(samples.gpu_index, _Device())
        for at, counter in zip(samples.at_ns, samples.energy_mj, strict=True):
            if device.at and at <= device.at[-1]:
                continue
            before = device.total[-1] if device.total else 0
            device.total.append(before + max(0, counter - device.last) if device.at else 0)
            device.at.append(at)
            device.last = counter

    @property
    def known(self) -> bool:
        """Whether any GPU has been sampled."""
        return bool(self._devices)

    @property
    def through_ns(self) -> int:
        """Until when every sampled GPU is known; 0 without samples."""
        return min((device.at[-1] for device in self._devices.values() if device.at), default=0)

    def cumulative(self, at_ns: int) -> int:
        """Millijoules from the first sample to a moment; flat outside the samples, never decreasing."""
        return sum(_interpolate(device, at_ns) for device in self._devices.values())

    def drop_before(self, at_ns: int) -> None:
        """Forget samples that no later moment needs."""
        for device in self._devices.values():
            keep = max(0, bisect_right(device.at, at_ns) - 1)
            del device.at[:keep]
            del device.total[:keep]


def _interpolate(device: _Device, at_ns: int) -> int:
    i = bisect_right(device.at, at_ns)
    if i == 0:
        return 0 if not device.total else device.total[0]
    if i == len(device.at):
        return device.total[-1]
    begin, end = device.at[i - 1], device.at[i]
    return device.total[i - 1] + (device.total[i] - device.total[i - 1]) * (at_ns - begin) // (end - begin)
