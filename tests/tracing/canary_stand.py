"""Engines with the probe inside, a ``farthing serve`` with traces and audit on, and the collector that both send to.

Two engines: one hands its spans to the collector itself, the other leaves that to the service.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from tests.alerts.real_parts import free_port
from tests.service.running import FARTHING, Serve, wait_until
from tests.tracing.canaries import Sent, send_all
from tests.tracing.receiver import Receiver, otlp_receiver

from farthing.ledger.repository import Ledger

__all__ = ["MODES", "CanaryStand", "Engine", "canary_stand", "keep_exports", "running_engine_app"]

ROOT = Path(__file__).parents[2]
MODES = ("sdk", "records")
GPU = "NVIDIA H100 80GB HBM3"
SECONDS = 60.0
EXPORT_MS = 100
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SETTINGS = {"token", "salt", "farthing.yaml"}


@dataclass(frozen=True, slots=True)
class Engine:
    """A server of vLLM's shape with the probe inside."""

    name: str
    url: str
    spool: Path
    process: subprocess.Popen[bytes]

    def metric(self, name: str) -> int:
        """One of the probe's own series."""
        lines = httpx.get(f"{self.url}/metrics", trust_env=False).text.splitlines()
        return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"farthing_probe_{name} ")))

    def send(self, plan: list[Sent]) -> dict[str, int | None]:
        """Status of each request by its tag."""
        return asyncio.run(send_all(self.url, plan))

    def stop(self) -> None:
        """End it as an operator does."""
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def running_engine_app(folder: Path, mode: str, intake: str, collector: str, mutation: str = "") -> Iterator[Engine]:
    """An engine that serves within the block, whose logs and spool are in the folder."""
    port, spool = free_port(), folder / f"spool-{mode}"
    (folder / "salt").write_text(secrets.token_hex(16))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FARTHING_", "OTEL_"))}
    probe = {
        "FARTHING_PROBE_URL": intake,
        "FARTHING_PROBE_ENGINE": f"engine-{mode}",
        "FARTHING_PROBE_GPU": GPU,
        "FARTHING_PROBE_SALT_FILE": str(folder / "salt"),
        "FARTHING_PROBE_SPOOL": str(spool),
        "FARTHING_PROBE_QUEUE_MIB": "0",  # all records go through the disk
        "FARTHING_PROBE_TRACES": mode,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_MS),
    }
    if (folder / "token").exists():
        probe["FARTHING_PROBE_TOKEN_FILE"] = str(folder / "token")
    command = [sys.executable, "-m", "tests.tracing.canary_app", str(port), str(folder / f"probe-{mode}.log"), mutation]
    with (folder / f"app-{mode}.out").open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env={**inherited, **probe}, stdout=out, stderr=out)
    engine = Engine(f"engine-{mode}", f"http://127.0.0.1:{port}", spool, process)
    try:
        wait_until(lambda: _answers(engine), SECONDS, f"{engine.name} up")
        yield engine
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _answers(engine: Engine) -> bool:
    assert engine.process.poll() is None, "the engine's application ended"
    try:
        return httpx.get(f"{engine.url}/metrics", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class CanaryStand:
    """Both engines, the service and the collector, and where each keeps its things."""

    folder: Path
    receiver: Receiver
    serve: Serve
    engines: dict[str, Engine]

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger that the service writes."""
        ledger = Ledger.open(f"sqlite:///{self.folder}/ledger.db")
        try:
            yield ledger
        finally:
            ledger.close()

    def wait_delivered(self) -> None:
        """Return once nothing waits in an engine any more."""
        for engine in self.engines.values():
            wait_until(
                lambda engine=engine: engine.metric("waiting_records") == 0 and engine.metric("spooled_bytes") == 0,
                SECONDS,
                f"delivery of all that {engine.name} holds",
            )

    def keep_spools(self) -> int:
        """Copy what is spooled now; returns how many batches there were."""
        batches = [path for engine in self.engines.values() for path in engine.spool.rglob("*.gz")]
        for number, path in enumerate(batches):
            self.keep(f"spool-{number}-{path.name}", path.read_bytes())
        return len(batches)

    def keep(self, name: str, content: bytes) -> None:
        """Save something that was shown, for the search."""
        keep(self.folder, name, content)

    def keep_shown(self, name: str, request_id: str, trace_id: str) -> None:
        """Save what engines and service show: every page and endpoint, and a request in particular."""
        for engine in self.engines.values():
            self.keep(f"{engine.name}-metrics", httpx.get(f"{engine.url}/metrics", trust_env=False).content)
        api = "/api/v1"
        for what, path in {
            "page": "/", "metrics": "/metrics", "snapshot": f"{api}/snapshot", "history": f"{api}/history",
            "report": f"{api}/report?since=today&by=project", "statements": f"{api}/statements",
            "gpus": f"{api}/gpus", f"request of {name}": f"{api}/trace/{request_id}",
            f"trace of {name}": f"{api}/trace/{trace_id}",
        }.items():  # fmt: skip
            answer = self.serve.get(path)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            self.keep(what, answer.content)
        self.keep("exemplars", self.serve.get("/metrics", Accept=OPENMETRICS).content)

    def keep_printed(self, name: str, *arguments: str) -> None:
        """Save what a command prints."""
        command = [str(FARTHING), *arguments, "--config", str(self.folder / "farthing.yaml")]
        done = subprocess.run(command, capture_output=True, check=False, cwd=self.folder, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        self.keep(name, done.stdout + done.stderr)

    def files(self) -> list[Path]:
        """Everything that probes and service left behind, and everything that was kept."""
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name not in SETTINGS]


@contextmanager
def canary_stand(folder: Path) -> Iterator[CanaryStand]:
    """Engines and collector run within the block; the service is started when a test wants it."""
    port = free_port()
    (folder / "token").write_text(secrets.token_hex(16))
    with ExitStack() as stack:
        receiver = stack.enter_context(otlp_receiver())
        config = {
            "ledger": f"sqlite:///{folder}/ledger.db",
            "serve": {"token_file": str(folder / "token")},
            "traces": {"endpoint": receiver.url},
            "audit": {"dir": str(folder / "audit")},
        }
        (folder / "farthing.yaml").write_text(yaml.safe_dump(config))
        serve = Serve(folder / "farthing.yaml", port, folder / "serve.log")
        stack.callback(serve.close)
        engines = {
            mode: stack.enter_context(running_engine_app(folder, mode, serve.url, receiver.url)) for mode in MODES
        }
        yield CanaryStand(folder, receiver, serve, engines)


def keep(folder: Path, name: str, content: bytes) -> None:
    """Save something in the folder of what was kept."""
    (folder / "kept").mkdir(exist_ok=True)
    (folder / "kept" / name.replace("/", "-")).write_bytes(content)


def keep_exports(folder: Path, receiver: Receiver) -> None:
    """Save every request that a collector got, however it was answered: headers and decompressed body."""
    for number, request in enumerate(receiver.requests):
        keep(folder, f"export-{number}", repr(request.headers).encode() + b"\n" + request.body)
