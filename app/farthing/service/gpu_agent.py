"""``farthing gpus --agent``: reads the GPUs of a host and sends what it read to ``farthing serve`` on another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from farthing.collectors.gpu.delivery import Delivery
from farthing.collectors.gpu.source import GpuSource
from farthing.domain.devices import DevicesView
from farthing.domain.errors import GpuError
from farthing.exporters.prometheus import exposition
from farthing.exporters.prometheus_gpu import DeviceCollector
from farthing.exporters.web.gpus import gpu_routes
from farthing.service.access import Access, Guard
from farthing.service.access_wiring import readers_of
from farthing.service.asking import system_tls
from farthing.service.gpu_sampling import engines_on, open_sources, sampler_of
from farthing.service.http_limits import BoundedHttp
from farthing.service.listening import bind, end_well_on_sigterm
from farthing.settings import TOKEN_VARIABLE, Settings, read_secret

__all__ = ["Agent", "run_agent"]

_log = logging.getLogger(__name__)

TRY_SECONDS = 10.0
"""What one delivery may take."""


TICK_SECONDS = 1.0


class _Quiet(uvicorn.Server):
    """Looks once a second whether it shall end, and not ten times: beside engines nobody wants a thread that wakes for
    nothing (a seventh of a percent of a core).
    """

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            # uvicorn renews the date of its answers every ten ticks
            counter += 10
            await asyncio.sleep(TICK_SECONDS)


class Agent:
    """A sampler, a delivery (None: nothing is sent) and their metrics; ``app`` is the ASGI application.

    ``access`` says who may read; by default everybody, as devices tell no costs.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[GpuSource],
        delivery: Delivery | None,
        access: Access | None = None,
    ) -> None:
        self._settings = settings
        self._delivery = delivery
        self._sampler = sampler_of(settings.gpus, sources, delivery.put if delivery is not None else lambda _: None)
        registry = CollectorRegistry()
        registry.register(DeviceCollector(self.view, settings.currency))
        self._registry = registry
        self.app = Starlette(
            lifespan=self._lifespan,
            middleware=[Middleware(Guard, access=access or Access())],
            routes=[
                Route("/metrics", self._metrics, name="metrics"),
                Route("/healthz", self._healthz, name="healthz"),
                *gpu_routes(self.view),
            ],
        )

    def view(self) -> DevicesView:
        """The devices that are there, with the engines that the settings have on them."""
        view = self._sampler.view()
        return replace(
            view,
            engines=engines_on((one.reading for one in view.devices), self._settings.engines, {}),
            waiting=None if self._delivery is None else self._delivery.waiting,
            dropped=None if self._delivery is None else self._delivery.dropped + self._delivery.refused,
        )

    async def _metrics(self, request: Request) -> Response:
        body, content_type = exposition(self._registry, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._sampler.start()
        if self._delivery is not None:
            self._delivery.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._sampler.stop)
            if self._delivery is not None:
                await asyncio.to_thread(self._delivery.stop)


def run_agent(
    settings: Settings,
    url: str | None,
    host: str,
    port: int,
    opened: Callable[[Settings], Sequence[GpuSource]] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; ``url`` is the base of the intake, None: only metrics are served.

    Raises GpuError when there is nothing to read: an agent without a device has no work. Where the settings name a
    ``serve.tokens_file``, reading takes a token of it.
    """
    access = readers_of(settings)
    sources = opened(settings) if opened is not None else open_sources(settings.gpus, _log.warning)
    if not sources:
        raise GpuError("no GPU of this host can be read and no exporter is named; see gpus in the settings")
    listener = bind(host, port, "--port")
    token = read_secret(TOKEN_VARIABLE, settings.serve.token_file)
    end_well_on_sigterm()
    try:
        with httpx.Client(timeout=TRY_SECONDS, trust_env=False, verify=system_tls()) as client:
            delivery = None if url is None else Delivery(url, token, client)
            agent = Agent(settings, sources, delivery, access)
            told = "; nothing is sent" if url is None else f"; records go to {url}"
            _log.info("metrics on http://%s:%d/metrics%s", *listener.getsockname()[:2], told)
            config = uvicorn.Config(
                agent.app, http=BoundedHttp, log_level="warning", access_log=False, timeout_graceful_shutdown=5
            )
            asyncio.run(_Quiet(config).serve(sockets=[listener]))
    finally:
        listener.close()
