"""The load of a simulated fleet: probes of many engines, each with a connection of its own, in one cheap process.

Every engine repeats a minute of the simulated scheduler (``tests/simulation``). Its lines are made once; a line is
only given its boot, its sequence, its tenant and its moments. Run by ``benchmarks.bench_scale``:

    python -m benchmarks.scale_load URL TOKEN_FILE RESULT --engines N --minutes N
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

# a script finds only what lies beside it; the simulated engine is the tests'
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.simulation import Lengths, Phase, SimConfig, StepLaw, TenantLoad, simulate
from tests.simulation.wire_form import to_wire

from farthing.domain.clock import SECOND
from farthing.domain.records import StepBatch, Usage
from farthing_probe import wire

__all__ = ["FleetSize", "Line", "Tile", "tile"]

SLOT_NS: Final = 5 * SECOND
"""How often a probe sends its step marks, and here its usage records with them."""
SLOTS: Final = 12
MINUTE_NS: Final = SLOTS * SLOT_NS
MONO_NS: Final = 1_000_000 * SECOND
"""Where an engine's monotonic clock stands at its start."""
STARTING_SECONDS: Final = 5
GPU: Final = "NVIDIA H100 80GB HBM3"
LAW: Final = StepLaw(step_ns=24e6, prefill_token_ns=55_000.0, decode_token_ns=80_000.0, attended_token_ns=60.0)
"""Steps of about 25 ms, as of a model of 70 B parameters on several GPUs."""
LOAD: Final = TenantLoad("tenant", prompt=Lengths(400, 0.8, 8, 4_000), output=Lengths(60, 0.6, 2, 160))
_TIMES: Final = ("arrived_ns", "ended_ns", "first_ns", "last_ns", "scheduled_ns", "until_ns", "open_ns", "base_ns")
_MARKED: Final = re.compile(r'"<([A-Z]+):?(-?\d*)>"')


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How many of what: tenants have their engines in turns, four models each."""

    engines: int = 1_000
    tenants: int = 200
    models: int = 20
    requests_per_minute: int = 60
    """Of each engine."""

    def model(self, engine: int) -> str:
        """The model that an engine serves."""
        return f"model-{engine % self.models:02}"

    def tenant(self, engine: int, request: int) -> str:
        """Whose request it is: a fifth of all tenants use one model, so that each uses four of twenty."""
        mine = self.tenants // 5
        return f"tenant-{(engine % self.models * (self.tenants // self.models) + request * 7 % mine) % self.tenants:03}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the wire with places to fill: ``text % values``, where each value is what its place wants."""

    text: str
    places: tuple[tuple[str, int], ...]

    def filled(self, boot: str, seq: int, shift_ns: int, tenant: str, model: str) -> str:
        """The line of an engine at a time."""
        known: Mapping[str, str | int] = {"BOOT": boot, "SEQ": seq, "TENANT": tenant, "MODEL": model}
        return self.text % tuple(at + shift_ns if name == "AT" else known[name] for name, at in self.places)


@dataclass(frozen=True, slots=True)
class Tile:
    """A minute of an engine: for each of its slots the usage that ended in it, and its step marks. It begins at 0."""

    usage: tuple[tuple[Line, ...], ...]
    steps: tuple[Line, ...]


def tile(size: FleetSize, seed: int) -> Tile:
    """A minute in which so many requests arrive and end; the first seed from ``seed`` on that gives one."""
    busy = 52.0
    while True:
        config = SimConfig(
            seed=seed,
            law=LAW,
            tenants=(LOAD,),
            phases=(Phase("poisson", busy, size.requests_per_minute / busy), Phase("idle", 20)),
            starting_seconds=STARTING_SECONDS,
        )
        made = _cut(simulate(config).records)
        if made is not None and sum(map(len, made.usage)) == size.requests_per_minute:
            return made
        seed += 1_000


def _cut(records: tuple[Any, ...]) -> Tile | None:
    """The minute after the start; None when something is still running at its end."""
    begin = records[0].at_ns + STARTING_SECONDS * SECOND
    usage: list[list[Line]] = [[] for _ in range(SLOTS)]
    steps: list[Line] = []
    for record in records:
        if isinstance(record, Usage):
            slot = (record.ended_ns - begin - 1) // SLOT_NS
            if slot >= SLOTS:
                return None
            usage[slot].append(_line(record, begin))
        elif isinstance(record, StepBatch) and begin < record.until_ns <= begin + MINUTE_NS:
            steps.append(_line(record, begin))
    return Tile(tuple(map(tuple, usage)), tuple(steps))


def _line(record: Any, begin_ns: int) -> Line:
    fields = to_wire(record)
    fields |= {"boot": "<BOOT>", "seq": "<SEQ>"}
    if isinstance(record, Usage):
        fields |= {"tenant": "<TENANT>", "model": "<MODEL>", "request_id": f"r-{record.key.sequence}"}
    _mark_times(fields, begin_ns)
    places: list[tuple[str, int]] = []

    def place(found: re.Match[str]) -> str:
        places.append((found[1], int(found[2] or 0)))
        return "%d" if found[1] in {"AT", "SEQ"} else '"%s"'

    text = json.dumps(fields, separators=(",", ":"))
    return Line(_MARKED.sub(place, text), tuple(places))


def _mark_times(fields: dict[str, Any], begin_ns: int) -> None:
    for name, value in fields.items():
        if name in _TIMES:
            fields[name] = f"<AT:{value - begin_ns}>"
        elif name == "sequences":
            for sequence in value:
                _mark_times(sequence, begin_ns)


@dataclass(slots=True)
class Sent:
    """What was sent, and what became of it."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    latest_seconds: float = 0.0
    """By how much a body left later than it was due."""


class Engine:
    """One engine's probe: its connection, its boot and where in its minute it is."""

    def __init__(self, number: int, size: FleetSize, made: Tile, poster: Poster) -> None:
        self._number, self._size, self._tile, self._poster = number, size, made, poster
        self._boot = f"scale-{number:04}"
        self._model = size.model(number)
        self._seq = 0
        self._requests = 0
        self._every_seconds = SLOT_NS / SECOND
        """As often as the intake asks for, in whole slots: exact for 500 engines, and from 1,000 on."""
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, minutes: int, begin: float) -> None:
        """Start at a moment of the monotonic clock, send so many minutes, and stop."""
        await asyncio.sleep(max(0.0, begin - time.monotonic()))
        head = [self._started(time.time_ns()), self._lifecycle(MONO_NS, "ready")]
        await self._post(wire.WINDOWS_PATH, head)
        usage: list[str] = []
        steps: list[str] = []
        last = minutes * SLOTS - 1
        for slot in range(last + 1):
            await self._sleep_until(begin + (slot + 1) * SLOT_NS / SECOND)
            shift = MONO_NS + slot // SLOTS * MINUTE_NS
            usage += [self._fill(line, shift) for line in self._tile.usage[slot % SLOTS]]
            steps.append(self._fill(self._tile.steps[slot % SLOTS], shift))
            if len(steps) * SLOT_NS < self._every_seconds * SECOND and slot < last:
                continue
            if usage:
                await self._post(wire.USAGE_PATH, usage)
            await self._post(wire.WINDOWS_PATH, steps)
            usage, steps = [], []
        await self._post(wire.WINDOWS_PATH, [self._lifecycle(MONO_NS + minutes * MINUTE_NS, "stop")])
        if self._connection:
            self._connection[1].close()

    async def _sleep_until(self, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        sent = self._poster.sent
        sent.latest_seconds = max(sent.latest_seconds, time.monotonic() - due)

    def _fill(self, line: Line, shift_ns: int) -> str:
        tenant = self._size.tenant(self._number, self._requests)
        if any(name == "TENANT" for name, _ in line.places):
            self._requests += 1
        return line.filled(self._boot, self._next(), shift_ns, tenant, self._model)

    def _next(self) -> int:
        self._seq += 1
        return self._seq - 1

    def _started(self, wall_ns: int) -> str:
        record = wire.started(
            self._boot,
            0,
            self._next(),
            at_ns=MONO_NS,
            wall_ns=wall_ns,
            engine=f"engine-{self._number:04}",
            engine_kind="vllm",
            version="0.26.0",
            model=self._model,
            gpu=GPU,
            gpu_count=1,
            details=True,
        )
        return json.dumps(record)

    def _lifecycle(self, at_ns: int, event: str) -> str:
        return json.dumps(wire.lifecycle(self._boot, 0, self._next(), at_ns=at_ns, event=event))

    async def _post(self, path: str, lines: list[str]) -> None:
        compress = zlib.compressobj(1, wbits=31)
        body = compress.compress("\n".join(lines).encode()) + compress.flush()
        sent = self._poster.sent
        began = time.monotonic()
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._poster.connect()
                    sent.counts["connections"] += 1
                status, answer = await self._poster.post(*self._connection, path, body)
            except (OSError, asyncio.IncompleteReadError):
                # the server closes what is quiet for some seconds
                if self._connection is None:
                    # there is no server: not as fast as a processor can ask
                    await asyncio.sleep(1.0)
                self._connection = None
                sent.counts["reconnected"] += 1
                continue
            if status == 200:
                break
            sent.counts[f"status {status}"] += 1
            await asyncio.sleep(1.0)
        told = json.loads(answer)
        self._every_seconds = told["send_every_seconds"] or self._every_seconds
        sent.slowest_seconds = max(sent.slowest_seconds, time.monotonic() - began)
        sent.counts.update(posts=1, bytes=len(body), records=len(lines), accepted=told["accepted"])
        sent.counts.update(duplicate=told["duplicate"], refused=len(told["refused"]))
        sent.counts["usage" if path == wire.USAGE_PATH else "windows"] += len(lines)


class Poster:
    """Posts over plain connections: what a client library does besides would cost more than the server."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = (
            f"Host: {self._host}:{self._port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Encoding: gzip\r\nContent-Type: application/x-ndjson\r\nContent-Length: "
        )
        self.sent = Sent()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        return await asyncio.open_connection(self._host, self._port)

    async def post(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """Status and body of the answer."""
        writer.write(f"POST {path} HTTP/1.1\r\n{self._head}{len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), await reader.readexactly(size)


async def _run(url: str, token: str, size: FleetSize, minutes: int, result: Path) -> None:
    poster = Poster(url, token)
    tiles = [tile(size, seed) for seed in range(5)]
    engines = [Engine(number, size, tiles[number % len(tiles)], poster) for number in range(size.engines)]
    begin = time.monotonic() + 0.5
    spread = MINUTE_NS / SECOND / size.engines
    running = asyncio.gather(*(one.run(minutes, begin + i * spread) for i, one in enumerate(engines)))
    print("sending", flush=True)
    while not running.done():
        await asyncio.wait([running], timeout=5.0)
        told = {**poster.sent.counts, "slowest_seconds": poster.sent.slowest_seconds}
        told |= {"latest_seconds": poster.sent.latest_seconds, "cpu_seconds": time.process_time()}
        result.with_suffix(".part").write_text(json.dumps(told))
        result.with_suffix(".part").replace(result)
    await running


def main() -> None:
    """Send the load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--engines", type=int, default=1_000)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--minutes", type=int, default=16)
    chosen = parser.parse_args()
    size = FleetSize(engines=chosen.engines, tenants=chosen.tenants)
    asyncio.run(_run(chosen.url, chosen.token_file.read_text().strip(), size, chosen.minutes, chosen.result))


if __name__ == "__main__":
    main()
