"""A native stack is destroyed and restored: money, samples, silences, Grafana's state and tokens are as before."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.alerts.real_parts import program
from tests.dashboards.blocks import run_promtool
from tests.stack.scenery import free_offset
from tests.stack.stand_in_grafana_db import content, make

from farthing.domain import conventions as c

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(240)]

FARTHING = (sys.executable, "-m", "farthing.cli.main")
EVERYTHING = '{__name__=~".+"}'
PATIENCE_SECONDS = 60
DAY = 86_400


@dataclass
class Stack:
    """A native stack in a folder of its own, and what the command line says of it."""

    folder: Path
    offset: int
    token: str = ""
    said: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self, *words: str, status: int = 0) -> str:
        """A command of ours; what it printed."""
        environment = {**os.environ, "FARTHING_CONFIG": str(self.folder / "farthing.yaml")}
        done = subprocess.run(
            [*FARTHING, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self) -> None:
        self.run("up", "--native", "--detach", "--port-offset", str(self.offset))

    def get(self, port: int, path: str, **parameters: str) -> Any:
        """The JSON of a part by its default port."""
        url = f"http://127.0.0.1:{port + self.offset}{path}"
        headers = {"Authorization": f"Bearer {self.token}"} if port == c.DEFAULT_PORT else {}
        return httpx.get(url, params=parameters, headers=headers, trust_env=False).raise_for_status().json()

    def samples(self, at: float, seconds: int) -> dict[str, list[Any]]:
        """Every sample of every series of a span of the past, as Prometheus stores them."""
        data = self.get(9090, "/api/v1/query", query=f"{EVERYTHING}[{seconds}s]", time=repr(at))["data"]
        return {str(sorted(one["metric"].items())): one["values"] for one in data["result"]}

    def exemplars(self) -> set[str]:
        """Each with its series; Prometheus' own snapshots have none."""
        found = self.get(9090, "/api/v1/query_exemplars", query=EVERYTHING, start="0", end=repr(time.time()))["data"]
        return {str((sorted(one["seriesLabels"].items()), each)) for one in found for each in one["exemplars"]}

    def silences(self) -> list[Any]:
        return sorted(self.get(9093, "/api/v2/silences"), key=lambda one: one["id"])

    def books(self, rows: int = -1) -> tuple[int, int]:
        """How many lines the journal has, and their nano-dollars; of its first ``rows`` where that is given."""
        with sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True) as connection:
            found = connection.execute(
                "SELECT count(*), sum(nano) FROM (SELECT nano FROM journal ORDER BY id LIMIT ?)", (rows,)
            ).fetchone()
        connection.close()
        return int(found[0]), int(found[1] or 0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack that runs, with old blocks, a silence, and a Grafana's database beside it."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("backup")
    made = Stack(folder, free_offset(2_000))
    settings = {"stack": {"state_dir": str(made.state), "replay_lead_seconds": 95}}
    (folder / "farthing.yaml").write_text(yaml.safe_dump(settings))
    made.token = _token(made.run("tokens", "add", "ops", "--scope", "read-all"))
    _old_blocks(folder, made.state / "data" / "prometheus")
    try:
        made.up()
        yield made
    finally:
        made.run("down")


def _token(said: str) -> str:
    return next(word for word in said.split() if word.startswith("farthing_"))


def _old_blocks(folder: Path, data: Path) -> None:
    """What Prometheus compacted yesterday."""
    began = int(time.time()) - DAY
    lines = [f'yesterday{{n="{n}"}} {n * at} {began + 15 * at}' for n in range(3) for at in range(400)]
    text = folder / "yesterday.txt"
    text.write_text("# TYPE yesterday gauge\n" + "\n".join(lines) + "\n# EOF\n")
    data.mkdir(parents=True)
    run_promtool("tsdb", "create-blocks-from", "openmetrics", str(text), str(data))


def _eventually(question):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := question()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.3)
    return found


def _silence(stack: Stack) -> None:
    now = datetime.now(UTC)
    body = {
        "matchers": [{"name": "alertname", "value": "Farthing.*", "isRegex": True, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=3)).isoformat(),
        "createdBy": "ada",
        "comment": "while the disks are changed",
    }
    httpx.post(f"http://127.0.0.1:{9093 + stack.offset}/api/v2/silences", json=body, trust_env=False).raise_for_status()


def test_a_stack_that_was_destroyed_comes_back_as_it_was(stack):
    """Backed up while it runs and is written to; then its whole folder goes, settings included."""
    grafana = make(stack.state / "data" / "grafana" / "grafana.db")
    _eventually(lambda: stack.books()[0] > 20)
    # of a moment that is over by the time that the truth is asked for
    _eventually(lambda: len(stack.samples(time.time() - 2, 60)) > 300)
    _silence(stack)
    before = stack.books()
    at = time.time() - 1
    truth = [stack.samples(at, 300), stack.samples(at - DAY + 6_000, 6_100), stack.silences()]
    exemplars = _eventually(stack.exemplars)
    assert [bool(one) for one in truth] == [True] * 3
    file = stack.folder / "kept" / "stack.tar.gz"
    file.parent.mkdir()
    said = stack.run("backup", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    for part in ("ledger", "prometheus", "alertmanager", "grafana", "tokens", "settings"):
        assert f"  {part} " in said
    assert " before, since" not in said
    kept_in_grafana = content(stack.state / "data" / "grafana" / "grafana.db")
    grafana.close()
    assert "a stack runs from" in stack.run("restore", str(file), status=16)
    stack.run("down")
    shutil.rmtree(stack.state)
    (stack.folder / "farthing.yaml").unlink()

    assert "restored as of" in stack.run("restore", str(file))
    restored = stack.books()
    assert restored[0] >= before[0]
    assert stack.books(before[0]) == before
    assert "exists already" in stack.run("restore", str(file), status=16)
    stack.up()
    _eventually(lambda: stack.books()[0] > restored[0])
    assert stack.books(before[0]) == before
    assert stack.samples(at, 300) == truth[0]
    assert stack.samples(at - DAY + 6_000, 6_100) == truth[1]
    assert stack.silences() == truth[2]
    assert stack.exemplars() >= exemplars
    assert content(stack.state / "data" / "grafana" / "grafana.db") == kept_in_grafana
    assert stack.get(c.DEFAULT_PORT, "/api/v1/snapshot")
    log = (stack.state / "logs" / "prometheus.log").read_text()
    assert "level=error" not in log
    assert "corrupt" not in log.lower()
    assert "ok" in stack.run("ledger", "verify", "--output", "csv").lower()
