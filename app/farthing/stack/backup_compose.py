"""Backup and restore of the stack in containers: one-shot services of compose.yaml do it, with every volume mounted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from farthing.domain.errors import BackupError, StackError
from farthing.settings import Settings
from farthing.stack.compose import (
    PROJECT,
    checkout,
    compose_environment,
    project_command,
    started_project,
    write_mounted,
)
from farthing.stack.container import compose_command
from farthing.stack.layout import StateLayout

__all__ = ["back_up_containers", "containers_started", "restore_containers"]

FOLDER_VARIABLE = "FARTHING_BACKUPS"
NETWORK_VARIABLE = "FARTHING_BACKUP_NETWORK"
INSIDE = "/backups"
"""Where compose.yaml mounts that folder."""
_SHOWING_SECONDS = 60


def containers_started(settings: Settings) -> bool:
    """Whether ``farthing up`` started containers from this state folder and ``farthing down`` did not stop them."""
    return started_project(StateLayout.of(settings.stack.state_dir)) is not None


def back_up_containers(settings: Settings, file: Path, *, force: bool, with_secrets: bool) -> int:
    """Back up the volumes of the containers into a file of the host's; returns the exit status."""
    options = [*(["--force"] if force else []), *(["--with-secrets"] if with_secrets else [])]
    return _run_service("backup", settings, file, options)


def restore_containers(settings: Settings, file: Path, *, force: bool) -> int:
    """Restore the volumes of containers that do not run; returns the exit status. Raises BackupError when they run."""
    write_mounted(StateLayout.at(settings.stack.state_dir), settings)
    command, environment = _compose(settings, file)
    shown = subprocess.run(
        [*command, "ps", "--quiet"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SHOWING_SECONDS,
        check=False,
    )
    if shown.returncode != 0:
        raise StackError(f"Docker Compose does not say what runs: {' '.join(shown.stderr.split())}")
    if shown.stdout.split():
        raise BackupError("containers of this project are there; remove them with `farthing down`, then restore")
    return _run_service("restore", settings, file, ["--force"] if force else [])


def _run_service(service: str, settings: Settings, file: Path, options: list[str]) -> int:
    command, environment = _compose(settings, file)
    inside = INSIDE if file.is_dir() else f"{INSIDE}/{file.name}"
    # its messages are the user's; without a terminal Compose needs to be told so
    terminal = [] if os.isatty(0) and os.isatty(1) else ["-T"]
    return subprocess.run(
        [*command, "run", "--rm", *terminal, service, *options, inside], env=environment, check=False
    ).returncode


def _compose(settings: Settings, file: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    root, compose = checkout(), compose_command()
    if root is None or compose is None:
        raise StackError("the Compose stack needs a checkout of the repository and Docker Compose; or use --native")
    layout = StateLayout.of(settings.stack.state_dir)
    folder = file if file.is_dir() else file.parent
    environment = {
        **os.environ,
        **compose_environment(settings, layout),
        FOLDER_VARIABLE: str(folder),
        NETWORK_VARIABLE: "none" if settings.ledger.startswith("sqlite") else "bridge",
    }
    return project_command(compose, started_project(layout) or PROJECT, root), environment
