"""``farthing serve``: intake, costing loop, scraping, metrics and the page in one process."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.loops.auto import auto_loop_factory

from farthing.collectors.intake import INTAKE_ROUTES, IntakeCounts, IntakeLimits, intake_routes
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.devices import IdleGpu
from farthing.domain.errors import LedgerError
from farthing.domain.model import Snapshot
from farthing.domain.spend import SpendView
from farthing.exporters.prometheus import DEFAULT_TOP_TENANTS, TOP_TIERS, SnapshotCollector, exposition
from farthing.exporters.prometheus_gpu import DeviceCollector
from farthing.exporters.prometheus_seats import Seats
from farthing.exporters.web.gpus import gpu_routes
from farthing.exporters.web.history import History
from farthing.exporters.web.routes import web_routes
from farthing.exporters.web.tenant_history import TenantHistory
from farthing.ledger.repository import Ledger
from farthing.ledger.seats import keep_seats, kept_seats
from farthing.service.access import Access, Guard
from farthing.service.access_login import login_routes
from farthing.service.access_wiring import access_of, note_if_open, tls_files
from farthing.service.accountant import Accountant
from farthing.service.audit_trail import AuditTrail
from farthing.service.discovery import DiscoveredEngines
from farthing.service.failing import Failing
from farthing.service.fleet import FleetReading
from farthing.service.gpu_sampling import GpuSampling
from farthing.service.heap import keep_one_heap
from farthing.service.http_limits import BoundedHttp
from farthing.service.listening import bind, end_well_on_sigterm
from farthing.service.pace import MOST_EVERY_SECONDS, Pace, rest_seconds, send_every_seconds
from farthing.service.pricing import price_book
from farthing.service.report_api import report_routes
from farthing.service.scraping import Scraping
from farthing.service.span_emission import SpanEmission
from farthing.service.spend_watch import SpendWatch
from farthing.settings import Settings

__all__ = ["Service", "bind", "calm_collector", "end_well_on_sigterm", "price_book", "serve", "switch_seldom"]

_log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""How long new records wait for the next costing at the most."""
LOOK_SHARE, LOOK_SECONDS = 0.015, 15.0
"""How much of a processor the picture may take that is shown, and after how long the next tick takes one in any case.
A few engines' takes so little that every tick has one."""
KEEP_ALIVE_SECONDS = 3 * MOST_EVERY_SECONDS
"""How long a connection may be quiet: a probe that sends seldom shall find it open."""
SPEND_SECONDS = 60.0
"""How often spend is computed, beside costing."""
HISTORY_POINTS = 1_800
"""Half an hour of ticks for the page's plots."""
SWITCH_SECONDS = 0.01
"""How long a thread that computes keeps others waiting for the interpreter; Python's own is 5 ms. In a fleet costing
and posts both want it all the time, and each change of threads takes longer than what a post wants."""


class Service:
    """Everything that ``farthing serve`` runs, wired together; ``app`` is the ASGI application.

    ``access`` says who is let in; by default everybody, as on loopback without tokens.
    """

    def __init__(self, settings: Settings, ledger: Ledger, access: Access | None = None) -> None:
        self.settings = settings
        self.access = access or Access()
        self._counts = IntakeCounts()
        self._wake = asyncio.Event()
        self._engines = DiscoveredEngines(settings, ledger, self._wake.set)
        self._reporting: Collection[str] = ()
        self._scraping = Scraping(settings, ledger, self._wake.set, self._is_probed, self._engines.present)
        self._fleet = FleetReading(
            settings,
            ledger,
            self._wake.set,
            probed=self._is_probed,
            scraped=self._engines.present,
            known=lambda: self._engines.settings().engines,
        )
        self._spans = SpanEmission(settings.traces)
        audited = settings.audit.folder
        self._audit = None if audited is None else AuditTrail(ledger, settings, audited)
        if self._audit is not None and self.access.tokens is not None:
            self.access.tokens.tell(self._audit.note_tokens)
        known = self._engines.settings()
        self._accountant = Accountant(
            ledger,
            known,
            price_book(known),
            clock_ns=time.time_ns,
            gauges=lambda: {**self._fleet.gauges(), **self._scraping.gauges()},
            intake=self._counts.view,
            watched=self._engines.present,
            ended=self._spans.offer if self._spans.is_on else None,
        )
        self._on_devices: Mapping[str, Collection[str]] = {}
        self._idle: tuple[IdleGpu, ...] = ()
        self._gpus = GpuSampling(
            settings,
            ledger,
            self._wake.set,
            reported=lambda: self._on_devices,
            idle=lambda: self._idle,
            engines=self._engines.present,
        )
        self._watch = SpendWatch(ledger, settings, time.time_ns)
        self._spend: SpendView | None = None
        self._history = History(HISTORY_POINTS)
        self._own_history = TenantHistory(self._accountant.latency_bounds, self._accountant.tenant_latencies)
        self._snapshot: Snapshot = self._accountant.snapshot()
        self._ready = False
        self._pace = Pace(LOOK_SHARE, LOOK_SECONDS)
        registry = CollectorRegistry()
        self._failing = Failing(_log)
        self._seated: Snapshot = replace(self._snapshot, tenants=(), spend=None)
        """The picture that ``/metrics`` shows."""
        self._shown = _collector(lambda: self._seated, settings, ledger)
        self._seat()
        registry.register(self._shown)
        registry.register(DeviceCollector(self._gpus.view, settings.currency))
        self._registry = registry
        serve = settings.serve
        limits = IntakeLimits(serve.max_body_bytes, serve.intake_bodies_per_second, serve.intake_bytes_per_second)
        self.app = Starlette(
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _refused},
            middleware=[Middleware(Guard, access=self.access, denied=self._denied)],
            routes=[
                # first, as nearly every request is one of theirs and routes are tried in their order
                *intake_routes(
                    ledger,
                    limits,
                    self._counts,
                    self._wake.set,
                    unit_prices=self._unit_prices,
                    every_seconds=self._every_seconds,
                ),
                Route("/metrics", self._metrics, name="metrics"),
                Route("/healthz", self._healthz, name="healthz"),
                Route("/readyz", self._readyz, name="readyz"),
                *login_routes(self.access),
                *web_routes(self.snapshot, self._history, self._own_history),
                *report_routes(ledger, settings.currency, lambda: utc(time.time_ns())),
                *gpu_routes(self._gpus.view, self.snapshot),
            ],
        )

    def snapshot(self) -> Snapshot:
        """The picture after the last costing; the page and the API share it, and ``/metrics`` follows."""
        return self._snapshot

    def _denied(self, route: str) -> None:
        if route in INTAKE_ROUTES:
            self._counts.refuse_body()

    def _is_probed(self, engine: str) -> bool:
        return self._accountant.probed(engine) or self._engines.is_called(engine, self._reporting)

    def _unit_prices(self, boots: set[str]) -> dict[str, dict[str, int]]:
        """Of the engines of some boots; none while the past is still being read again."""
        return self._accountant.unit_prices.of(boots) if self._ready else {}

    def _every_seconds(self) -> int | None:
        """How often probes should send; nobody knows how many they are before the inbox is costed."""
        return send_every_seconds(len(self._reporting)) if self._ready else None

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
        self._spans.start()
        tasks = [asyncio.create_task(self._cost()), asyncio.create_task(self._scraping.run())]
        tasks += [asyncio.create_task(self._engines.run()), asyncio.create_task(self._fleet.run())]
        tasks += [asyncio.create_task(self._watch_spend()), asyncio.create_task(self._gpus.run())]
        tasks += [] if self._audit is None else [asyncio.create_task(self._audit.run())]
        try:
            yield
        finally:
            if self._audit is not None:
                self._audit.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._audit is not None:
                await run_in_threadpool(self._audit.close)
            await run_in_threadpool(self._spans.stop)

    async def _cost(self) -> None:
        complaint = ""
        await self._engines.first_round()
        while True:
            began = time.monotonic()
            try:
                self._own_history.watch(self.access.tenants())
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
            pause = rest_seconds(time.monotonic() - began, TICK_SECONDS)
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
                # let a burst of posts arrive before costing it
                await asyncio.sleep(pause)
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
        if (known := self._engines.take()) is not None:
            self._accountant.know(known, price_book(known))
            self._engines.taken(known)
        self._accountant.advance()
        self._accountant.note_silence()
        if self._pace.due:
            with self._pace.taken():
                self._look()

    def _look(self) -> None:
        """Take the picture that the page, the API and ``/metrics`` show."""
        self._reporting = self._accountant.reporting()
        self._snapshot = replace(
            self._accountant.snapshot(),
            spend=self._spend,
            auth_failures=dict(self.access.failures),
            discovery=self._engines.sources(),
            spans=self._spans.counts(),
            spans_waiting=self._spans.waiting(),
            audit=None if self._audit is None else self._audit.view(),
        )
        self._on_devices = self._accountant.devices()
        self._idle = self._accountant.idle()
        self._history.observe(self._snapshot)
        self._own_history.observe(self._snapshot)
        self._seat()

    def _seat(self) -> None:
        """Let ``/metrics`` show the picture too, once the ledger keeps who has series of their own in it: a scrape must
        not wait for that, and where it fails only the metrics stay as they were.
        """
        try:
            self._shown.seat(self._snapshot)
        except LedgerError as error:
            self._failing.report("new series of /metrics", str(error))
        else:
            self._failing.report("new series of /metrics", "")
            self._seated = self._snapshot


def _collector(source: Callable[[], Snapshot], settings: Settings, ledger: Ledger) -> SnapshotCollector:
    """With the seats of earlier processes; what farthing.yaml names has one in any case."""
    tenants = [*(slo.tenant for slo in settings.objectives), *(budget.tenant for budget in settings.budgets)]
    tiers = [slo.tier for slo in settings.objectives]

    def seats(label: str, most: int, named: Sequence[str | None]) -> Seats:
        always, held = {c.UNKNOWN, *(value for value in named if value)}, kept_seats(ledger, label)
        return Seats(most, always=always, held=held, keep=lambda values: keep_seats(ledger, label, values))

    own = seats(c.LABEL_TENANT, DEFAULT_TOP_TENANTS, tenants), seats(c.LABEL_TIER, TOP_TIERS, tiers)
    return SnapshotCollector(source, *own, clock_ns=time.time_ns)


async def _refused(request: Request, error: Exception) -> Response:
    """What has no such path or method, in the form of every other refusal."""
    if not isinstance(error, HTTPException):  # never: it is registered for those
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def calm_collector() -> None:
    """Let Python look for reference cycles less often: costing makes many short-lived objects and no cycles, and each
    search walks over the state of every engine (about a fifth of the time with a thousand of them).
    """
    gc.set_threshold(100_000, 50, 50)


def switch_seldom() -> None:
    """Let threads take turns a hundred times a second at the most: whoever gives the interpreter away has it again only
    after that long, and a write to the database, or a post, gives it away many times.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    keep_one_heap()
    calm_collector()
    switch_seldom()
    access, tls = access_of(settings), tls_files(settings)
    listener = bind(settings.serve.host, settings.serve.port, "serve.port")
    ledger = Ledger.open(settings.ledger)
    end_well_on_sigterm()
    try:
        # uvicorn's own choice is uvloop; asyncio's loop gives the interpreter away several times in each post
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(_serve(settings, ledger, access, listener, tls))
    finally:
        ledger.close()
        listener.close()


async def _serve(
    settings: Settings, ledger: Ledger, access: Access, listener: socket.socket, tls: tuple[Path, Path] | None
) -> None:
    service = Service(settings, ledger, access)
    address = listener.getsockname()[:2]
    _log.info("serving on %s://%s:%d/ with ledger %s", settings.serve.scheme, *address, ledger.engine.url)
    note_if_open(access, settings)
    config = uvicorn.Config(
        service.app,
        http=BoundedHttp,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=None if tls is None else tls[0],
        ssl_keyfile=None if tls is None else tls[1],
    )
    await uvicorn.Server(config).serve(sockets=[listener])
