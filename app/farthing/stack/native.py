"""The native stack: started, watched, stopped, without Docker."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from farthing.domain.errors import StackError
from farthing.service.asking import trusted_tls
from farthing.settings import TOKEN_VARIABLE, Settings, read_secret
from farthing.stack.backup_restore import finish_restore
from farthing.stack.configuration import write_configuration
from farthing.stack.effective import effective_settings, shift_ports
from farthing.stack.health import Awaited, PartFailedError, last_lines, wait_until_ready
from farthing.stack.interrupts import stop_signals
from farthing.stack.layout import StateLayout
from farthing.stack.parts import Part, native_parts
from farthing.stack.ports import check_ports
from farthing.stack.processes import find_processes, stop_processes, supervisor_of
from farthing.stack.programs import Programs, find_programs
from farthing.stack.report import ReadyPart, print_failure, print_ready, progress, say, show_login
from farthing.stack.supervision import process_states, raise_if_failed, render_supervisor, start_supervisor

__all__ = ["StackStatus", "down_native", "native_status", "up_native"]

READY_SECONDS = 60.0
STOP_SECONDS = 75.0
"""Longer than all parts together may take to stop one after the other."""
WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of a running stack."""

    name: str
    state: str
    pid: int
    uptime_seconds: int
    page: str
    note: str


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What runs from a state folder."""

    state_dir: Path
    supervisor_pid: int | None
    """None: no stack runs (``strays`` may still)."""
    parts: tuple[PartStatus, ...]
    strays: tuple[int, ...]
    """Processes left by a stack whose supervisord died."""


def up_native(
    settings: Settings,
    *,
    detach: bool,
    port_offset: int,
    console: Console,
    programs: Programs | None = None,
    ready_seconds: float = READY_SECONDS,
) -> int:
    """Start the stack; return 0 once it stopped (or, with ``detach``, once it is ready).

    Raises StackError when a part is missing, fails or one stack runs here already, PortBusyError for a taken port.
    """
    programs = programs or find_programs()
    layout = StateLayout.at(settings.stack.state_dir)
    layout.create()
    effective = effective_settings(shift_ports(settings, port_offset), layout)
    parts = native_parts(effective, layout, programs, replaying=settings.watches_nothing)
    with _start_lock(layout), stop_signals() as stop:
        _clear_the_way(layout, console)
        if finish_restore(layout.root):
            say(console, "carried on the restore that was cut off")
        check_ports(parts)
        write_configuration(effective, layout, programs)
        # a token file that cannot be read is told now, not in the log of a part
        read_secret(TOKEN_VARIABLE, effective.serve.token_file)
        _write_parts(layout, parts)
        layout.write(layout.supervisor_config, render_supervisor(layout, parts, Path.cwd()))
        supervisor = start_supervisor(layout, os.environ)
        try:
            with progress(console) as waiting_for:
                ready = wait_until_ready(
                    [Awaited(part.name, part.ready_url, layout.log(part.name)) for part in parts],
                    patience_seconds=ready_seconds,
                    stop=stop,
                    waiting_for=waiting_for,
                    check=partial(raise_if_failed, supervisor, layout),
                    tls=trusted_tls(effective.serve.tls_certificate),
                )
        except PartFailedError as error:
            if error.log is not None:
                print_failure(console, error.log, last_lines(error.log))
            _stop(layout, supervisor)
            raise
        except BaseException:
            _stop(layout, supervisor)
            raise
        if ready:
            pages = tuple(ReadyPart(part.name, part.page) for part in parts)
            print_ready(console, pages, effective, layout, programs, detached=detach)
            show_login(console, effective, layout, with_grafana=bool(programs.grafana))
            if detach:
                return 0
            _watch(supervisor, stop)
        return _finish(layout, supervisor, stop, console)


def down_native(settings: Settings, *, console: Console) -> int:
    """Stop the stack of the settings' state folder, strays included, and return 0; nothing running is no error.

    Raises StackError when a process survives.
    """
    layout = StateLayout.of(settings.stack.state_dir)
    processes = find_processes(layout.root)
    if not processes:
        say(console, f"no stack runs from {layout.root}")
    else:
        stop_processes(layout.root, supervisor_of(processes, layout.supervisor_pid), STOP_SECONDS)
        say(console, f"stopped the stack of {layout.root}")
    _remove_leftovers(layout)
    return 0


def native_status(settings: Settings) -> StackStatus:
    """What runs from the settings' state folder."""
    layout = StateLayout.of(settings.stack.state_dir)
    states = process_states(layout)
    # after the question, so that a supervisord that ended meanwhile is not taken for one that does not answer
    processes = find_processes(layout.root)
    supervisor = supervisor_of(processes, layout.supervisor_pid)
    if supervisor is None:
        return StackStatus(layout.root, None, (), tuple(process.pid for process in processes))
    if states is None:
        raise StackError(
            f"supervisord (process {supervisor}) does not answer on {layout.supervisor_socket}; run `farthing down`"
        )
    pages = {str(part["name"]): str(part["page"]) for part in json.loads(layout.parts.read_text(encoding="utf-8"))}
    now = time.time()
    parts = tuple(
        PartStatus(
            name=state.name,
            state=state.state,
            pid=state.pid,
            uptime_seconds=max(0, int(now - state.started)) if state.state == "RUNNING" else 0,
            page=pages.get(state.name, ""),
            note=state.note,
        )
        for state in states
    )
    return StackStatus(layout.root, supervisor, parts, ())


def _clear_the_way(layout: StateLayout, console: Console) -> None:
    """Refuse to start beside a running stack; end what a killed supervisord left behind."""
    processes = find_processes(layout.root)
    supervisor = supervisor_of(processes, layout.supervisor_pid)
    if supervisor is not None:
        raise StackError(
            f"a stack already runs from {layout.root} (supervisord is process {supervisor}); stop it with "
            "`farthing down`, or start another with its own stack.state_dir and --port-offset"
        )
    if processes:
        left = ", ".join(str(process.pid) for process in processes)
        say(console, f"an earlier stack of this folder lost its supervisor; stopping its processes {left}")
        stop_processes(layout.root, None, STOP_SECONDS)
    _remove_leftovers(layout)


def _remove_leftovers(layout: StateLayout) -> None:
    for path in (layout.supervisor_pid, layout.supervisor_socket):
        path.unlink(missing_ok=True)


def _write_parts(layout: StateLayout, parts: tuple[Part, ...]) -> None:
    entries = [asdict(ReadyPart(part.name, part.page)) for part in parts]
    layout.write(layout.parts, json.dumps(entries, indent=2) + "\n")


def _watch(supervisor: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Return when a signal asks to stop or supervisord ends."""
    while not stop.wait(WATCH_SECONDS) and supervisor.poll() is None:
        pass


def _finish(layout: StateLayout, supervisor: subprocess.Popen[bytes], stop: threading.Event, console: Console) -> int:
    asked = stop.is_set()
    if asked:
        say(console, "stopping")
    status = supervisor.poll()
    _stop(layout, supervisor)
    if not asked and status != 0:
        raise StackError(f"supervisord ended unexpectedly (status {status}); see {layout.supervisor_log}")
    say(console, "stopped")
    return 0


def _stop(layout: StateLayout, supervisor: subprocess.Popen[bytes]) -> None:
    stop_processes(layout.root, supervisor.pid if supervisor.poll() is None else None, STOP_SECONDS)
    supervisor.wait()
    _remove_leftovers(layout)


@contextlib.contextmanager
def _start_lock(layout: StateLayout) -> Iterator[None]:
    """Hold the folder; raises StackError while another ``farthing up`` holds it."""
    with layout.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackError(
                f"a stack already runs from {layout.root}, or starts right now; stop it with `farthing down`, or "
                "start another with its own stack.state_dir and --port-offset"
            ) from error
        yield
