"""What ``farthing backup`` and ``farthing restore`` do: find the places, show progress, say what was done."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.progress import TaskProgressColumn

from farthing.cli.progress import bars
from farthing.domain.errors import BackupError, ConfigError
from farthing.settings import Settings, load_settings
from farthing.stack.backup import back_up_stack
from farthing.stack.backup_archive import Manifest
from farthing.stack.backup_compose import back_up_containers, containers_started, restore_containers
from farthing.stack.backup_places import Places, native_places, settings_path, volume_places
from farthing.stack.backup_restore import restore_stack, settings_of
from farthing.stack.native import native_status

__all__ = ["run_backup", "run_restore"]

_PRIVATE_UMASK = 0o077


def run_backup(
    file: Path, config: Path | None, *, force: bool, with_secrets: bool, native: bool | None, volumes: Path | None
) -> int:
    """Back the stack up, and say what is in the file; returns the exit status."""
    settings = load_settings(config)
    if volumes is None and _in_containers(settings, native):
        return back_up_containers(settings, file.absolute(), force=force, with_secrets=with_secrets)
    places = native_places(settings, config) if volumes is None else volume_places(settings, config, volumes, "")
    if file.is_dir():
        file /= f"farthing-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz"
    with bars(TaskProgressColumn()) as report:
        made = back_up_stack(places, file.absolute(), force=force, with_secrets=with_secrets, progress=report)
    if volumes is not None:
        _give_to_folders_owner(file)
    size = file.stat().st_size
    typer.echo(f"{file}: {size:,} bytes, {made.ledger_rows:,} rows of the ledger, schema {made.ledger_schema}")
    _say_parts(made)
    return 0


def run_restore(
    file: Path, config: Path | None, *, force: bool, native: bool | None, volumes: Path | None, owners: str
) -> int:
    """Restore the stack, and say what was in the file; returns the exit status."""
    if owners and volumes is None:
        raise ConfigError("--owners: goes with --volumes alone")
    settings = _settings(file, config, native)
    if volumes is None and _in_containers(settings, native):
        return restore_containers(settings, file.absolute(), force=force)
    os.umask(_PRIVATE_UMASK)
    places = _native(settings, config) if volumes is None else volume_places(settings, config, volumes, owners)
    with bars(TaskProgressColumn()) as report:
        done = restore_stack(places, file.absolute(), force=force, progress=report)
    made = datetime.fromtimestamp(done.manifest.made_ns / 1e9, UTC)
    typer.echo(f"{file}: restored as of {made:%Y-%m-%d %H:%M:%S} UTC, {done.manifest.ledger_rows:,} rows of the ledger")
    _say_parts(done.manifest)
    for path in done.kept:
        typer.echo(f"{path}: differs from the backup's, and stays as it is", err=True)
    return 0


def _settings(file: Path, config: Path | None, native: bool | None) -> Settings:
    """Those of a place that has some; else the backup's, which are restored there, unless containers read their own."""
    if native is not False and config is None and not settings_path(None).exists():
        return settings_of(file) or Settings()
    return load_settings(config)


def _in_containers(settings: Settings, native: bool | None) -> bool:
    return containers_started(settings) if native is None else not native


def _native(settings: Settings, config: Path | None) -> Places:
    running = native_status(settings)
    if running.supervisor_pid is not None or running.strays:
        raise BackupError(f"a stack runs from {running.state_dir}; stop it with `farthing down`, then restore")
    return native_places(settings, config)


def _say_parts(manifest: Manifest) -> None:
    for part in manifest.parts:
        files = sum(member.name.startswith(f"{part}/") for member in manifest.members)
        typer.echo(f"  {part:<13} {manifest.bytes_of(part):>15,} bytes in {files:,} files")
    for note in manifest.notes:
        typer.echo(f"  {note}")


def _give_to_folders_owner(file: Path) -> None:
    """The container's root writes into a folder of the host's: whose folder it is wants to read it."""
    owner = file.absolute().parent.stat()
    if os.geteuid() == 0:
        os.chown(file, owner.st_uid, owner.st_gid)
