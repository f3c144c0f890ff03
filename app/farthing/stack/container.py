"""Docker: whether an engine answers, which Compose there is, and whether a project's containers are well."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from farthing.stack.health import PartFailedError

__all__ = ["compose_command", "docker_engine_answers", "wait_for_containers"]

INFO_SECONDS = 5.0
POLL_SECONDS = 0.5
PROJECT_LABEL = "com.docker.compose.project"
STATE = (
    '{{index .Config.Labels "com.docker.compose.service"}}|{{.State.Status}}|{{.State.ExitCode}}|'
    "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
)
VERSION_SECONDS = 20.0
"""Compose 1 is a Python program that takes seconds to start."""


def docker_engine_answers(timeout_seconds: float = INFO_SECONDS) -> bool:
    """Whether a Docker client is on PATH and its engine answers within the time-out."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    answer = _run([docker, "info", "--format", "{{.ServerVersion}}"], timeout_seconds)
    # the client exits with 0 in some releases although no engine answered
    return answer is not None and answer.returncode == 0 and bool(answer.stdout.strip())


def compose_command() -> tuple[str, ...] | None:
    """``docker compose``, else ``docker-compose``; None when neither is there."""
    docker = shutil.which("docker")
    if docker is not None:
        answer = _run([docker, "compose", "version"], VERSION_SECONDS)
        if answer is not None and answer.returncode == 0:
            return (docker, "compose")
    standalone = shutil.which("docker-compose")
    return (standalone,) if standalone else None


def wait_for_containers(
    project: str, *, patience_seconds: float, stop: threading.Event, waiting_for: Callable[[Sequence[str]], None]
) -> bool:
    """True once every service of a Compose project is healthy or has done its work; False when ``stop`` was set.

    Their own checks of health are asked and not their ports, which want a login. ``waiting_for`` is told the names
    still missing after each round. Raises PartFailedError after ``patience_seconds``.
    """
    until = time.monotonic() + patience_seconds
    while not stop.is_set():
        missing = _unready(project)
        waiting_for(missing)
        if not missing:
            return True
        if time.monotonic() > until:
            raise PartFailedError(f"not ready after {patience_seconds:g} s: {', '.join(missing)}", None)
        stop.wait(POLL_SECONDS)
    return False


def _unready(project: str) -> list[str]:
    """Services that are neither healthy nor, having ended, ended well."""
    found = _run(["docker", "ps", "--all", "--quiet", "--filter", f"label={PROJECT_LABEL}={project}"], INFO_SECONDS)
    containers = found.stdout.split() if found is not None else []
    told = _run(["docker", "inspect", "--format", STATE, *containers], INFO_SECONDS) if containers else None
    if told is None:
        return ["Docker's engine"]
    states = [line.split("|") for line in told.stdout.splitlines() if line.count("|") == 3]
    return sorted(
        name for name, status, code, health in states if health != "healthy" and (status, code) != ("exited", "0")
    )


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None
