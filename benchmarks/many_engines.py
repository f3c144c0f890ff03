"""Many engines behind one address: each answers a captured exposition of vLLM with a probe, its counters advancing.

An exposition is made once per model and tick, not per engine: what engines of one model answer differs by the
``instance`` that Prometheus gives them alone. Farthing's own exposition has every engine and every model.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

__all__ = ["FARTHING_PATH", "Fleet", "served", "targets"]

FARTHING_PATH: Final = "/farthing"
TICK_SECONDS: Final = 5
CUMULATIVE: Final = ("_total", "_bucket", "_count", "_sum")
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Fleet:
    """What is served: ``engines`` of ``models``, told by texts that were recorded of one engine and of Farthing."""

    engines: int
    models: int
    exposition: str
    farthing: str
    share_per_second: float = 0.01
    """How much of the recorded counters the first model adds each second; the last adds twice as much."""
    gauges: Mapping[str, float] = field(default_factory=dict)
    """Gauges of engines and of Farthing that do not keep their recorded value, by name."""
    still: tuple[str, ...] = ()
    """Parts of series whose counters do not advance."""

    @property
    def model_names(self) -> list[str]:
        return [f"model-{number:03}" for number in range(self.models)]

    @property
    def engine_names(self) -> list[str]:
        return [f"engine-{number:04}" for number in range(self.engines)]

    def engine_text(self, model: int, elapsed: float) -> str:
        """What an engine of the model answers ``elapsed`` seconds after the start."""
        named = re.sub(r'model_name="[^"]*"', f'model_name="{self.model_names[model]}"', self.exposition)
        grown = 1 + self.share_per_second * elapsed * (1 + model / self.models)
        return "\n".join(self._advanced(named, grown)) + "\n"

    def farthing_text(self, elapsed: float) -> str:
        """What Farthing answers: lines of its one engine for every engine, lines of its one model for every model."""
        lines = []
        for line in self._advanced(self.farthing, 1 + self.share_per_second * elapsed):
            if 'engine="lab-1"' in line:
                # an engine without a price beside the one that is multiplied
                lines.append(line)
            elif 'engine="' in line:
                lines += [
                    _relabelled(line, engine=engine, model=self.model_names[number % self.models])
                    for number, engine in enumerate(self.engine_names)
                ]
            elif 'model="meta' in line:
                lines += [_relabelled(line, model=model) for model in self.model_names]
            else:
                lines.append(line)
        return "\n".join(lines) + "\n"

    def _advanced(self, text: str, factor: float) -> Iterator[str]:
        """The samples with counters multiplied, so that buckets stay cumulative, and gauges as recorded or given."""
        for line in _samples(text.splitlines()):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            if name in self.gauges:
                yield f"{series} {self.gauges[name]!r}"
            elif name.endswith(CUMULATIVE) and not any(part in series for part in self.still):
                yield f"{series} {float(value) * factor!r}"
            else:
                yield line


def targets(fleet: Fleet, address: str) -> list[dict[str, object]]:
    """Static targets of Prometheus, one per engine, models taking turns."""
    return [
        {"targets": [address], "labels": {"instance": engine, "__metrics_path__": f"/{number % fleet.models}"}}
        for number, engine in enumerate(fleet.engine_names)
    ]


@contextmanager
def served(fleet: Fleet, port: int) -> Iterator[str]:
    """The address of a process of its own that answers on the loopback port within the block."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(fleet, port), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _run(fleet: Fleet, port: int) -> None:
    asyncio.run(_serve(fleet, port))


async def _serve(fleet: Fleet, port: int) -> None:
    started = time.monotonic()
    made: dict[str, tuple[int, bytes]] = {}

    def body(path: str) -> bytes:
        tick = int((time.monotonic() - started) // TICK_SECONDS)
        at, known = made.get(path, (-1, b""))
        if at != tick:
            elapsed = float(tick * TICK_SECONDS)
            text = fleet.farthing_text(elapsed) if path == FARTHING_PATH else fleet.engine_text(int(path[1:]), elapsed)
            known = text.encode()
            made[path] = (tick, known)
        return known

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                content = body(request.split(b" ", 2)[1].decode())
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                )
                writer.write(content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=2048)
    async with server:
        await server.serve_forever()


def _samples(lines: Sequence[str]) -> Iterator[str]:
    return (line for line in lines if line and not line.startswith("#"))


def _relabelled(line: str, **labels: str) -> str:
    for name, value in labels.items():
        line = re.sub(rf'\b{name}="[^"]+"', f'{name}="{value}"', line)
    return line
