"""A recording as a live engine: its exposition on a port, its records through intake, as the probe sends them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from farthing.domain.clock import SECOND
from farthing.replay.recording import Recording
from farthing.replay.sender import Sender
from farthing.replay.traced import TracedRequests
from farthing.replay.wire_records import TimedRecord, wire_records
from farthing.service.asking import trusted_tls
from farthing.service.server import bind, end_well_on_sigterm

__all__ = ["LiveReplay", "ReplayOptions", "run_replay"]

_log = logging.getLogger(__name__)

PACE_SECONDS = 0.25
SEND_TIMEOUT = 10.0
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a recording is replayed.

    ``lead_seconds`` of it are delivered at once, as history; the rest goes on at ``speed`` times real time.
    With ``loop`` the engine is started again, as a new boot, when the recording ends.
    """

    engine: str
    intake_url: str
    token: str | None
    host: str = "127.0.0.1"
    port: int = 9465
    speed: float = 1.0
    lead_seconds: float = 0.0
    loop: bool = False
    certificate: Path | None = None
    """Of the intake, where it speaks HTTPS on this host."""


class LiveReplay:
    """Plays a recording; ``app`` serves its metrics, ``run`` sends its records."""

    def __init__(
        self, recording: Recording, options: ReplayOptions, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._recording = recording
        self._options = options
        self._clock_ns = clock_ns
        self._began_ns = clock_ns()
        self._lead_ns = round(options.lead_seconds * SECOND)
        self.boots = 0
        self.app = Starlette(routes=[Route("/metrics", self._metrics), Route("/health", self._health)])

    def position_ns(self) -> int:
        """Nanoseconds into the recording."""
        return self._lead_ns + round((self._clock_ns() - self._began_ns) * self._options.speed)

    async def run(self, sender: Sender) -> None:
        """Send the recording, once or for ever; returns when all of it is delivered, or the sender is stopped."""
        while True:
            delivered = await self._play(sender)
            if not (delivered and self._options.loop):
                return
            self._began_ns, self._lead_ns = self._clock_ns(), 0

    async def _play(self, sender: Sender) -> bool:
        """Whether the whole recording was delivered."""
        start_ns = self._began_ns - round(self._lead_ns / self._options.speed)
        boot = f"replay:{self._options.engine}:{start_ns}"
        self.boots += 1
        records = wire_records(self._recording, boot=boot, engine=self._options.engine, wall_start_ns=start_ns)
        traced = TracedRequests((timed.record for timed in records), self._options.engine)
        _log.info("replaying %s as boot %s: %d records", self._recording.name, boot, len(records))
        sent = 0
        while sent < len(records):
            due = self._due(records, sent, start_ns)
            if due > sent:
                rows = [traced.of(timed.record, sender.unit_prices) for timed in records[sent:due]]
                if await sender.send(rows) < due - sent:
                    return False
                sent = due
            else:
                await asyncio.sleep(PACE_SECONDS)
        return True

    def _due(self, records: list[TimedRecord], sent: int, start_ns: int) -> int:
        position = self.position_ns()
        while sent < len(records) and records[sent].wall_ns - start_ns <= position:
            sent += 1
        return sent

    async def _metrics(self, request: Request) -> Response:
        body = self._recording.exposition_at(self._recording.start_ns + self.position_ns())
        if not body:
            return PlainTextResponse("the recorded engine was down at this moment\n", status_code=503)
        return Response(body, headers={"Content-Type": _EXPOSITION})

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")


def run_replay(recording: Recording, options: ReplayOptions) -> None:
    """Serve and send until the recording ends, or until SIGTERM or SIGINT when it loops."""
    listener = bind(options.host, options.port, "stack.replay_port (or --port)")
    replay = LiveReplay(recording, options)
    end_well_on_sigterm()

    async def main() -> None:
        server = uvicorn.Server(uvicorn.Config(replay.app, log_level="warning", access_log=False))
        async with _sending(replay, options, server):
            await server.serve(sockets=[listener])

    try:
        asyncio.run(main())
    finally:
        listener.close()


@asynccontextmanager
async def _sending(replay: LiveReplay, options: ReplayOptions, server: uvicorn.Server) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with httpx.AsyncClient(timeout=SEND_TIMEOUT, verify=trusted_tls(options.certificate)) as client:
        sender = Sender(options.intake_url, options.token, client, stop=stop)

        async def play() -> None:
            try:
                await replay.run(sender)
            finally:
                server.should_exit = True

        task = asyncio.create_task(play())
        try:
            yield
        finally:
            stop.set()
            if not task.done():
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
