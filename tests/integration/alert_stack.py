"""The whole chain of alerts: farthing serve, a probed vLLM, Prometheus, Alertmanager, and a webhook that takes mail.

Expressions, labels and annotations are the generated ones. What is shortened is how long a condition must last
(``for``), how often groups are evaluated, and the thresholds that are settings.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.alerts.live_prometheus import Prometheus
from tests.alerts.notified import written
from tests.alerts.real_parts import free_port, program, running, wait_for
from tests.integration.engine.real_engine import RealEngine, running_engine
from tests.integration.mailbox import mailbox
from tests.integration.probe.stand import GPU
from tests.service.running import Serve

from farthing.alerts.render import render_rules
from farthing.replay.recording import load_recording
from farthing.replay.sender import Sender
from farthing.replay.wire_records import TimedRecord, wire_records
from farthing.settings import Settings
from farthing.stack.scrape import ENGINE_TARGETS, prometheus_files, render_targets

__all__ = ["BUDGET_TENANT", "ENGINE", "RECORDED", "AlertStack", "Fired", "alert_stack"]

ENGINE = "tiny-1"
"""The real engine."""
RECORDED = "recorded-1"
"""An engine whose records the test sends itself: a recorded H100."""
BUDGET_TENANT = "acme"
"""A tenant of the recording that has a budget."""
BUDGET_USD = 0.001
IN_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""By its path: vLLM for CPUs takes the other executor where it is told ``uni``."""
LAYERS = 24
LASTING_SECONDS = 4
INTERVAL_SECONDS = 2
PATIENCE_SECONDS = 150.0
RECORDING = "h100-llama8b-vllm0.26"


@dataclass(frozen=True)
class Fired:
    """One alert of a message."""

    at: float
    """Monotonic seconds at which its message came."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class _Dated(list[tuple[str, dict[str, Any]]]):
    """Posts, and when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def append(self, post: tuple[str, dict[str, Any]]) -> None:
        """Keep a post that comes now."""
        self.at.append(time.monotonic())
        super().append(post)


@dataclass
class AlertStack:
    """Everything that runs; ``delays`` collects the seconds between each cause and its message."""

    folder: Path
    _dated: _Dated
    serve: Serve
    prometheus: Prometheus
    alertmanager: str
    settings: dict[str, Any]
    make_engine: Callable[[], AbstractContextManager[RealEngine]]
    engines: ExitStack
    booting: Future[RealEngine] | None = None
    delays: dict[str, float] = field(default_factory=dict)
    sent_at: float = 0.0
    """Monotonic seconds at which the recording went on last."""
    _engine: RealEngine | None = None
    _records: list[TimedRecord] = field(default_factory=list)
    _first_ns: int = 0
    _sequence: int = 0

    # ---- what causes trouble -------------------------------------------------------------------

    @property
    def engine(self) -> RealEngine:
        """The real engine, healthy; Prometheus scrapes it from now on."""
        if self._engine is None:
            assert self.booting is not None
            self._engine = self.booting.result()
            self.write_targets()
        return self._engine

    def write_targets(self) -> None:
        """Tell Prometheus of the engine."""
        parsed = Settings.model_validate(self.settings)
        new = self.folder / "targets.new"
        new.write_text(render_targets(parsed.engines))
        new.rename(self.folder / ENGINE_TARGETS)

    def revive_engine(self) -> None:
        """Start the engine again where it was."""
        self._engine = self.engines.enter_context(self.make_engine())

    def kill_engine(self) -> None:
        """Kill -9, with its children."""
        os.killpg(self.engine.process.pid, signal.SIGKILL)

    def _core(self) -> list[int]:
        """The processes that the API server has started: all that makes tokens."""
        parent = self.engine.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        assert children, "the engine's core runs in the API server's own process"
        return [int(child) for child in children]

    def signal_core(self, what: signal.Signals) -> None:
        """Stop or continue all that makes tokens, so that the API server alone answers."""
        for pid in self._core():
            os.kill(pid, what)

    def send_recording(self, until_seconds: float, *, usage: bool) -> None:
        """Deliver the recording from where it was to ``until_seconds``, with or without its usage records.

        Sequences are given anew, so that nothing is missing that the books would wait for.
        """
        if not self._records:
            recording = load_recording(RECORDING)
            began = time.time_ns() - (recording.end_ns - recording.start_ns)
            self._records = wire_records(recording, boot="recorded", engine=RECORDED, wall_start_ns=began)
            self._first_ns, self._sequence = began, 0
        upto = self._first_ns + round(until_seconds * 1e9)
        due = [timed.record for timed in self._records if timed.wall_ns <= upto]
        self._records = self._records[len(due) :]
        chosen = []
        for record in due:
            if usage or record["kind"] != "usage":
                chosen.append({**record, "seq": self._sequence})
                self._sequence += 1

        async def deliver() -> None:
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                assert await Sender(self.serve.url, None, client).send(chosen) == len(chosen)

        asyncio.run(deliver())
        self.sent_at = time.monotonic()

    # ---- what comes of it ----------------------------------------------------------------------

    def told(self, alert: str, status: str = "firing", since: int = 0, **labels: str) -> list[Fired]:
        """The alerts of that name, status and labels in messages after the first ``since``."""
        wanted = {"alertname": alert, **labels}.items()
        return [
            Fired(at, one["labels"], one["annotations"])
            for at, (_, body) in list(zip(self._dated.at, self._dated, strict=False))[since:]
            for one in body["alerts"]
            if one["status"] == status and wanted <= one["labels"].items()
        ]

    @property
    def messages(self) -> int:
        """How many messages came."""
        return len(self._dated)

    def await_message(self, alert: str, status: str = "firing", since: int = 0, **labels: str) -> Fired:
        """The first such alert in a message, waiting for it."""
        what = f"a message that {alert} {labels} is {status}"
        wait_for(lambda: bool(self.told(alert, status, since, **labels)), PATIENCE_SECONDS, what)
        return self.told(alert, status, since, **labels)[0]

    def await_cause_told(self, scenario: str, caused: float, alert: str, since: int, **labels: str) -> Fired:
        """The message that ``scenario``, begun at ``caused`` (monotonic), leads to; its delay is kept."""
        fired = self.await_message(alert, since=since, **labels)
        self.delays[scenario] = fired.at - caused
        return fired

    def await_held_back(self, alert: str, by: str, **labels: str) -> None:
        """Wait until Alertmanager holds an alert back because of another one, and says which."""

        def held() -> bool:
            alerts = httpx.get(f"{self.alertmanager}/api/v2/alerts", trust_env=False).json()
            names = {one["fingerprint"]: one["labels"]["alertname"] for one in alerts}
            return any(
                by in {names.get(source) for source in one["status"]["inhibitedBy"]}
                for one in alerts
                if {"alertname": alert, **labels}.items() <= one["labels"].items()
            )

        wait_for(held, PATIENCE_SECONDS, f"that {by} holds {alert} back")

    def hand_over(self, labels: Mapping[str, str], seconds: int) -> None:
        """Give Alertmanager an alert by hand that fires for so long, as Prometheus would."""
        ends = datetime.now(UTC) + timedelta(seconds=seconds)
        alerts = [{"labels": dict(labels), "endsAt": ends.isoformat()}]
        httpx.post(f"{self.alertmanager}/api/v2/alerts", json=alerts, trust_env=False).raise_for_status()

    def report(self) -> str:
        """The delays and their median."""
        lines = [f"{name}: {seconds:.1f} s" for name, seconds in self.delays.items()]
        if self.delays:
            lines.append(f"median of {len(self.delays)}: {statistics.median(self.delays.values()):.1f} s")
        return "\n".join(lines)


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """What farthing serve reads."""
    (folder / "farthing.yaml").write_text(yaml.safe_dump(dict(settings)))


@contextmanager
def alert_stack(folder: Path, python: Path, model: Path, probe: Path) -> Iterator[AlertStack]:
    """All of it within the block; the engine starts beside the rest, and is waited for where it is first needed."""
    engine_port, serve_port, alertmanager_port = free_port(), free_port(), free_port()
    spool = folder / "spool"
    spool.mkdir()
    with ExitStack() as parts:
        box, dated = parts.enter_context(mailbox()), _Dated()
        box.posts = dated
        settings = _settings(folder, f"http://127.0.0.1:{engine_port}", box.url("/hook"))
        write_settings(folder, settings)
        parsed = Settings.model_validate(settings)
        environment = {
            "PYTHONPATH": str(probe),
            "FARTHING_PROBE_URL": f"http://127.0.0.1:{serve_port}",
            "FARTHING_PROBE_ENGINE": ENGINE,
            "FARTHING_PROBE_GPU": GPU,
            "FARTHING_PROBE_SPOOL": str(spool),
            # what is not delivered at once goes to the disk
            "FARTHING_PROBE_QUEUE_MIB": "0",
            "OMP_NUM_THREADS": "1",
        }
        flags = (
            # in one process, as on a GPU: the other executor's two spin on sched_yield while there is work, whereupon
            # Prometheus, Farthing and the clients may wait seconds for a turn, and an alert is neither seen nor told
            *("--distributed-executor-backend", IN_ONE_PROCESS),
            *("--middleware", "farthing_probe.RequestMeter", "--enable-logging-iteration-details"),
            *("--max-num-seqs", "2", "--disable-uvicorn-access-log"),
            # steps as long as a real model's, which the front end can follow
            *("--hf-overrides", json.dumps({"text_config": {"num_hidden_layers": LAYERS}})),
        )

        def make_engine() -> AbstractContextManager[RealEngine]:
            log = folder / "engine.log"
            return running_engine(python, model, log, flags, environment, port=engine_port)

        serve = Serve(folder / "farthing.yaml", serve_port, folder / "serve.log")
        parts.callback(serve.close)
        serve.start()
        serve.wait_ready()
        engines = parts.enter_context(ExitStack())
        pool = parts.enter_context(ThreadPoolExecutor(1))
        booting = pool.submit(lambda: engines.enter_context(make_engine()))

        alertmanager = f"http://127.0.0.1:{alertmanager_port}"
        _start_alertmanager(parts, folder, parsed, alertmanager)
        prometheus = _start_prometheus(parts, folder, parsed, serve.url, alertmanager)
        stack = AlertStack(folder, dated, serve, prometheus, alertmanager, settings, make_engine, engines, booting)
        yield stack


def _settings(folder: Path, engine_url: str, webhook: str) -> dict[str, Any]:
    return {
        "ledger": f"sqlite:///{folder}/ledger.db",
        "engines": [{"name": ENGINE, "url": engine_url, "gpu": "H100-SXM", "probe": True}],
        "costing": {"scrape_seconds": 1, "grace_seconds": 20},
        "budgets": [{"tenant": BUDGET_TENANT, "monthly_usd": BUDGET_USD, "thresholds": [0.8, 1]}],
        "slo_defaults": False,
        "slos": [{"name": "first-token", "signal": "ttft", "bound_seconds": 0.5, "objective": 0.85}],
        "alerts": {
            "webhook_url": webhook,
            "queue_requests": 10,
            "e2e_p95_seconds": 0.5,
            "stalled_seconds": 1,
            "unattributed_ratio": 0.5,
        },
        "notify": {"group_wait_seconds": 3, "group_interval_seconds": 2},
    }


def _start_alertmanager(parts: ExitStack, folder: Path, settings: Settings, url: str) -> None:
    own = folder / "alertmanager"
    own.mkdir()
    arguments = [
        program("prometheus-alertmanager"),
        f"--config.file={written(own, settings) / 'alertmanager.yml'}",
        f"--storage.path={own / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    parts.enter_context(running(arguments, f"{url}/-/ready", own / "log"))


def _start_prometheus(
    parts: ExitStack, folder: Path, settings: Settings, serve_url: str, alertmanager: str
) -> Prometheus:
    files = prometheus_files(
        engines=(),
        rules={name: _hastened(text) for name, text in render_rules(settings).items()},
        farthing_address=serve_url.removeprefix("http://"),
        alertmanager_address=alertmanager.removeprefix("http://"),
        interval_seconds=INTERVAL_SECONDS,
    )
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    parts.enter_context(running(arguments, f"http://{address}/-/ready", folder / "prometheus.log"))
    return Prometheus(f"http://{address}")


def _hastened(text: str) -> str:
    """A rule file whose groups are evaluated often and whose alerts wait for seconds; what they say is as it was."""
    document = yaml.safe_load(text)
    for group in document["groups"]:
        group["interval"] = f"{INTERVAL_SECONDS}s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{min(int(rule['for'].removesuffix('s')), LASTING_SECONDS)}s"
    return yaml.safe_dump(document, sort_keys=False)
