"""What of a reading cannot be believed: values that no device has, and a utilization that does not move.

What cannot be believed is None and has its name among the reading's faults; it is never averaged in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from farthing.domain.clock import SECOND
from farthing.domain.conventions import FAULT_SENTINEL, FAULT_STUCK_UTILIZATION
from farthing.domain.gpu import GpuReading
from farthing.vocabulary.gpus import QUANTITIES

__all__ = ["StuckUtilization", "believed"]

_FIELDS: Final = {
    "memory_used": "memory_used_bytes",
    "memory_total": "memory_total_bytes",
    "power": "power_watts",
    "power_limit": "power_limit_watts",
    "temperature": "temperature_celsius",
    "memory_temperature": "memory_temperature_celsius",
    "sm_clock": "sm_clock_hz",
    "memory_clock": "memory_clock_hz",
    "max_sm_clock": "max_sm_clock_hz",
    "pcie_tx": "pcie_tx_bytes_per_second",
    "pcie_rx": "pcie_rx_bytes_per_second",
    "nvlink_tx": "nvlink_tx_bytes",
    "nvlink_rx": "nvlink_rx_bytes",
}
"""Quantity -> field of the reading, where they are not called the same and have one unit."""
_LEAST: Final = {
    "memory_total_bytes": 1,
    "power_limit_watts": 1,
    "max_sm_clock_hz": 1,
    "temperature_celsius": -60,
    "memory_temperature_celsius": -60,
}
"""Of others it is 0."""
_MILLIJOULES: Final = 1_000


def _bounds() -> dict[str, tuple[float, float]]:
    ceilings = {_FIELDS.get(name, name): one.ceiling for name, one in QUANTITIES.items() if one.unit != "flag"}
    ceilings["energy_mj"] = ceilings.pop("energy") * _MILLIJOULES
    return {name: (_LEAST.get(name, 0), ceiling) for name, ceiling in ceilings.items()}


PLAUSIBLE: Final[dict[str, tuple[float, float]]] = _bounds()
"""Field -> the least that a device can have, and from which on a value is none: the ceilings of the vocabulary, so that
a driver is believed as far as an exporter. What drivers put in the place of "not known" lies beyond: all bits of 32 or
64 set (NVML_VALUE_NOT_AVAILABLE in nvml.h), and -1.
"""

WORKING_SHARE: Final = 0.5
"""Of its power limit. A device that holds a model and waits draws a fifth (H100) to two fifths (T4, L4) of it."""
WORKING_WATTS: Final = 300.0
"""Where the limit is not known: no device draws as much while it waits."""
WORKING_TIMES: Final = 3.0
"""Where the limit is not known: by the least that the device was seen to draw."""
SAMPLE_SECONDS: Final = 60
"""Two readings that are further apart say nothing about the time between them."""


def believed(reading: GpuReading) -> GpuReading:
    """The reading without values that no device has; with FAULT_SENTINEL among its faults if there were any."""
    wrong: dict[str, Any] = {}
    for name, (least, ceiling) in PLAUSIBLE.items():
        value = getattr(reading, name)
        # written so that a value that is not a number lies outside as well
        if value is not None and not least <= value < ceiling:
            wrong[name] = None
    used, total = reading.memory_used_bytes, reading.memory_total_bytes
    if used is not None and total is not None and used > total and not wrong.keys() & {"memory_total_bytes"}:
        wrong["memory_used_bytes"] = None
    if not wrong:
        return reading
    return replace(reading, **wrong, faults=reading.faults | {FAULT_SENTINEL})


@dataclass(slots=True)
class StuckUtilization:
    """Tells when a device's utilization stays 0 although its power says that it works.

    It has to stay so for ``stuck_seconds`` of work, counted from the last utilization above 0; from then on until
    the next one it is a fault. A device that works has half of its power limit, or, where no limit is known, 300 W
    or three times the least that it was seen to draw.
    """

    stuck_seconds: float
    _worked_ns: int = 0
    _before_ns: int | None = None
    _least_watts: float | None = None
    stuck: bool = False

    def look(self, reading: GpuReading) -> GpuReading:
        """The reading, without its utilization while that is a fault."""
        working = self._is_working(reading)
        if reading.utilization:
            self._worked_ns, self.stuck = 0, False
        elif reading.utilization == 0 and working and self._before_ns is not None:
            since = reading.at_ns - self._before_ns
            if 0 < since <= SAMPLE_SECONDS * SECOND:
                self._worked_ns += since
            self.stuck = self.stuck or self._worked_ns >= self.stuck_seconds * SECOND
        self._before_ns = reading.at_ns
        if not self.stuck or reading.utilization is None:
            return reading
        return replace(reading, utilization=None, faults=reading.faults | {FAULT_STUCK_UTILIZATION})

    def _is_working(self, reading: GpuReading) -> bool:
        watts = reading.power_watts
        if watts is None:
            return False
        self._least_watts = watts if self._least_watts is None else min(watts, self._least_watts)
        if reading.power_limit_watts is not None:
            return watts >= WORKING_SHARE * reading.power_limit_watts
        return watts >= min(WORKING_WATTS, max(WORKING_TIMES * self._least_watts, 1.0))
