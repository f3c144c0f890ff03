"""supervisord: its configuration, and how one asks it."""

from __future__ import annotations

import http.client
import os
import pwd
import shlex
import socket
import subprocess
import sys
import xmlrpc.client  # nosec B411
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.domain.errors import StackError
from farthing.stack.health import Awaited, PartFailedError
from farthing.stack.layout import StateLayout
from farthing.stack.parts import Part
from farthing.stack.processes import MARK

__all__ = ["ProcessState", "process_states", "raise_if_failed", "render_supervisor", "start_supervisor"]

LOG_BYTES = "10MB"
LOG_BACKUPS = 3
START_RETRIES = 10
RPC_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisord says of one part."""

    name: str
    state: str
    """STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED or FATAL."""
    pid: int
    started: int
    """Unix seconds; 0 when it never ran."""
    note: str


def render_supervisor(layout: StateLayout, parts: Iterable[Part], folder: Path) -> str:
    """supervisord.conf: children restart when they die, log into rotated files and run in ``folder``."""
    sections: dict[str, dict[str, str]] = {
        "unix_http_server": {"file": str(layout.supervisor_socket), "chmod": "0600"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "identifier": "farthing",
            "pidfile": str(layout.supervisor_pid),
            "logfile": str(layout.supervisor_log),
            "logfile_maxbytes": LOG_BYTES,
            "logfile_backups": str(LOG_BACKUPS),
            "childlogdir": str(layout.logs),
        },
        "supervisorctl": {"serverurl": f"unix://{layout.supervisor_socket}"},
    }
    if os.geteuid() == 0:
        # said outright, for supervisord warns in its log when root runs it by accident
        sections["supervisord"]["user"] = pwd.getpwuid(0).pw_name
    for part in parts:
        sections[f"program:{part.name}"] = {
            "command": shlex.join(part.command),
            "directory": str(folder),
            "priority": str(part.priority),
            "autostart": "true",
            "autorestart": "true",
            "startsecs": "1",
            "startretries": str(START_RETRIES),
            "stopsignal": "TERM",
            "stopwaitsecs": str(part.stop_seconds),
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(layout.log(part.name)),
            "stdout_logfile_maxbytes": LOG_BYTES,
            "stdout_logfile_backups": str(LOG_BACKUPS),
        }
    # supervisord expands %(NAME)s in every value
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key}={value.replace('%', '%%')}\n" for key, value in entries.items())
        for section, entries in sections.items()
    )


def start_supervisor(layout: StateLayout, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A running supervisord in its own session, so that Ctrl-C on the terminal reaches only the one who started it."""
    environment = {**environ, MARK: str(layout.root), "PYTHONUNBUFFERED": "1"}
    with layout.supervisor_output.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(layout.supervisor_config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def process_states(layout: StateLayout) -> tuple[ProcessState, ...] | None:
    """How the children fare; None while no supervisord answers on the socket."""
    try:
        with xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(layout.supervisor_socket)) as proxy:
            answer: Any = proxy.supervisor.getAllProcessInfo()
    except (OSError, http.client.HTTPException):
        return None
    except (xmlrpc.client.Error, ValueError) as error:
        raise StackError(f"supervisord gave no usable answer ({error}); see {layout.supervisor_log}") from error
    return tuple(
        ProcessState(
            name=str(info["name"]),
            state=str(info["statename"]),
            pid=int(info["pid"]),
            started=int(info["start"]),
            note=str(info["spawnerr"] or info["description"]),
        )
        for info in answer
    )


def raise_if_failed(supervisor: subprocess.Popen[bytes], layout: StateLayout, awaited: Sequence[Awaited]) -> None:
    """Raise PartFailedError when supervisord ended, or gave up one of the awaited parts."""
    if supervisor.poll() is not None:
        # what it said before its log was open explains best
        early = layout.supervisor_output
        log = early if early.exists() and early.stat().st_size else layout.supervisor_log
        raise PartFailedError(f"supervisord ended with status {supervisor.returncode}", log)
    states = {state.name: state for state in process_states(layout) or ()}
    for part in awaited:
        state = states.get(part.name)
        if state is not None and state.state == "FATAL":
            raise PartFailedError(f"{part.name} does not stay up ({state.note})", part.log)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, with a time-out: a stopped supervisord must not hang the one who asks."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=RPC_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(RPC_SECONDS)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)
