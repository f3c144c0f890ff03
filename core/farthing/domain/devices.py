"""What is shown of the devices that are there now: the page, ``/metrics`` and ``farthing gpus`` share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farthing.domain.gpu import NO_ENERGY, GpuReading

__all__ = ["DeviceView", "DevicesView", "IdleGpu"]


@dataclass(frozen=True, slots=True)
class IdleGpu:
    """A GPU on any host that no engine has, or has all of."""

    uuid: str
    host: str
    name: str
    nano_per_hour: int
    """What nobody has of it costs now, in nano-dollars."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device's last reading, without what cannot be believed, and its energy."""

    reading: GpuReading
    method: str = NO_ENERGY
    """Of ENERGY_METHODS."""
    energy_mj: int | None = None
    """Millijoules since its reading began, whoever read it; it never falls. None where ``method`` is none."""
    parts: tuple[tuple[str, int], ...] = ()
    """(method, millijoules) of those, by each method that told some; each never falls."""


@dataclass(frozen=True, slots=True)
class DevicesView:
    """All devices of which there is a reading that is not stale, by source and then by number."""

    taken_ns: int
    """UTC nanoseconds."""
    devices: tuple[DeviceView, ...] = ()
    sources: Mapping[str, bool] = field(default_factory=dict)
    """Source -> whether it answered last time."""
    engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Device UUID -> names of the engines that run on it."""
    idle: tuple[IdleGpu, ...] = ()
    """GPUs without an engine as the books know them, also those that are read on other hosts."""
    waiting: int | None = None
    """Records that wait for delivery; None where nothing is delivered."""
    dropped: int | None = None
    """Records that could not wait any longer, since the reader began."""
    complaints: Mapping[str, str] = field(default_factory=dict)
    """Source that did not answer last time -> why, in one line."""

    @property
    def unallocated_nano(self) -> dict[str, int]:
        """UUID of a device that no engine has -> its nano-dollars per hour, where it has a price."""
        return {one.uuid: one.nano_per_hour for one in self.idle}
