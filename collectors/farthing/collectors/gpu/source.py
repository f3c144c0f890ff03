"""The one protocol behind which every kind of GPU telemetry is: NVML, exporters, processors' energy counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from farthing.domain.gpu import GpuReading

__all__ = ["GpuSource"]


class GpuSource(Protocol):
    """Reads devices. ``read`` is called from one thread, once per period, and never for longer than that."""

    @property
    def name(self) -> str:
        """What messages call it: ``nvml``, or an exporter's URL."""
        ...

    def read(self) -> Sequence[GpuReading]:
        """The devices that are there now; one that is gone is not in it.

        Raises GpuError, naming the source and the remedy, when nothing at all can be read.
        """
        ...

    def close(self) -> None:
        """Give back what the source holds; may be called twice."""
        ...
