"""``farthing dashboards``: what there is, as files, as ConfigMaps, and against what a Grafana or a folder holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from farthing.cli.dashboard_configmaps import config_maps, config_maps_text
from farthing.cli.dashboard_diff import Difference, differences, shown_differences
from farthing.cli.grafana_api import Grafana
from farthing.cli.grafana_client import grafana_at, with_progress
from farthing.dashboards.render import render_dashboards
from farthing.domain.errors import ConfigError, FarthingError
from farthing.exporters.report import Column, Output, ReportTable, render
from farthing.settings import Settings

__all__ = ["Rendered", "chosen", "print_dashboards", "print_rendered", "run_diff", "tagged"]

OURS = "farthing"
"""The tag of every dashboard of ours."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One dashboard: the name of its file, its JSON text, and the same parsed."""

    file: str
    text: str
    document: Mapping[str, Any]

    @property
    def uid(self) -> str:
        """What links and alerts find it by."""
        return str(self.document["uid"])

    @property
    def title(self) -> str:
        """What people find it by."""
        return str(self.document["title"])


def chosen(settings: Settings, uids: Sequence[str], tags: Sequence[str] = ()) -> list[Rendered]:
    """The dashboards of these uids, or all, with tags added; ConfigError for a uid that there is not."""
    found = {}
    for file, text in render_dashboards(settings).items():
        document = tagged(json.loads(text), tags)
        found[str(document["uid"])] = Rendered(file, _text(document) if tags else text, document)
    unknown = [uid for uid in uids if uid not in found]
    if unknown:
        raise ConfigError(f"there is no dashboard {unknown[0]!r}; one of {', '.join(found)}")
    return [one for uid, one in found.items() if not uids or uid in uids]


def tagged(document: dict[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    """The dashboard with more tags, each once."""
    return {**document, "tags": list(dict.fromkeys((*document.get("tags", ()), *tags)))}


def print_dashboards(settings: Settings, output: Output) -> None:
    """Print every dashboard of these settings."""
    rows = []
    for one in chosen(settings, ()):
        panels = [panel for panel in _panels(one.document) if panel["type"] != "row"]
        queries = sum(len(panel.get("targets", ())) for panel in panels)
        rows.append((one.uid, one.title, len(panels), queries, str(one.document.get("description", ""))))
    columns = (
        Column("uid", "UID"),
        Column("title", "Title"),
        Column("panels", "Panels", "integer"),
        Column("queries", "Queries", "integer"),
        Column("description", "Shows"),
    )
    _print(ReportTable(columns, tuple(rows), title="Dashboards"), output)


def print_rendered(
    settings: Settings,
    uids: Sequence[str],
    *,
    directory: Path | None,
    kubernetes: bool,
    namespace: str | None,
    folder: str,
    tags: Sequence[str],
) -> None:
    """Write the dashboards into a directory, one file each, or print them: one as it is, several as a JSON array."""
    dashboards = chosen(settings, uids, tags)
    if kubernetes:
        maps = config_maps([(one.uid, one.file, one.text) for one in dashboards], namespace=namespace, folder=folder)
        files = {f"{one['metadata']['name']}.yaml": config_maps_text([one]) for one in maps}
        text = config_maps_text(maps)
    else:
        files = {one.file: one.text for one in dashboards}
        text = dashboards[0].text if len(dashboards) == 1 else _text([one.document for one in dashboards])
    if directory is None:
        typer.echo(text, nl=False)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written ({error.strerror}); choose another --directory") from error
    typer.echo(f"wrote {len(files)} files into {directory}")


def run_diff(
    settings: Settings,
    uids: Sequence[str],
    *,
    url: str | None,
    directory: Path | None,
    tags: Sequence[str],
    token_file: Path | None,
    timeout_seconds: float,
    output: Output,
) -> int:
    """Print what differs from what is there; returns 0, or 1 when something does."""
    here = chosen(settings, uids, tags)
    if directory is not None:
        there = _in_directory(directory)
        return _report_diff(here, there.get, _leftover(there, uids), str(directory), output)
    with grafana_at(url or "", token_file, timeout_seconds) as grafana:
        grafana.version()
        left = {} if uids else grafana.tagged(OURS)
        return _report_diff(here, lambda uid: _stored(grafana, uid), left, grafana.url, output)


def _report_diff(
    here: Sequence[Rendered],
    there: Callable[[str], Mapping[str, Any] | None],
    ours_there: Mapping[str, str],
    place: str,
    output: Output,
) -> int:
    found: list[Difference] = []
    for one in with_progress(here, "comparing"):
        found += differences(one.uid, there(one.uid), one.document)
    titles = {one.uid: one.title for one in here}
    for uid, title in ours_there.items():
        if uid not in titles:
            found += differences(uid, {"title": title}, None)
    titles = {**ours_there, **titles}
    if output == "table":
        same = len(here) - len({one.dashboard for one in found if one.dashboard in {rendered.uid for rendered in here}})
        if found:
            typer.echo(shown_differences(found, titles))
        typer.echo(f"{same} of {len(here)} dashboards are the same in {place}")
    else:
        _print(_differences_table(found, place), output)
    return 1 if found else 0


def _differences_table(found: Iterable[Difference], place: str) -> ReportTable:
    columns = (
        Column("dashboard", "Dashboard"),
        Column("panel", "Panel"),
        Column("path", "What"),
        Column("there", "There"),
        Column("here", "Here"),
    )
    rows = tuple((one.dashboard, one.panel, one.path, one.there, one.here) for one in found)
    return ReportTable(columns, rows, title=f"Dashboards that differ from {place}")


def _stored(grafana: Grafana, uid: str) -> Mapping[str, Any] | None:
    stored = grafana.dashboard(uid)
    return None if stored is None else stored.dashboard


def _in_directory(directory: Path) -> dict[str, Mapping[str, Any]]:
    """uid -> dashboard of every JSON file; FarthingError for a file that cannot be read, or is none."""
    if not directory.is_dir():
        raise ConfigError(f"{directory}: is not a directory; give one that holds dashboards as .json files")
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(directory.rglob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FarthingError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())})") from error
        if isinstance(document, dict) and "uid" in document:
            found[str(document["uid"])] = document
    return found


def _leftover(there: Mapping[str, Mapping[str, Any]], uids: Sequence[str]) -> dict[str, str]:
    """uid -> title of what bears our tag there."""
    if uids:
        return {}
    return {uid: str(one.get("title", "")) for uid, one in there.items() if OURS in (one.get("tags") or ())}


def _panels(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    for panel in document["panels"]:
        yield panel
        yield from panel.get("panels", ())


def _print(table: ReportTable, output: Output) -> None:
    typer.echo(render(table, output, color=sys.stdout.isatty()).rstrip("\n"))


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
