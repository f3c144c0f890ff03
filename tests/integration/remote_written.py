"""A recorded engine, its GPU and farthing serve, scraped by a real Prometheus that writes on to VictoriaMetrics."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tests.alerts.live_prometheus import Prometheus, started
from tests.alerts.real_parts import free_port, program, running
from tests.service.running import Serve, served

from farthing.alerts.render import render_rules
from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING, JOB_GPUS
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.recording import Recording, load_recording
from farthing.replay.sender import Sender
from farthing.settings import Settings

__all__ = ["CLUSTER", "ENGINE", "GPU", "REPLICA", "RemoteWritten", "remote_written"]

RECORDING = "h100-llama8b-devices-vllm0.26"
"""It has the device's own expositions beside the engine's."""
ENGINE = "recorded-1"
GPU = "H100-SXM"
CLUSTER = "eu-1"
REPLICA = "a"
SPEED = 2.0
LEAD_SECONDS = 60.0
RULE_SECONDS = 2


@dataclass(frozen=True)
class RemoteWritten:
    """Everything that runs."""

    prometheus: Prometheus
    victoria_metrics: str
    """Base URL."""
    direct: Serve
    """It has the engine's records, of the probe."""
    fleet: Serve
    """It asks the Prometheus."""
    began: float
    """When everything ran, in seconds since the epoch."""

    def complete_until(self, at: float) -> bool:
        """Whether the Prometheus has stored all of the time up to then: each scrape and each rule is beyond it."""
        shown = self.prometheus.get("query", query="timestamp(up)")["result"]
        groups = self.prometheus.get("rules")["groups"]
        evaluated = [datetime.fromisoformat(group["lastEvaluation"]).timestamp() for group in groups]
        return all(float(series["value"][1]) > at for series in shown) and all(moment > at for moment in evaluated)

    def exported(self, selector: str, start: float, end: float) -> list[dict[str, Any]]:
        """What VictoriaMetrics stored: series with ``metric``, ``values`` and ``timestamps`` in milliseconds."""
        answer = httpx.get(
            f"{self.victoria_metrics}/api/v1/export",
            params={"match[]": selector, "start": str(start), "end": str(end)},
            timeout=60,
            trust_env=False,
        )
        answer.raise_for_status()
        return [httpx.Response(200, content=line).json() for line in answer.text.splitlines()]

    def stored(self, selector: str, at: float, seconds: int) -> list[dict[str, Any]]:
        """What Prometheus stored in the seconds up to a moment: series with ``metric`` and ``values`` (time, text)."""
        return list(self.prometheus.get("query", query=f"{selector}[{seconds}s]", time=f"{at:.3f}")["result"])


@contextmanager
def remote_written(folder: Path) -> Iterator[RemoteWritten]:
    """It runs within the block, one scrape a second."""
    recording = load_recording(RECORDING)
    prometheus, victoria = (f"127.0.0.1:{free_port()}" for _ in range(2))
    fleet = {"name": "prometheus", "url": f"http://{prometheus}", "interval_seconds": 1, "gpus": [{"gpu": GPU}]}
    direct = _serve(folder / "direct", {})
    reader = _serve(folder / "fleet", {"fleet": [fleet]})
    replay = LiveReplay(recording, ReplayOptions(ENGINE, direct.url, None, speed=SPEED, lead_seconds=LEAD_SECONDS))
    app = Starlette(routes=[Route("/gpu", lambda _: _gpu(recording, replay)), Mount("/", replay.app)])
    with served(app) as exposed, _victoria_metrics(folder, victoria):
        target = exposed.removeprefix("http://")
        with _prometheus(folder, prometheus, victoria, target, direct.url.removeprefix("http://")) as server:
            direct.start()
            reader.start()
            try:
                direct.wait_ready()
                reader.wait_ready()
                with _sending(replay, direct.url):
                    yield RemoteWritten(server, f"http://{victoria}", direct, reader, time.time())
            finally:
                direct.kill()
                reader.kill()


def _serve(folder: Path, settings: dict[str, Any]) -> Serve:
    folder.mkdir()
    config = folder / "farthing.yaml"
    port = free_port()
    quiet = {"gpus": {"nvml": "off"}, "stack": {"state_dir": str(folder / "state")}}
    config.write_text(yaml.safe_dump({"ledger": f"sqlite:///{folder}/ledger.db", **quiet, **settings}))
    return Serve(config, port, folder / "serve.log")


def _gpu(recording: Recording, replay: LiveReplay) -> PlainTextResponse:
    """What Farthing's own agent showed of the device at this moment of the recording."""
    now_ns = recording.start_ns + replay.position_ns()
    shown = [scrape.body for scrape in recording.gpu_scrapes if scrape.body and scrape.wall_ns <= now_ns]
    return PlainTextResponse(shown[-1])


@contextmanager
def _victoria_metrics(folder: Path, address: str) -> Iterator[None]:
    arguments = [
        program("victoria-metrics"),
        f"-storageDataPath={folder}/victoria-metrics",
        f"-httpListenAddr={address}",
        "-retentionPeriod=100y",
        "-memory.allowedBytes=256MB",
        # else the last half minute is held back from queries of a range
        "-search.latencyOffset=1ms",
    ]
    with running(arguments, f"http://{address}/health", folder / "victoria-metrics.log"):
        yield


@contextmanager
def _prometheus(folder: Path, address: str, victoria: str, target: str, farthing: str) -> Iterator[Prometheus]:
    rules = folder / "rules"
    rules.mkdir()
    for name, text in render_rules(Settings()).items():
        document = yaml.safe_load(text)
        for group in document["groups"]:
            group["interval"] = f"{RULE_SECONDS}s"
            group["rules"] = [rule for rule in group["rules"] if "record" in rule]
        (rules / name).write_text(yaml.safe_dump(document))
    configuration = {
        "global": {"scrape_interval": "1s", "external_labels": {"cluster": CLUSTER, "replica": REPLICA}},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [
            _job(JOB_ENGINES, target, {"instance": ENGINE}),
            _job(JOB_FARTHING, farthing, {"instance": JOB_FARTHING}),
            _job(JOB_GPUS, target, {"instance": "gpu-host"}, path="/gpu"),
        ],
        "remote_write": [
            {
                "url": f"http://{victoria}/api/v1/write",
                "queue_config": {"batch_send_deadline": "1s", "max_samples_per_send": 2000},
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with started(folder, address=address) as server:
        yield server


def _job(name: str, target: str, labels: dict[str, str], path: str = "/metrics") -> dict[str, Any]:
    return {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [target], "labels": labels}]}


@contextmanager
def _sending(replay: LiveReplay, url: str) -> Iterator[None]:
    """The recording's records go to an intake within the block."""
    stop = threading.Event()

    async def play() -> None:
        halt = asyncio.Event()
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            playing = asyncio.create_task(replay.run(Sender(url, None, client, stop=halt)))
            while not stop.is_set() and not playing.done():
                await asyncio.sleep(0.1)
            halt.set()
            await playing

    thread = threading.Thread(target=lambda: asyncio.run(play()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(15)
