"""The destruction of every volume, and what is the same after the restore, for a project that runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import httpx
from tests.alerts.real_parts import wait_for

__all__ = ["Project", "destroy_and_restore"]

PATIENCE_SECONDS = 90.0
EVERYTHING = '{__name__=~".+"}'
LOOK_BACK_SECONDS = 120
ADD = "farthing tokens add kept --scope read-all --file /run/farthing/secrets/farthing/tokens.yaml"
# a user's own dashboard, in a database like Grafana's: the image that stands in for it has none
OWN_DASHBOARD = """
import sqlite3
with sqlite3.connect("/var/lib/grafana/grafana.db") as c:
    c.execute("CREATE TABLE dashboard (id INTEGER PRIMARY KEY, uid TEXT, title TEXT, data TEXT)")
    c.execute("INSERT INTO dashboard VALUES (1, 'own', 'Own', '{}')")
"""
READ_DASHBOARDS = """
import sqlite3
with sqlite3.connect("file:/var/lib/grafana/grafana.db?mode=ro", uri=True) as c:
    print(c.execute("SELECT * FROM dashboard").fetchall())
"""


class Project(Protocol):
    """What is needed of a running Compose project."""

    folder: Path

    def up(self) -> str: ...

    def down(self) -> None: ...

    def compose(self, *words: str) -> str: ...

    def exec(self, service: str, *words: str) -> str: ...

    def url(self, port: int, path: str) -> str: ...

    def settled(self, up_to: int = ...) -> tuple[int, int, int]: ...


@dataclass(frozen=True)
class Truth:
    """What must be the same again."""

    settled: tuple[int, int, int]
    samples: dict[str, Any]
    silences: list[Any]
    dashboards: str
    token: str


def destroy_and_restore(project: Project, backup: Callable[[Path], str], restore: Callable[[Path], str]) -> None:
    """Back up what runs, remove every volume, restore, start, and compare: money to the nano-dollar, all samples.

    ``backup`` and ``restore`` are given the file; they run Farthing's own commands. Fails naming what differs.
    """
    at = time.time() - 1
    _silence(project)
    project.exec("grafana", "python3", "-c", OWN_DASHBOARD)
    said = project.exec("farthing", "sh", "-c", ADD)
    found = re.search(r"farthing_[\w-]+", said)
    assert found, "no token was printed"
    truth = Truth(
        project.settled(),
        _samples(project, at),
        _silences(project),
        project.exec("grafana", "python3", "-c", READ_DASHBOARDS),
        found[0],
    )
    assert truth.settled[0] > 0
    assert len(truth.samples) > 300
    file = project.folder / "kept" / "stack.tar.gz"
    file.parent.mkdir()
    backup(file)
    assert file.stat().st_mode & 0o777 == 0o600
    project.compose("down", "--volumes", "--remove-orphans")
    restore(file)
    project.up()

    assert project.settled(truth.settled[2]) == truth.settled
    wait_for(lambda: project.settled()[0] > truth.settled[0], PATIENCE_SECONDS, "new lines in the restored journal")
    assert project.settled(truth.settled[2]) == truth.settled
    assert _samples(project, at) == truth.samples
    assert _silences(project) == truth.silences
    assert project.exec("grafana", "python3", "-c", READ_DASHBOARDS) == truth.dashboards
    answer = httpx.get(
        project.url(9464, "/metrics"), headers={"Authorization": f"Bearer {truth.token}"}, trust_env=False
    )
    assert answer.status_code == httpx.codes.OK


def _samples(project: Project, at: float) -> dict[str, Any]:
    """Every sample of every series of the last minutes before a moment."""
    parameters = {"query": f"{EVERYTHING}[{LOOK_BACK_SECONDS}s]", "time": repr(at)}
    found = _ask(project, "prometheus", 9090, "/api/v1/query", params=parameters)["data"]["result"]
    return {str(sorted(one["metric"].items())): one["values"] for one in found}


def _silence(project: Project) -> None:
    now = datetime.now(UTC)
    body = {
        "matchers": [{"name": "alertname", "value": "NoSuchAlert", "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=3)).isoformat(),
        "createdBy": "ada",
        "comment": "kept over a restore",
    }
    _ask(project, "alertmanager", 9093, "/api/v2/silences", "POST", json=body)


def _silences(project: Project) -> list[Any]:
    found: list[Any] = _ask(project, "alertmanager", 9093, "/api/v2/silences")
    return sorted(found, key=lambda one: str(one["id"]))


def _ask(project: Project, service: str, port: int, path: str, method: str = "GET", **body: Any) -> Any:
    """What a part answers; its password is another one after a restore without secrets."""
    login = ("farthing", project.exec(service, "cat", "/run/farthing/secrets/password").strip())
    answer = httpx.request(method, project.url(port, path), auth=login, trust_env=False, **body)
    return answer.raise_for_status().json()
