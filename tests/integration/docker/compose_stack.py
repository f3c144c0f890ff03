"""The whole Compose stack on a real engine: `farthing up` with the committed compose.yaml, images stood in for."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.alerts.real_parts import wait_for
from tests.integration.docker.base_image import import_base
from tests.integration.docker.engine import DockerEngine, docker_engine
from tests.stack.scenery import free_offset

from farthing.settings import Settings
from farthing.stack.compose_config import COMPOSE_FILE
from farthing.stack.container import compose_command

__all__ = ["PATIENCE_SECONDS", "STOOD_IN", "TENANT", "ComposeStack", "compose_stack", "login_token"]

ROOT = Path(__file__).parents[3]
IMAGES = Path(__file__).with_name("images")
BASE = "base:local"
PYTHON_IMAGE = "python:3.11-slim-bookworm"
"""What farthing's Dockerfile stands on; here the base by that name."""
STOOD_IN = ("prometheus", "alertmanager", "grafana", "jaeger")
TENANT = "acme"
"""A tenant of the recording whose budget is spent at once."""
PATIENCE_SECONDS = 90.0
SETTLED = """
import sqlite3, sys
ledger = sqlite3.connect("file:/var/lib/farthing/ledger.db?mode=ro", uri=True)
what = "COUNT(*), COALESCE(SUM(nano), 0), COALESCE(MAX(id), 0)"
print(*ledger.execute(f"SELECT {what} FROM journal WHERE state = 'settled' AND id <= ?", [sys.argv[1]]).fetchone())
"""


@dataclass
class ComposeStack:
    """A running project; ``posts`` is what Alertmanager told the world outside."""

    engine: DockerEngine
    folder: Path
    offset: int
    posts: list[dict[str, Any]]
    printed: str = ""
    """What `farthing up` said when it started first."""
    _secrets: dict[str, str] = field(default_factory=dict)

    @property
    def project(self) -> str:
        """What Compose calls it."""
        return f"farthing-{self.offset}"

    @property
    def environment(self) -> dict[str, str]:
        """The engine's, with the images swapped."""
        images = {f"{name.upper()}_IMAGE": f"stand-in/{name}:local" for name in STOOD_IN}
        return self.engine.environment | images

    def farthing(self, *words: str) -> str:
        """Run the command line's ``words``; fail with what it says."""
        command = [sys.executable, "-m", "farthing.cli.main", *words, "--config", str(self.folder / "farthing.yaml")]
        return self._run(command)

    def up(self) -> str:
        """What `farthing up` prints."""
        return self.farthing("up", "--compose", "--detach", "--port-offset", str(self.offset))

    def down(self) -> None:
        """Stop and remove the containers, and leave the volumes."""
        self.farthing("down")

    def compose(self, *words: str) -> str:
        """Run Compose as a person does, in the folder of compose.yaml."""
        command = compose_command()
        assert command is not None
        return self._run([*command, "--project-name", self.project, *words], cwd=ROOT / COMPOSE_FILE.parent)

    def exec(self, service: str, *words: str) -> str:
        """What a command within a container prints."""
        return self.engine.docker("exec", self.name(service), *words).stdout

    def name(self, service: str) -> str:
        """The container of a service."""
        label = f"label=com.docker.compose.service={service}"
        found = self.engine.docker("ps", "--all", "--quiet", "--filter", label).stdout.split()
        assert len(found) == 1, f"{service}: {found}"
        return found[0]

    def containers(self) -> dict[str, dict[str, Any]]:
        """Service -> all that the engine knows of its container."""
        found = self.engine.inspect(*self.engine.docker("ps", "--all", "--quiet").stdout.split())
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def secrets(self) -> dict[str, str]:
        """Every secret by the file it lies in, first seen; those that are shown once stay in here."""
        for volume in self.engine.data.glob("volumes/*-secrets/_data"):
            for path in volume.iterdir():
                if path.name not in {"tokens.yaml", "web.yml", "htpasswd"}:
                    self._secrets.setdefault(f"{volume.parent.name}/{path.name}", path.read_text().strip())
        return self._secrets

    def secret(self, name: str) -> str:
        """One secret, by ``reader/file``."""
        reader, _, file = name.partition("/")
        return self.secrets()[f"{self.project}_{reader}-secrets/{file}"]

    def address(self, service: str) -> str:
        """Where a service is in the network that it publishes through."""
        (one,) = self.engine.inspect(self.name(service))
        return str(one["NetworkSettings"]["Networks"][f"{self.project}_{service}-edge"]["IPAddress"])

    def url(self, port: int, path: str) -> str:
        """Where this machine reaches a published port."""
        return f"http://127.0.0.1:{port + self.offset}{path}"

    def api(self, path: str, **parameters: str) -> Any:
        """The data that Prometheus answers with."""
        login = ("farthing", self.secret("prometheus/password"))
        answer = httpx.get(self.url(9090, path), params=parameters, auth=login, trust_env=False)
        return answer.raise_for_status().json()["data"]

    def value(self, query: str) -> float | None:
        """The one value of an instant query; None without any."""
        result = self.api("/api/v1/query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def metrics(self) -> str:
        """What the service exports."""
        headers = {"Authorization": f"Bearer {self.secret('prometheus/farthing-token')}"}
        return httpx.get(self.url(9464, "/metrics"), headers=headers, trust_env=False).raise_for_status().text

    def settled(self, up_to: int = 2**62) -> tuple[int, int, int]:
        """Rows, nano-dollars and last number of the settled lines of the journal up to a number."""
        rows, nano, last = self.exec("farthing", "python", "-c", SETTLED, str(up_to)).split()
        return int(rows), int(nano), int(last)

    def await_health(self, service: str, restarts: int = 0) -> None:
        """Wait until a container is healthy, having come back at least so often."""

        def healthy() -> bool:
            (one,) = self.engine.inspect(self.name(service))
            return bool(one["State"].get("Health", {}).get("Status") == "healthy" and one["RestartCount"] >= restarts)

        wait_for(healthy, PATIENCE_SECONDS, f"{service}'s health")

    def _run(self, command: list[str], cwd: Path | None = None) -> str:
        done = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout


@contextlib.contextmanager
def compose_stack(folder: Path) -> Iterator[ComposeStack]:
    """The stack runs within the block, on an engine of its own."""
    with docker_engine() as engine, _webhook(engine.gateway) as (posts, port):
        _images(engine)
        settings = {
            "stack": {"state_dir": str(folder / "state")},
            "budgets": [{"tenant": TENANT, "monthly_usd": 0.001, "thresholds": [0.8, 1]}],
            "alerts": {"webhook_url": f"http://host.docker.internal:{port}/hook"},
            "notify": {"group_wait_seconds": 1, "group_interval_seconds": 2},
        }
        Settings.model_validate(settings)
        (folder / "farthing.yaml").write_text(yaml.safe_dump(settings))
        stack = ComposeStack(engine, folder, free_offset(2000), posts)
        stack.printed = stack.up()
        yield stack


def _images(engine: DockerEngine) -> None:
    import_base(engine, BASE)
    engine.docker("tag", BASE, PYTHON_IMAGE)
    for name in STOOD_IN:
        engine.docker("build", "--quiet", "--target", name, "--tag", f"stand-in/{name}:local", str(IMAGES))


@contextlib.contextmanager
def _webhook(address: str) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """What is posted to a port of this machine that containers reach."""
    posts: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing: pytest shows what matters."""

    with ThreadingHTTPServer((address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield posts, server.server_port
        finally:
            server.shutdown()
            thread.join()


def login_token(printed: str) -> str:
    """The token of the login link in what was printed."""
    found = re.findall(r"/login#token=(\S+)", printed)
    assert len(found) == 1, printed
    return str(found[0])
