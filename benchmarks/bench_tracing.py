"""What the edge span costs an engine, by the share of requests that is sampled.

    python -m benchmarks.bench_tracing [--rounds 8] [--requests 160] [--rates 0,0.01,0.1,1] [--mode sdk|records]

Two vLLM on CPU with the probe and a ``farthing serve`` that takes their records: traces are off in one, and on in the
other, towards a collector on this machine that counts and forgets. In a round both get the same requests with the same
trace contexts, for each rate in turn; the order alternates (AB BA). A pair of loads on the first one alone (``same``)
tells how far two equal loads lie apart here. Prints for each rate the ratio of requests a second, of the 99th
percentile of the time to first token and of the server's CPU time, on over off, with the 95 % interval of its mean
over rounds. Exit status 1 when a span was lost, or none came.

``--mode records`` lets ``farthing serve`` emit the spans. Needs the tests' engine environment
(``tools/engine_env.sh``) and a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
import yaml
from benchmarks.bench_probe import ENGINE_ENV, WITH_PROBE, installed_probe, tiny_model
from benchmarks.gpu.overhead import interval
from benchmarks.gpu.tracing import WITHOUT_TRACES, running_collector, traceparents, traces_environment
from tests.alerts.real_parts import free_port
from tests.integration.engine.real_engine import RealEngine, running_engine
from tests.service.running import Serve

CONCURRENCY, OUTPUT_TOKENS = 8, 48
SAME = "same"
QUANTITIES = {
    "req_s": "requests/s",
    "ttft_p99": "time to first token, p99, s",
    "cpu_s": "CPU time of the server, s",
}


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load."""

    req_s: float
    ttft_p99: float
    """Seconds."""
    cpu_s: float
    """Of the server and its children."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


async def load(engine: RealEngine, seed: int, share: float, requests: int) -> Load:
    """Streamed completions that ignore where sequences would end, so large a share of them sampled."""
    first: list[float] = []
    gate = asyncio.Semaphore(CONCURRENCY)
    contexts = traceparents(share, seed)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {
            "model": "tiny", "prompt": f"{seed} {number} " + "word " * (20 + number % 5 * 40),
            "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        headers = {"X-Tenant-Id": f"t{number % 5}", "traceparent": next(contexts)}
        async with gate:
            began = time.perf_counter()
            async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
                response.raise_for_status()
                seen = False
                async for _ in response.aiter_raw():
                    if not seen:
                        seen = True
                        first.append(time.perf_counter() - began)

    async with httpx.AsyncClient(base_url=engine.url, timeout=120, trust_env=False) as client:
        spent, began = cpu_seconds(engine.process.pid), time.perf_counter()
        await asyncio.gather(*(one(client, number) for number in range(requests)))
        seconds = time.perf_counter() - began
    ttft_p99 = sorted(first)[min(len(first) - 1, int(0.99 * len(first)))]
    return Load(requests / seconds, ttft_p99, cpu_seconds(engine.process.pid) - spent)


def started(stack: ExitStack, folder: Path, mode: str, collector_port: int) -> dict[str, RealEngine]:
    """The service, an engine without traces and one with them."""
    settings: dict[str, object] = {"ledger": f"sqlite:///{folder}/ledger.db"}
    traces = traces_environment(collector_port)
    if mode == "records":
        settings["traces"] = {"endpoint": traces["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]}
        traces = {"FARTHING_PROBE_TRACES": "records"}
    config = folder / "farthing.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    serve = Serve(config, free_port(), folder / "serve.log")
    stack.callback(serve.close)
    serve.start()
    serve.wait_ready()
    site, model = installed_probe(folder), tiny_model(folder / "models")
    common = {
        "PYTHONPATH": str(site), "FARTHING_PROBE_URL": serve.url, "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    engines = {}
    for name, own in (("off", WITHOUT_TRACES), ("on", traces)):
        environment = {**common, **own, "FARTHING_PROBE_ENGINE": name, "FARTHING_PROBE_SPOOL": str(folder / name)}
        starting = running_engine(ENGINE_ENV / "bin/python", model, folder / f"{name}.log", WITH_PROBE, environment)
        engines[name] = stack.enter_context(starting)
    return engines


def pairs(engines: Mapping[str, RealEngine], options: argparse.Namespace) -> Iterator[tuple[str, Load, Load]]:
    """(rate, off, on) of every round and rate; of ``same``, off twice."""
    rates = [float(rate) for rate in options.rates.split(",")]
    for engine in engines.values():
        asyncio.run(load(engine, 0, 0.5, options.requests))
    for number in range(1, options.rounds + 1):
        for at, rate in enumerate([None, *rates]):
            sides = {"off": engines["off"], "on": engines["off" if rate is None else "on"]}
            seed = number * 100 + at
            order = sorted(sides, reverse=bool(number % 2))
            found = {side: asyncio.run(load(sides[side], seed, rate or 0.0, options.requests)) for side in order}
            name = SAME if rate is None else f"{rate:.4g}"
            print(f"round {number}, {name}: " + ", ".join(f"{s} {found[s].req_s:.2f}/s" for s in sides), flush=True)
            yield name, found["off"], found["on"]


def table(found: Mapping[str, list[tuple[Load, Load]]]) -> str:
    """Means of both sides, and the mean ratio with its interval, by rate and quantity."""
    lines = [f"{'rate':<8}{'':<32}{'off':>10}{'on':>10}{'ratio':>9}   95 % interval"]
    for rate, loads in found.items():
        for key, name in QUANTITIES.items():
            values = [(float(getattr(off, key)), float(getattr(on, key))) for off, on in loads]
            off, on = (sum(side) / len(values) for side in zip(*values, strict=True))
            centre, low, high = interval([with_it / without for without, with_it in values])
            lines.append(f"{rate:<8}{name:<32}{off:>10.4f}{on:>10.4f}{centre:>9.4f}   {low:.4f} to {high:.4f}")
    return "\n".join(lines)


def counter(url: str, name: str) -> int:
    """A counter of a /metrics, over its labels."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="pairs of loads of each rate (8)")
    parser.add_argument("--requests", type=int, default=160, help="requests of a load (160)")
    parser.add_argument("--rates", default="0,0.01,0.1,1", help="shares of requests that are sampled (0,0.01,0.1,1)")
    parser.add_argument(
        "--mode", choices=["sdk", "records"], default="sdk", help="who sends the spans (sdk: the probe)"
    )
    parser.add_argument("--out", type=Path, help="file for one JSON line a pair")
    options = parser.parse_args()
    collector_port = free_port()
    found: dict[str, list[tuple[Load, Load]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        out = stack.enter_context(options.out.open("w", encoding="utf-8")) if options.out else None
        collected = stack.enter_context(running_collector(collector_port))
        engines = started(stack, folder, options.mode, collector_port)
        for rate, off, on in pairs(engines, options):
            found.setdefault(rate, []).append((off, on))
            if out:
                out.write(json.dumps({"rate": rate, "off": asdict(off), "on": asdict(on)}) + "\n")
        time.sleep(8)  # exports go out every few seconds
        sent, lost = (counter(engines["on"].url, f"farthing_probe_spans_{what}_total") for what in ("sent", "dropped"))
        errors = sum(counter(engine.url, "farthing_probe_errors_total") for engine in engines.values())
    print(f"load average {os.getloadavg()[0]:.2f}; {collected.exports} exports of {collected.bytes} bytes; "
          f"the probe sent {sent} spans, lost {lost}, and caught {errors} exceptions of its own")  # fmt: skip
    print(table(found))
    return 1 if lost or errors or not collected.exports else 0


if __name__ == "__main__":
    sys.exit(main())
