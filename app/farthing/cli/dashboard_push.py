"""``farthing dashboards push``: puts the dashboards into a Grafana over its HTTP API."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from farthing.cli.dashboard_diff import differences
from farthing.cli.dashboards import Rendered, chosen
from farthing.cli.grafana_api import ConflictError, Folder, Grafana, Stored
from farthing.cli.grafana_client import grafana_at, with_progress
from farthing.domain.errors import GrafanaError
from farthing.exporters.report import Column, Output, ReportTable, render
from farthing.settings import Settings

__all__ = ["folder_uid", "push", "run_push"]

MESSAGE: Final = "farthing dashboards push"
"""What Grafana's history of versions shows."""
OLDEST: Final = 10
ROOT: Final = Folder("", "")

CREATED: Final = "created"
REPLACED: Final = "replaced"
MOVED: Final = "moved"
UNCHANGED: Final = "unchanged"
REFUSED: Final = "refused"


def run_push(
    settings: Settings,
    uids: Sequence[str],
    *,
    url: str,
    folder: str,
    tags: Sequence[str],
    overwrite: bool,
    dry_run: bool,
    token_file: Path | None,
    timeout_seconds: float,
    output: Output,
) -> None:
    """Push, and print what became of each dashboard; GrafanaError when one was refused."""
    dashboards = chosen(settings, uids, tags)
    with grafana_at(url, token_file, timeout_seconds) as grafana:
        version = grafana.version()
        _new_enough(grafana, version)
        results, refusals = push(grafana, dashboards, folder=folder, overwrite=overwrite, dry_run=dry_run)
    rows = tuple((one.uid, one.title, results[one.uid]) for one in dashboards)
    columns = (Column("uid", "UID"), Column("title", "Title"), Column("result", "Result"))
    place = f"folder {folder!r}" if folder else "the top folder"
    title = f"{'Would go' if dry_run else 'Pushed'} into {place} of {grafana.url}, Grafana {version}"
    typer.echo(render(ReportTable(columns, rows, title=title), output, color=sys.stdout.isatty()).rstrip("\n"))
    if refusals:
        raise GrafanaError(f"{grafana.url}: {len(refusals)} of {len(dashboards)} refused: {'; '.join(refusals)}")


def push(
    grafana: Grafana, dashboards: Sequence[Rendered], *, folder: str, overwrite: bool, dry_run: bool
) -> tuple[dict[str, str], list[str]]:
    """uid -> what became of it, and a text for each that was refused.

    A dashboard that is there as rendered stays. One that differs is replaced with ``overwrite`` only: it may have been
    changed by hand. Raises GrafanaError for what would refuse every dashboard.
    """
    into = ROOT if not folder else _folder(grafana, folder, dry_run)
    results: dict[str, str] = {}
    refusals = []
    for one in with_progress(dashboards, "pushing"):
        try:
            results[one.uid] = _push(grafana, one, into, overwrite, dry_run)
        except ConflictError as refusal:
            results[one.uid] = REFUSED
            refusals.append(str(refusal))
    return results, refusals


def _push(grafana: Grafana, one: Rendered, folder: Folder, overwrite: bool, dry_run: bool) -> str:
    stored = grafana.dashboard(one.uid)
    result = _planned(one, stored, folder)
    if result == UNCHANGED:
        return result
    if stored is not None and stored.provisioned:
        raise ConflictError(f"{one.uid}: comes from a file that Grafana reads; change that file instead", "provisioned")
    if stored is not None and not overwrite:
        raise ConflictError(
            f"{one.uid}: is there in version {stored.version} by {stored.updated_by} and would be {result}; see "
            "farthing dashboards diff, then give --overwrite",
            "exists",
        )
    if dry_run:
        return f"would be {result}"
    try:
        grafana.save(one.document, folder_uid=folder.uid, overwrite=overwrite, message=MESSAGE)
    except ConflictError:
        # a try whose answer was lost may have saved it
        if _planned(one, grafana.dashboard(one.uid), folder) != UNCHANGED:
            raise
    return result


def _planned(one: Rendered, stored: Stored | None, folder: Folder) -> str:
    """What pushing does to what is there."""
    if stored is None:
        return CREATED
    if differences(one.uid, stored.dashboard, one.document):
        return REPLACED
    return UNCHANGED if stored.folder_uid == folder.uid else MOVED


def _folder(grafana: Grafana, title: str, dry_run: bool) -> Folder:
    """The folder at the top of this title, or uid, made where there is none."""
    for there in grafana.folders():
        if title in {there.title, there.uid}:
            return there
    # a folder below another is not in that list
    uid = folder_uid(title)
    nested = grafana.folder(title if _is_uid(title) else uid)
    if nested is not None:
        return nested
    return Folder(uid, title) if dry_run else grafana.create_folder(uid, title)


def folder_uid(title: str) -> str:
    """The uid of a folder that is made for a title."""
    return re.sub(r"[^a-z0-9_-]+", "-", title.lower()).strip("-")[:40] or "dashboards"


def _is_uid(text: str) -> bool:
    """Whether it could be a uid (util.IsValidShortUID in Grafana)."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,40}", text) is not None


def _new_enough(grafana: Grafana, version: str) -> None:
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < OLDEST:
        raise GrafanaError(
            f"{grafana.url}: Grafana {version} is too old for these dashboards; they need {OLDEST} or newer"
        )
