"""Verifies a whole stack on a machine that has the images: every panel, the traces, and an alert that arrives.

From a checkout, with Docker:

    .venv/bin/python deploy/verify/verify.py

brings a stack of its own up beside whatever runs (its ports are moved, its volumes are its own), asks every query of
every provisioned dashboard through Grafana as a browser does, looks for a trace with its cost in Jaeger, waits for an
alert at a webhook that it opens, prints a table and takes the stack down. Exit status 0: all is well; 1: something is
not; 2: the stack did not start.

    .venv/bin/python deploy/verify/verify.py --grafana URL --grafana-password-file FILE --jaeger URL

verifies a stack that runs already instead; then no alert is waited for.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from farthing.dashboards.questions import Asked, Board, Chosen, Span, Variable, boards, default_of, filled
from farthing.dashboards.render import render_dashboards
from farthing.domain.errors import FarthingError
from farthing.settings import Settings

GRAFANA_PORT = 3000
JAEGER_PORT = 16686
SOURCE = "prometheus"
"""UID of the provisioned data source."""
SCRAPE_SECONDS = 5
RANGE_SECONDS = 15 * 60
TENANT = "acme"
"""A tenant of the replayed recording, whose budget is spent at once."""
COST_TAG = "farthing.cost"
"""How the attributes of a span that tell its cost begin."""
POLL_SECONDS = 5.0
REASONS = Path(__file__).with_name("without-data.yaml")


@dataclass(frozen=True)
class Target:
    """A stack that runs, and how one logs in."""

    grafana: str
    password: str
    jaeger: str = ""
    jaeger_login: tuple[str, str] | None = None
    user: str = "admin"


@dataclass
class Report:
    """One line for each thing that was looked at."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)
    """What, ok, FAILED or a word for neither, and details."""

    def add(self, what: str, ok: bool | str, detail: str = "") -> None:
        """Remember and show at once."""
        word = ok if isinstance(ok, str) else ("ok" if ok else "FAILED")
        self.lines.append((what, word, detail))
        print(f"{what:<58} {word:<8} {detail}", flush=True)  # noqa: T201 - this is what the script is for

    @property
    def failed(self) -> int:
        """How many things are not as they must be."""
        return sum(word == "FAILED" for _, word, _ in self.lines)


class Grafana:
    """A Grafana's API, as its front end uses it."""

    def __init__(self, client: httpx.Client, target: Target) -> None:
        self._client = client
        self._url = target.grafana.rstrip("/")
        self._login = (target.user, target.password)

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON of a GET. Raises httpx.HTTPError."""
        return self._client.get(f"{self._url}{path}", params=parameters, auth=self._login).raise_for_status().json()

    def status_without_login(self, path: str) -> int:
        """What somebody is told who did not log in."""
        return self._client.get(f"{self._url}{path}").status_code

    def label_values(self, label: str, match: str, span: Span) -> list[str]:
        """What a variable can be, by the data source's own resource (pkg/promlib/resource)."""
        parameters = {"start": str(round(span.start)), "end": str(round(span.end))}
        if match:
            parameters["match[]"] = match
        path = f"/api/datasources/uid/{SOURCE}/resources/api/v1/label/{label}/values"
        return sorted(self.get(path, **parameters)["data"])

    def query(self, asked: Asked, expr: str, span: Span, step: float) -> tuple[int, str]:
        """How many values a panel's query gives, and what went wrong (HTTP API, "Query a data source by UID")."""
        query = {
            "refId": asked.letter,
            "datasource": {"type": "prometheus", "uid": SOURCE},
            "expr": expr,
            "instant": asked.instant,
            "range": not asked.instant,
            "intervalMs": round(step * 1_000),
            "maxDataPoints": asked.points or 1_000,
        }
        body = {"queries": [query], "from": str(round(span.start * 1_000)), "to": str(round(span.end * 1_000))}
        answer = self._client.post(f"{self._url}/api/ds/query", json=body, auth=self._login)
        try:
            result = answer.json()["results"][asked.letter]
        except (ValueError, KeyError, TypeError):
            return 0, f"HTTP {answer.status_code}: {answer.text[:200]}"
        if result.get("error"):
            return 0, str(result["error"])[:300]
        # the first field of a frame is the time
        columns = [column for frame in result.get("frames", ()) for column in frame["data"]["values"][1:]]
        return sum(value is not None for column in columns for value in column), ""


def verify_panels(
    grafana: Grafana,
    report: Report,
    seconds: float,
    reasons: Mapping[str, str],
    span_of: Callable[[], Span] = lambda: Span(time.time() - RANGE_SECONDS, time.time(), SCRAPE_SECONDS),
) -> None:
    """Every query of every dashboard, asked until it has data or time is up."""
    expected = {board.uid for board in boards(render_dashboards(Settings()))}
    provisioned = {one["uid"] for one in grafana.get("/api/search", type="dash-db")}
    report.add(
        "every dashboard is provisioned", expected <= provisioned, ", ".join(sorted(expected - provisioned)) or "all"
    )
    taken = [grafana.get(f"/api/dashboards/uid/{uid}")["dashboard"] for uid in sorted(expected & provisioned)]
    found = boards({one["uid"]: json.dumps(one) for one in taken})
    deadline = time.monotonic() + seconds
    left = {(board.uid, asked.id): (board, asked) for board in found for asked in board.asked}
    total, wrong = len(left), {}
    while left:
        span = span_of()
        for board in found:
            options = _options(grafana, board, span)
            for key, (_, asked) in [one for one in left.items() if one[0][0] == board.uid]:
                count, error = _ask(grafana, board, asked, span, options)
                wrong[key] = error
                if count:
                    del left[key]
        awaited = [key for key, (_, asked) in left.items() if wrong[key] or not _reason(reasons, asked)]
        if not awaited or time.monotonic() >= deadline:
            break
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
    _tell(report, total, [(asked, wrong[key]) for key, (_, asked) in left.items()], reasons)


def _tell(report: Report, total: int, left: Sequence[tuple[Asked, str]], reasons: Mapping[str, str]) -> None:
    excused = 0
    for asked, error in left:
        reason = _reason(reasons, asked)
        if error or not reason:
            report.add(asked.id, ok=False, detail=error or "no data")
        else:
            excused += 1
            report.add(asked.id, "empty", reason)
    report.add("panel queries with data", not left or excused == len(left), f"{total - len(left)} of {total}")


def _reason(reasons: Mapping[str, str], asked: Asked) -> str:
    """Why a query may have no data; empty: it must have some."""
    return next((text for pattern, text in reasons.items() if re.fullmatch(pattern, asked.id)), "")


def _options(grafana: Grafana, board: Board, span: Span) -> dict[str, list[str]]:
    """What can be chosen of each variable, each seeing the ones before it."""
    options: dict[str, list[str]] = {}
    chosen: dict[str, Chosen] = {}
    for variable in board.variables:
        options[variable.name] = _listed(grafana, variable, chosen, options, span)
        chosen[variable.name] = default_of(variable)
    return options


def _listed(
    grafana: Grafana,
    variable: Variable,
    chosen: Mapping[str, Chosen],
    options: Mapping[str, Sequence[str]],
    span: Span,
) -> list[str]:
    if variable.kind != "query":
        return [one.strip() for one in variable.query.split(",")]
    query = filled(variable.query, chosen, options, span.macros(span.step()))
    parts = re.fullmatch(r"label_values\((?:(.+),\s*)?(\w+)\)", query)
    if parts is None:
        raise LookupError(f"variable {variable.name} asks {query!r}, which this script does not know")
    return grafana.label_values(parts[2], parts[1] or "", span)


def _ask(
    grafana: Grafana, board: Board, asked: Asked, span: Span, options: Mapping[str, Sequence[str]]
) -> tuple[int, str]:
    chosen = {one.name: default_of(one) for one in board.variables}
    step = span.step(asked.minimum, asked.points)
    return grafana.query(asked, filled(asked.expr, chosen, options, span.macros(step)), span, step)


def verify_traces(client: httpx.Client, target: Target, report: Report, seconds: float) -> None:
    """A trace of a request that tells what it cost; the first settled windows have to be waited for."""
    base = target.jaeger.rstrip("/")

    def get(path: str, **parameters: str) -> Any:
        return (
            client.get(f"{base}{path}", params=parameters, auth=target.jaeger_login).raise_for_status().json()["data"]
        )

    deadline = time.monotonic() + seconds
    report.add("Jaeger answers", ok=True, detail=f"{len(_services(get))} services")
    while not (costs := _costs(get)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    detail = ", ".join(costs) or f"no trace has {COST_TAG}.* after {seconds:.0f} s"
    report.add("a trace tells its cost", bool(costs), detail)


def _services(get: Callable[..., Any]) -> list[str]:
    return [name for name in get("/api/services") or () if not name.startswith("jaeger")]


def _costs(get: Callable[..., Any]) -> list[str]:
    """The attributes that tell a cost, of the latest traces of each service."""
    found = [get("/api/traces", service=name, limit="20", lookback="1h") or () for name in _services(get)]
    tags = {tag["key"] for traces in found for trace in traces for span in trace["spans"] for tag in span["tags"]}
    return sorted(tag for tag in tags if tag.startswith(COST_TAG))


def verify_login(grafana: Grafana, report: Report) -> None:
    """Nobody sees anything without the password, and with it the data source works."""
    report.add("Grafana asks for a login", grafana.status_without_login("/api/search") in {401, 403})
    report.add("Grafana's release", ok=True, detail=str(grafana.get("/api/health").get("version", "?")))
    health = grafana.get(f"/api/datasources/uid/{SOURCE}/health")
    report.add("Grafana reaches Prometheus", health.get("status") == "OK", str(health.get("message", ""))[:200])


def verify_alert(posts: Sequence[Mapping[str, Any]], report: Report, seconds: float) -> None:
    """An alert that Prometheus raised and Alertmanager told the webhook."""
    deadline = time.monotonic() + seconds
    while not (fired := _fired(posts)) and time.monotonic() < deadline:
        time.sleep(0.5)
    report.add("an alert arrives at the webhook", bool(fired), ", ".join(sorted(fired)) or f"none in {seconds:.0f} s")


def _fired(posts: Sequence[Mapping[str, Any]]) -> set[str]:
    alerts = [alert for post in list(posts) for alert in post.get("alerts", ())]
    return {alert["labels"]["alertname"] for alert in alerts if alert.get("status") == "firing"}


# ---- a stack of its own --------------------------------------------------------------------------------------


@contextmanager
def webhook(address: str) -> Iterator[tuple[list[dict[str, Any]], int, str]]:
    """What is posted to a path that nobody guesses, its port and that path."""
    posts: list[dict[str, Any]] = []
    path = f"/{secrets.token_urlsafe(16)}"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))
            if self.path == path:
                posts.append(json.loads(body))
            self.send_response(200 if self.path == path else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield posts, server.server_port, path
        finally:
            server.shutdown()


@contextmanager
def own_stack(offset: int, hook: str) -> Iterator[Target]:
    """`farthing up --compose` with a webhook and a budget that is spent at once; gone at the end with its volumes."""
    folder = Path(tempfile.mkdtemp(prefix="farthing-verify-"))
    settings = {
        "stack": {"state_dir": str(folder / "state")},
        "budgets": [{"tenant": TENANT, "monthly_usd": 0.001, "thresholds": [0.8, 1]}],
        # the recording's requests have no tier, and what is promised by default is by tier
        "slos": [{"name": "first-token", "signal": "ttft", "bound_seconds": 0.5}],
        "alerts": {"webhook_url": hook},
        "notify": {"group_wait_seconds": 1, "group_interval_seconds": 2},
    }
    config = folder / "farthing.yaml"
    config.write_text(yaml.safe_dump(settings))
    project = f"farthing-{offset}" if offset else "farthing"
    command = [sys.executable, "-m", "farthing.cli.main"]
    try:
        up = [*command, "up", "--compose", "--detach", "--port-offset", str(offset), "--config", str(config)]
        # the login link is of no use to anybody after the stack is gone
        if subprocess.run(up, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise SystemExit(2)
        yield Target(
            grafana=f"http://127.0.0.1:{GRAFANA_PORT + offset}",
            password=_secret(project, "grafana", "admin-password"),
            jaeger=f"http://127.0.0.1:{JAEGER_PORT + offset}",
            jaeger_login=("farthing", _secret(project, "grafana", "jaeger-password")),
        )
    finally:
        subprocess.run([*command, "down", "--config", str(config)], check=False)
        volumes = _docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}").split()
        if volumes:
            _docker("volume", "rm", *volumes)
        shutil.rmtree(folder, ignore_errors=True)


def _secret(project: str, service: str, name: str) -> str:
    labels = (f"label=com.docker.compose.{key}={value}" for key, value in (("project", project), ("service", service)))
    container = _docker("ps", "--quiet", *(word for label in labels for word in ("--filter", label))).strip()
    return _docker("exec", container, "cat", f"/run/farthing/secrets/{name}").strip()


def _docker(*words: str) -> str:
    docker = shutil.which("docker") or "docker"
    return subprocess.run([docker, *words], capture_output=True, text=True, check=True).stdout


def _gateway() -> str:
    """This machine's address as containers reach it."""
    found = _docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    return found or "127.0.0.1"


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Verify a whole stack; see this file's beginning.")
    parser.add_argument("--port-offset", type=int, default=20_000, help="of the stack that is brought up")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for data, and for the alert, to come")
    parser.add_argument("--webhook-address", help="where containers reach this machine; default: the bridge's gateway")
    parser.add_argument("--grafana", help="base URL of a running Grafana, instead of a stack of its own")
    parser.add_argument("--grafana-password-file", type=Path)
    parser.add_argument("--jaeger", default="", help="base URL of a running Jaeger")
    parser.add_argument("--jaeger-password-file", type=Path)
    chosen = parser.parse_args(words)
    reasons = {str(key): str(text) for key, text in yaml.safe_load(REASONS.read_text(encoding="utf-8")).items()}
    report = Report()
    with ExitStack() as stack:
        posts: list[dict[str, Any]] | None = None
        if chosen.grafana:
            target = _running(parser, chosen)
        else:
            posts, port, path = stack.enter_context(webhook(chosen.webhook_address or _gateway()))
            hook = f"http://host.docker.internal:{port}{path}"
            target = stack.enter_context(own_stack(chosen.port_offset, hook))
        client = stack.enter_context(httpx.Client(timeout=30.0, trust_env=False))
        grafana = Grafana(client, target)
        checks: list[Callable[[], None]] = [
            lambda: verify_login(grafana, report),
            lambda: verify_panels(grafana, report, chosen.patience, reasons),
        ]
        if posts is not None:
            checks.append(lambda: verify_alert(posts, report, chosen.patience))
        if target.jaeger:
            checks.append(lambda: verify_traces(client, target, report, chosen.patience))
        for check in checks:
            try:
                check()
            except (httpx.HTTPError, LookupError, ValueError, TypeError) as error:
                report.add("a part does not answer as it must", ok=False, detail=" ".join(str(error).split())[:300])
    report.add("verified", report.failed == 0, f"{report.failed} of {len(report.lines)} failed")
    return 1 if report.failed else 0


def _running(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> Target:
    if chosen.grafana_password_file is None:
        parser.error("--grafana needs --grafana-password-file")
    login = chosen.jaeger_password_file
    return Target(
        grafana=chosen.grafana,
        password=chosen.grafana_password_file.read_text(encoding="utf-8").strip(),
        jaeger=chosen.jaeger,
        jaeger_login=("farthing", login.read_text(encoding="utf-8").strip()) if login else None,
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FarthingError, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"verify: {problem}")
