"""Docker: whether an engine answers, and which Compose there is."""

from __future__ import annotations

import shutil
import subprocess

__all__ = ["compose_command", "docker_engine_answers"]

INFO_SECONDS = 5.0
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


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None
