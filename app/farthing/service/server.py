"""``farthing serve``: intake, costing loop, scraping, metrics and the page in one process."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from farthing.collectors.intake import IntakeCounts, IntakeLimits, intake_routes
from farthing.domain.devices import IdleGpu
from farthing.domain.errors import LedgerError
from farthing.domain.model import Snapshot
from farthing.domain.spend import SpendView
from farthing.exporters.prometheus import SnapshotCollector, exposition
from farthing.exporters.prometheus_gpu import DeviceCollector
from farthing.exporters.web.gpus import gpu_routes
from farthing.exporters.web.history import History
from farthing.exporters.web.routes import web_routes
from farthing.ledger.repository import Ledger
from farthing.service.accountant import Accountant
from farthing.service.gpu_sampling import GpuSampling
from farthing.service.listening import bind, end_well_on_sigterm
from farthing.service.pricing import price_book
from farthing.service.scraping import Scraping
from farthing.service.spend_watch import SpendWatch
from farthing.settings import TOKEN_VARIABLE, Settings, read_secret

__all__ = ["Service", "bind", "calm_collector", "end_well_on_sigterm", "price_book", "serve", "switch_sooner"]

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""How often new records are costed at the latest."""
SPEND_SECONDS = 60.0
"""How often spend is computed, beside costing."""
HISTORY_POINTS = 1_800
"""Half an hour of ticks for the page's plots."""
SWITCH_SECONDS = 0.001
"""How long a thread that computes keeps others waiting for the interpreter; Python's own 5 ms are longer than it takes
PostgreSQL to write what was handed to it."""


class Service:
    """Everything that ``farthing serve`` runs, wired together; ``app`` is the ASGI application."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self._counts = IntakeCounts()
        self._wake = asyncio.Event()
        self._scraping = Scraping(settings, ledger, self._wake.set, self._is_probed)
        self._prices = price_book(settings)
        self._accountant = Accountant(
            ledger,
            settings,
            self._prices,
            clock_ns=time.time_ns,
            gauges=self._scraping.gauges,
            intake=self._counts.view,
        )
        self._on_devices: Mapping[str, Collection[str]] = {}
        self._idle: tuple[IdleGpu, ...] = ()
        self._gpus = GpuSampling(
            settings,
            ledger,
            self._wake.set,
            reported=lambda: self._on_devices,
            idle=lambda: self._idle,
        )
        self._watch = SpendWatch(ledger, settings, time.time_ns)
        self._spend: SpendView | None = None
        self._history = History(HISTORY_POINTS)
        self._snapshot: Snapshot = self._accountant.snapshot()
        self._ready = False
        registry = CollectorRegistry()
        registry.register(SnapshotCollector(self.snapshot))
        registry.register(DeviceCollector(self._gpus.view, settings.currency))
        self._registry = registry
        token = read_secret(TOKEN_VARIABLE, settings.serve.token_file)
        serve = settings.serve
        limits = IntakeLimits(serve.max_body_bytes, serve.intake_bodies_per_second, serve.intake_bytes_per_second)
        self.app = Starlette(
            lifespan=self._lifespan,
            routes=[
                Route("/metrics", self._metrics, name="metrics"),
                Route("/healthz", self._healthz, name="healthz"),
                Route("/readyz", self._readyz, name="readyz"),
                *intake_routes(ledger, token, limits, self._counts, self._wake.set, unit_prices=self._unit_prices),
                *web_routes(self.snapshot, self._history),
                *gpu_routes(self._gpus.view, self.snapshot),
            ],
        )

    def snapshot(self) -> Snapshot:
        """The picture after the last costing; the page, ``/metrics`` and the API share it."""
        return self._snapshot

    def _is_probed(self, engine: str) -> bool:
        return self._accountant.probed(engine)

    def _unit_prices(self, boots: set[str]) -> dict[str, dict[str, int]]:
        """Of the engines of some boots; none while the past is still being read again."""
        return self._accountant.unit_prices.of(boots) if self._ready else {}

    def _metrics(self, request: Request) -> Response:
        body, content_type = exposition(self._registry, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        if self._ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("costing what arrived before the last stop\n", status_code=503)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._cost()), asyncio.create_task(self._scraping.run())]
        tasks += [asyncio.create_task(self._watch_spend()), asyncio.create_task(self._gpus.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _cost(self) -> None:
        complaint = ""
        while True:
            try:
                await run_in_threadpool(self._tick)
                self._ready = True
                complaint = ""
            except LedgerError as error:
                # once: a disk may be full for hours
                if complaint != str(error):
                    complaint = str(error)
                    _log.error("costing waits for the ledger: %s", complaint)
            except Exception:
                # the records are safe in the inbox: say what happened and try again
                _log.exception("costing failed; it is tried again")
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
                # let a burst of posts arrive before costing it
                await asyncio.sleep(TICK_SECONDS / 4)
            except TimeoutError:
                pass
            self._wake.clear()

    async def _watch_spend(self) -> None:
        while True:
            if self._ready:
                try:
                    self._spend = await run_in_threadpool(self._watch.update)
                except Exception:
                    _log.exception("spend cannot be computed; it is tried again")
            await asyncio.sleep(SPEND_SECONDS if self._ready else TICK_SECONDS)

    def _tick(self) -> None:
        self._accountant.advance()
        self._accountant.note_silence()
        self._snapshot = replace(self._accountant.snapshot(), spend=self._spend)
        self._on_devices = self._accountant.devices()
        self._idle = self._accountant.idle()
        self._history.observe(self._snapshot)


def calm_collector() -> None:
    """Let Python look for reference cycles less often: costing makes many short-lived objects and no cycles, and each
    search walks over the state of every engine (about a fifth of the time with a thousand of them).
    """
    gc.set_threshold(100_000, 50, 50)


def switch_sooner() -> None:
    """Let a thread that writes to the database go on while another one decodes or costs: it needs the interpreter for a
    moment every few hundred records, and the database would wait with it each time.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    calm_collector()
    switch_sooner()
    listener = bind(settings.serve.host, settings.serve.port, "serve.port")
    ledger = Ledger.open(settings.ledger)
    end_well_on_sigterm()
    try:
        asyncio.run(_serve(settings, ledger, listener))
    finally:
        ledger.close()
        listener.close()


async def _serve(settings: Settings, ledger: Ledger, listener: socket.socket) -> None:
    service = Service(settings, ledger)
    _log.info("serving on http://%s:%d/ with ledger %s", *listener.getsockname()[:2], ledger.engine.url)
    config = uvicorn.Config(service.app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    await uvicorn.Server(config).serve(sockets=[listener])
