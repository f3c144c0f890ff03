"""Energy counters of processors (RAPL), by the kernel's powercap tree, made whole where they wrap.

https://docs.kernel.org/power/powercap/powercap.html: ``energy_uj`` counts microjoules up to ``max_energy_range_uj``,
and then from 0. Since CVE-2020-8694 only root may read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from farthing.domain.clock import SECOND

__all__ = ["POWERCAP", "Counter", "packages"]

POWERCAP: Final = Path("/sys/class/powercap")
_PACKAGE: Final = re.compile(r"package-(\d+)(?:-die-\d+)?$")
_WATTS: Final = 2_000.0
"""More than a domain can draw; a counter that fell for more than that did not wrap, but began anew."""


@dataclass(slots=True)
class Counter:
    """One domain: a processor package, or its memory. Has to be read before it wraps a second time, which takes a
    processor some minutes at least."""

    folder: Path
    _range_uj: int | None = field(init=False)
    _last_uj: int | None = None
    _last_ns: int = 0
    _counted_uj: int = 0

    def __post_init__(self) -> None:
        try:
            self._range_uj = int((self.folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            self._range_uj = None

    def read(self, at_ns: int) -> int:
        """Microjoules, beginning with the counter's own value and never falling.

        Raises OSError when it cannot be read, PermissionError where that is for root alone.
        """
        try:
            now_uj = int((self.folder / "energy_uj").read_text())
        except ValueError as error:
            raise OSError(f"{self.folder}: holds no number") from error
        if self._last_uj is None:
            self._counted_uj = now_uj
        else:
            self._counted_uj += self._used(now_uj, self._last_uj, at_ns - self._last_ns)
        self._last_uj, self._last_ns = now_uj, at_ns
        return self._counted_uj

    def _used(self, now_uj: int, last_uj: int, passed_ns: int) -> int:
        if now_uj >= last_uj:
            return now_uj - last_uj
        if self._range_uj is not None:
            wrapped = now_uj + self._range_uj - last_uj
            if 0 <= wrapped * 1_000 <= _WATTS * passed_ns:
                return wrapped
        return now_uj if now_uj * SECOND <= _WATTS * 1_000_000 * passed_ns else 0


def packages(powercap: Path = POWERCAP) -> dict[int, list[Counter]]:
    """The domains by number of their processor package: all its dies, and memory where that is measured.

    Cores and graphics are parts of the package, and the platform is more than its processors: they are left out.
    """
    found: dict[int, list[Counter]] = {}
    of_folder: dict[str, int] = {}
    domains = {path.name: _name(path) for path in sorted(powercap.glob("intel-rapl:*"))}
    for folder, name in domains.items():
        package = _PACKAGE.match(name)
        if package:
            of_folder[folder] = int(package.group(1))
            found.setdefault(of_folder[folder], []).append(Counter(powercap / folder))
    for folder, name in domains.items():
        parent = folder.rpartition(":")[0]
        if name == "dram" and parent in of_folder:
            found[of_folder[parent]].append(Counter(powercap / folder))
    return found


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""
