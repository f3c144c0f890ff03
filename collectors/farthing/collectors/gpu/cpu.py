"""Processors of this host, for engines that run on them: energy by RAPL, utilisation and memory by psutil."""

from __future__ import annotations

import logging
import platform
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from farthing.collectors.gpu.rapl import POWERCAP, Counter, packages
from farthing.domain.clock import SECOND
from farthing.domain.gpu import CPU, GpuReading

__all__ = ["CpuSource"]

_log = logging.getLogger(__name__)

_RAPL: Final = "rapl"
_CPUS: Final = Path("/sys/devices/system/cpu")
_CPUINFO: Final = Path("/proc/cpuinfo")
_MODEL: Final = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_WAITS: Final = ("idle", "iowait")
_COUNTED_TWICE: Final = ("guest", "guest_nice")
"""A guest's time is in user and nice already (man 5 proc_stat)."""


@dataclass(frozen=True, slots=True)
class _Before:
    """What the last reading of a package ended with."""

    at_ns: int
    energy_uj: int | None
    busy: float
    total: float


class CpuSource:
    """One device for each processor package: ``CPU-`` host ``-`` number.

    Utilisation and power are means since the last reading, so the first one has none. Energy is that of the package
    and of its memory where that is measured. Memory is the host's, and is known only where it has one package.
    """

    def __init__(
        self,
        host: str | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        *,
        powercap: Path = POWERCAP,
        cpus: Path = _CPUS,
        cpuinfo: Path = _CPUINFO,
        system: Any = psutil,
    ) -> None:
        """``powercap``, ``cpus`` and ``cpuinfo``: where the kernel shows them; ``system``: the module psutil."""
        self._host = socket.gethostname() if host is None else host
        self._clock_ns = clock_ns
        self._powercap = powercap
        self._cpus = cpus
        self._system = system
        self._model = _model(cpuinfo)
        self._counters: dict[int, list[Counter]] | None = None
        self._complained = False
        self._before: dict[int, _Before] = {}

    @property
    def name(self) -> str:
        """What messages call it."""
        return "cpu"

    def read(self) -> list[GpuReading]:
        """The packages now. Energy that cannot be read is None, which is logged once."""
        if self._counters is None:
            self._counters = packages(self._powercap)
            if not self._counters:
                self._complain(logging.INFO, f"no energy counters of processors in {self._powercap}; energy is unknown")
        at_ns = self._clock_ns()
        times = self._times()
        there = sorted(times.keys() | self._counters.keys())
        return [self._reading(package, times.get(package, []), at_ns, alone=len(there) == 1) for package in there]

    def close(self) -> None:
        """Nothing is held."""

    def _reading(self, package: int, times: Sequence[Any], at_ns: int, *, alone: bool) -> GpuReading:
        before = self._before.get(package)
        now = _Before(at_ns, self._energy_uj(package, at_ns), *_busy_and_total(times))
        self._before[package] = now
        memory = self._system.virtual_memory() if alone else None
        return GpuReading(
            uuid=f"CPU-{self._host}-{package}",
            at_ns=at_ns,
            source=_RAPL,
            host=self._host,
            index=package,
            name=self._model,
            kind=CPU,
            utilization=_utilization(before, now),
            memory_used_bytes=None if memory is None else memory.total - memory.available,
            memory_total_bytes=None if memory is None else memory.total,
            power_watts=_watts(before, now),
            energy_mj=None if now.energy_uj is None else now.energy_uj // 1_000,
        )

    def _energy_uj(self, package: int, at_ns: int) -> int | None:
        """Of all the package's domains; a sum without one of them would fall and rise."""
        counters = (self._counters or {}).get(package)
        if not counters:
            return None
        try:
            return sum([counter.read(at_ns) for counter in counters])
        except PermissionError:
            self._complain(
                logging.WARNING,
                f"the energy counters of processors are for root alone; run Farthing as root, or let its user read "
                f"{self._powercap}/intel-rapl:*/energy_uj; until then energy is unknown",
            )
        except OSError as error:
            self._complain(logging.WARNING, f"the energy counters of processors cannot be read ({error})")
        return None

    def _complain(self, level: int, message: str) -> None:
        if not self._complained:
            self._complained = True
            _log.log(level, "cpu: %s", message)

    def _times(self) -> dict[int, list[Any]]:
        """Seconds that each processor spent in each state, by package."""
        every = self._system.cpu_times(percpu=True)
        owners = self._owners()
        if len(owners) != len(every):  # no topology, as in some sandboxes
            return {0: every}
        found: dict[int, list[Any]] = {}
        for package, times in zip(owners, every, strict=True):
            found.setdefault(package, []).append(times)
        return found

    def _owners(self) -> list[int]:
        """The package of each processor that is on, in the order of their numbers."""
        owners: list[tuple[int, int]] = []
        for path in self._cpus.glob("cpu[0-9]*/topology/physical_package_id"):
            try:
                # virtual machines may say -1
                owners.append((int(path.parents[1].name.removeprefix("cpu")), max(0, int(path.read_text()))))
            except (OSError, ValueError):
                continue
        return [package for _, package in sorted(owners)]


def _busy_and_total(times: Sequence[Any]) -> tuple[float, float]:
    """Seconds of work, and of all states, over some processors."""
    total = waited = 0.0
    for one in times:
        states = one._asdict()
        total += sum(states.values()) - sum(states.get(name, 0.0) for name in _COUNTED_TWICE)
        waited += sum(states.get(name, 0.0) for name in _WAITS)
    return total - waited, total


def _utilization(before: _Before | None, now: _Before) -> float | None:
    passed = now.total - before.total if before else 0.0
    if before is None or passed <= 0:
        return None
    return min(1.0, max(0.0, (now.busy - before.busy) / passed))


def _watts(before: _Before | None, now: _Before) -> float | None:
    if before is None or before.energy_uj is None or now.energy_uj is None or now.at_ns <= before.at_ns:
        return None
    return (now.energy_uj - before.energy_uj) / 1e6 / ((now.at_ns - before.at_ns) / SECOND)


def _model(cpuinfo: Path) -> str:
    try:
        found = _MODEL.search(cpuinfo.read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else f"{platform.machine()} processor"
