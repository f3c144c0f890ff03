"""The programs a native stack is made of, as found on PATH."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from farthing.domain.errors import StackError

__all__ = ["Programs", "find_programs"]

DEBIAN_GRAFANA_HOME = Path("/usr/share/grafana")


def _own_command() -> tuple[str, ...]:
    return (sys.executable, "-m", "farthing.cli.main")


@dataclass(frozen=True, slots=True)
class Programs:
    """Command prefixes; an empty one means that the part is not installed."""

    prometheus: tuple[str, ...]
    alertmanager: tuple[str, ...]
    grafana: tuple[str, ...] = ()
    jaeger: tuple[str, ...] = ()
    farthing: tuple[str, ...] = field(default_factory=_own_command)


def find_programs(search_path: str | None = None) -> Programs:
    """The programs on ``search_path`` (None: $PATH).

    Raises StackError with the command that installs them when Prometheus or Alertmanager is missing; Grafana and
    Jaeger are optional.
    """
    prometheus = _first(("prometheus",), search_path)
    # Debian's package names its binary after itself, upstream's archive does not
    alertmanager = _first(("prometheus-alertmanager", "alertmanager"), search_path)
    packages = [
        package
        for package, found in (("prometheus", prometheus), ("prometheus-alertmanager", alertmanager))
        if not found
    ]
    if packages:
        raise StackError(
            f"not installed: {', '.join(packages)}; install with: apt-get install --no-install-recommends "
            f"{' '.join(packages)} (then stop their services, or use --port-offset)"
        )
    jaeger = _first(("jaeger",), search_path)
    return Programs(
        prometheus=(prometheus,),
        alertmanager=(alertmanager,),
        grafana=_grafana(search_path),
        jaeger=(jaeger,) if jaeger else (),
    )


def _first(names: tuple[str, ...], search_path: str | None) -> str:
    for name in names:
        found = shutil.which(name, path=search_path)
        if found:
            return found
    return ""


def _grafana(search_path: str | None) -> tuple[str, ...]:
    """``grafana server``, or ``grafana-server`` before Grafana 10, with the home folder both need."""
    command: tuple[str, ...]
    if grafana := _first(("grafana",), search_path):
        command = (grafana, "server")
    elif grafana := _first(("grafana-server",), search_path):
        command = (grafana,)
    else:
        return ()
    for home in (Path(grafana).resolve().parent.parent, DEBIAN_GRAFANA_HOME):
        if (home / "conf" / "defaults.ini").is_file():
            return (*command, "--homepath", str(home))
    return command
