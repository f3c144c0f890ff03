"""The stack in containers: Docker Compose with the configuration of these settings."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from farthing.domain.errors import ConfigError, StackError
from farthing.settings import Settings
from farthing.stack.compose_config import COMPOSE_FILE, GPU_EXPORTER, compose_configuration
from farthing.stack.container import compose_command, wait_for_containers
from farthing.stack.effective import shift_ports
from farthing.stack.health import PartFailedError
from farthing.stack.interrupts import stop_signals
from farthing.stack.layout import StateLayout
from farthing.stack.report import print_rows, progress, say

__all__ = [
    "PROJECT",
    "checkout",
    "compose_environment",
    "down_compose",
    "project_command",
    "started_project",
    "up_compose",
    "write_mounted",
]

READY_SECONDS = 180.0
"""Containers start slower than processes; images are built and pulled before the clock starts."""
PROJECT = "farthing"
DEMO_PROFILE = "demo"
GPU_PROFILE = "gpu"
REVEAL = "reveal"
"""The service that shows how to log in, and ends."""
CONTAINER_READABLE_FILE = 0o644
CONTAINER_READABLE_FOLDER = 0o755


@dataclass(frozen=True, slots=True)
class _Run:
    """One Compose project: how it is called again to stop it."""

    command: tuple[str, ...]
    environment: dict[str, str]

    def call(self, *words: str) -> int:
        return subprocess.run([*self.command, *words], env={**os.environ, **self.environment}, check=False).returncode


def checkout() -> Path | None:
    """The repository this package runs from; None for an installed wheel, which carries no Compose file."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / COMPOSE_FILE).is_file() else None


def up_compose(settings: Settings, *, detach: bool, port_offset: int, console: Console) -> int:
    """Start the containers; return 0 once they stopped (or, with ``detach``, once they are ready).

    Raises StackError when Compose or the checkout is missing, or a service does not become ready.
    """
    root, compose = checkout(), compose_command()
    if root is None:
        raise StackError("the Compose stack needs a checkout of the repository; run from one, or use --native")
    if compose is None:
        raise StackError("a Docker engine answers but Docker Compose is not installed; install it, or use --native")
    layout = StateLayout.at(settings.stack.state_dir)
    shifted = shift_ports(settings, port_offset)
    write_mounted(layout, shifted)
    project = PROJECT if port_offset == 0 else f"{PROJECT}-{port_offset}"
    run = _Run(project_command(compose, project, root), compose_environment(shifted, layout))
    _remember(layout, project)
    with stop_signals() as stop:
        if run.call("up", "--detach", "--build", "--remove-orphans") != 0:
            raise StackError("Docker Compose could not start the stack; its messages are above")
        try:
            with progress(console) as waiting_for:
                wait_for_containers(project, patience_seconds=READY_SECONDS, stop=stop, waiting_for=waiting_for)
        except PartFailedError:
            run.call("logs", "--tail", "20")
            run.call("down")
            raise
        if not stop.is_set():
            _print_ready(console, shifted, detached=detach)
            # to the terminal alone: no log has it
            run.call("run", "--rm", "--no-deps", "-T", REVEAL)
            if detach:
                return 0
            _wait(stop)
        run.call("down")
    _note(layout).unlink()
    return 0


def down_compose(settings: Settings, *, console: Console) -> bool:
    """Stop the containers that ``up_compose`` started from this state folder; False when there were none."""
    layout = StateLayout.of(settings.stack.state_dir)
    note = _note(layout)
    project = started_project(layout)
    if project is None:
        return False
    root, compose = checkout(), compose_command()
    if root is None or compose is None:
        raise StackError(f"{note} says that containers run, but Docker Compose or the checkout is gone")
    run = _Run(project_command(compose, project, root), compose_environment(settings, layout))
    if run.call("down", "--remove-orphans") != 0:
        raise StackError(f"Docker Compose could not stop project {project}; its messages are above")
    note.unlink()
    say(console, f"stopped the containers of project {project}")
    return True


def started_project(layout: StateLayout) -> str | None:
    """The project that ``up_compose`` started from this state folder; None when there is none, or it was stopped."""
    note = _note(layout)
    return str(json.loads(note.read_text(encoding="utf-8"))["project"]) if note.exists() else None


def project_command(compose: tuple[str, ...], project: str, root: Path) -> tuple[str, ...]:
    """How Compose is called for a project of the checkout at ``root``."""
    return (*compose, "--project-name", project, "--file", str(root / COMPOSE_FILE))


def compose_environment(settings: Settings, layout: StateLayout) -> dict[str, str]:
    """The variables of compose.yaml: ports, where configuration is mounted from, and the demo without engines."""
    stack = settings.stack
    config = layout.compose
    return {
        "FARTHING_PORT": str(settings.serve.port),
        "PROMETHEUS_PORT": str(stack.prometheus_port),
        "ALERTMANAGER_PORT": str(stack.alertmanager_port),
        "GRAFANA_PORT": str(stack.grafana_port),
        "JAEGER_PORT": str(stack.jaeger_port),
        "JAEGER_OTLP_GRPC_PORT": str(stack.jaeger_otlp_grpc_port),
        "JAEGER_OTLP_HTTP_PORT": str(stack.jaeger_otlp_http_port),
        "REPLAY_RECORDING": stack.replay_recording,
        "REPLAY_LEAD_SECONDS": f"{stack.replay_lead_seconds:g}",
        "FARTHING_COMPOSE_CONFIG": str(config),
        "FARTHING_COMPOSE_RULES": str(config / "rules"),
        "FARTHING_COMPOSE_DASHBOARDS": str(config / "dashboards"),
        **_secrets(settings),
        **_engines(settings),
        **_headers(settings),
        "COMPOSE_PROFILES": ",".join(_profiles(settings)),
    }


def _profiles(settings: Settings) -> list[str]:
    """The demo without engines, and NVIDIA's exporter where the settings read it."""
    exporters = {exporter.url.host for exporter in settings.gpus.exporters}
    return [
        *([DEMO_PROFILE] if settings.watches_nothing else []),
        *([GPU_PROFILE] if GPU_EXPORTER in exporters else []),
    ]


def _secrets(settings: Settings) -> dict[str, str]:
    """Where the secrets of notifications are mounted from; ConfigError when they are not all in one folder."""
    folders = _folders(settings.notify.secret_files)
    if len(folders) > 1:
        raise ConfigError(
            f"notify: secrets lie in {' and '.join(folders)}; one folder is mounted into the container, move them there"
        )
    return {"FARTHING_COMPOSE_SECRETS": folders[0]} if folders else {}


def _engines(settings: Settings) -> dict[str, str]:
    """Where files of engines are mounted from; ConfigError when they are not all in one folder."""
    folders = _folders(settings.discovery.files)
    if len(folders) > 1:
        raise ConfigError(
            f"discovery.files lie in {' and '.join(folders)}; one folder is mounted into containers, move them there"
        )
    return {"FARTHING_COMPOSE_ENGINES": folders[0]} if folders else {}


def _headers(settings: Settings) -> dict[str, str]:
    """Where the headers are mounted from that another collector than the stack's demands."""
    traces = settings.traces
    if traces.endpoint is None or traces.headers_file is None:
        return {}
    (folder,) = _folders([traces.headers_file])
    return {"FARTHING_COMPOSE_TRACES": folder}


def _folders(files: Iterable[Path]) -> list[str]:
    return sorted({str(path.expanduser().absolute().parent) for path in files})


def write_mounted(layout: StateLayout, settings: Settings) -> None:
    """Write what containers mount, readable by their users; the state folder keeps this machine's other users out."""
    layout.create()
    layout.write_tree(layout.compose, compose_configuration(settings))
    for path in (layout.compose, *layout.compose.rglob("*")):
        path.chmod(CONTAINER_READABLE_FOLDER if path.is_dir() else CONTAINER_READABLE_FILE)


def _note(layout: StateLayout) -> Path:
    return layout.root / "compose.json"


def _remember(layout: StateLayout, project: str) -> None:
    layout.write(_note(layout), json.dumps({"project": project}) + "\n")


def _print_ready(console: Console, settings: Settings, *, detached: bool) -> None:
    stack = settings.stack
    rows: Sequence[tuple[str, str]] = [
        ("page", f"http://127.0.0.1:{settings.serve.port}/"),
        ("metrics", f"http://127.0.0.1:{settings.serve.port}/metrics"),
        ("Prometheus", f"http://127.0.0.1:{stack.prometheus_port}"),
        ("Alertmanager", f"http://127.0.0.1:{stack.alertmanager_port}"),
        ("Grafana", f"http://127.0.0.1:{stack.grafana_port}"),
        ("Jaeger", f"http://127.0.0.1:{stack.jaeger_port}"),
        ("ledger", "in the volume farthing-data"),
        ("logs", "docker compose logs"),
    ]
    print_rows(console, rows)
    ending = "stop it with: farthing down" if detached else "press Ctrl-C to stop"
    say(console, ending)


def _wait(stop: threading.Event) -> None:
    while not stop.wait(0.5):
        pass
