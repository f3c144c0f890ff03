"""The processes of a stack, found by a mark in their environment: pid files lie after a crash, this does not."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from farthing.domain.errors import StackError

__all__ = ["MARK", "StackProcess", "find_processes", "stop_processes", "supervisor_of"]

MARK: Final = "FARTHING_STACK"
"""Environment variable that every process of a stack inherits: its state folder."""
POLL_SECONDS = 0.1
KILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class StackProcess:
    """A live process that belongs to a stack."""

    pid: int
    command: str


def find_processes(state: Path, proc: Path = Path("/proc")) -> tuple[StackProcess, ...]:
    """Live processes started by the stack of ``state``, in order of their ids."""
    mark = f"{MARK}={state}".encode()
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        # processes end while one looks, and those of other users cannot be read
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                found.append(StackProcess(int(folder.name), b" ".join(words).decode(errors="replace").strip()))
    return tuple(sorted(found, key=lambda process: process.pid))


def supervisor_of(processes: Sequence[StackProcess], pid_file: Path) -> int | None:
    """Process id of the supervisord among ``processes``; None when it is gone, whatever the pid file says."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if pid in {process.pid for process in processes} else None


def stop_processes(state: Path, supervisor: int | None, patience_seconds: float) -> None:
    """End every process of the stack: supervisord in its order first, then what is left; raises StackError else."""
    if supervisor is not None:
        _signal(supervisor, signal.SIGTERM)
        _wait_gone(state, patience_seconds)
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for process in find_processes(state):
            _signal(process.pid, kind)
        if _wait_gone(state, KILL_SECONDS):
            return
    left = ", ".join(f"{process.pid} ({process.command})" for process in find_processes(state))
    raise StackError(f"these processes of {state} cannot be stopped: {left}")


def _wait_gone(state: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while find_processes(state):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _signal(pid: int, kind: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, kind)
