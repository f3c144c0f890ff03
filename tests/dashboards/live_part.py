"""A live engine and a live ``farthing serve``, scraped by the Prometheus that holds the recorded world."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.alerts.live_prometheus import Prometheus
from tests.alerts.real_parts import free_port, wait_for
from tests.dashboards.world import World
from tests.integration.engine.chat import chat, image_part, text_part
from tests.integration.engine.real_engine import RealEngine
from tests.service.running import Serve

from farthing.alerts.render import render_rules
from farthing.domain import conventions as names

__all__ = ["LIVE_ENGINE", "LIVE_FARTHING", "live_world"]

LIVE_ENGINE = "live-1"
LIVE_FARTHING = "farthing-live"
SCRAPE_SECONDS = 10
PAUSE_SECONDS = 1.0
"""Between two requests, so that the engine leaves the machine to the queries."""
KNOWN_WITHIN_SECONDS = 90


@contextmanager
def live_world(world: World, engine: RealEngine) -> Iterator[Prometheus]:
    """A Prometheus with the world's past and present, which scrapes the live engine and evaluates our rules."""
    folder = world.folder / "live"
    rules = folder / "rules"
    rules.mkdir(parents=True)
    for name, text in render_rules(world.settings).items():
        (rules / name).write_text(text)
    with _farthing(folder, engine.url) as serve, _asking(engine):
        jobs = {
            names.JOB_ENGINES: (LIVE_ENGINE, engine.url),
            names.JOB_FARTHING: (LIVE_FARTHING, serve.url),
        }
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
            "rule_files": [f"{rules}/*.yml"],
            "scrape_configs": [_job(job, instance, url) for job, (instance, url) in jobs.items()],
        }
        with world.server(config) as server:
            wait_for(lambda: _is_known(server), KNOWN_WITHIN_SECONDS, "the live engine's cost and tokens in Prometheus")
            yield server


def _job(job: str, instance: str, url: str) -> dict[str, Any]:
    target = {"targets": [url.removeprefix("http://")], "labels": {names.LABEL_INSTANCE: instance}}
    return {"job_name": job, "static_configs": [target]}


def _is_known(server: Prometheus) -> bool:
    tokens = server.query(f'{names.REC_GENERATION_RATE}{{instance="{LIVE_ENGINE}"}} > 0')
    cost = server.query(f'rate({names.METRIC_COST}{{engine="{LIVE_ENGINE}"}}[1m]) > 0')
    return bool(tokens and cost)


@contextmanager
def _farthing(folder: Path, engine_url: str) -> Iterator[Serve]:
    settings = {
        "ledger": f"sqlite:///{folder}/ledger.db",
        "engines": [{"name": LIVE_ENGINE, "url": engine_url, "gpu": "L4"}],
        "costing": {"scrape_seconds": 1},
    }
    config = folder / "farthing.yaml"
    config.write_text(yaml.safe_dump(settings))
    serve = Serve(config, free_port(), folder / "farthing.log")
    serve.start()
    try:
        serve.wait_ready()
        yield serve
    finally:
        serve.close()


@contextmanager
def _asking(engine: RealEngine) -> Iterator[None]:
    """Somebody asks the engine for text and images, one after another, within the block."""
    ended = threading.Event()
    failed: list[BaseException] = []

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            number = 0
            while not ended.is_set():
                parts = [text_part(f"number {number}, in words")]
                parts += [image_part(64, 48, number)] if number % 4 == 0 else []
                await chat(client, engine, parts, max_tokens=12)
                number += 1
                await asyncio.sleep(PAUSE_SECONDS)

    def run() -> None:
        try:
            asyncio.run(ask())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
    assert not failed, failed
