"""What traces add to a request in the probe's middleware, in microseconds of the event loop's thread.

    python -m benchmarks.trace_calls [--rounds 9]

An application that answers at once is asked through the middleware, in a process for each way of tracing; what it takes
without the middleware is subtracted. Time of the processor by the thread's own clock, so that other work on the machine
counts for little; the threads that send records and spans are not in it. Needs no engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.gpu.tracing import WITHOUT_TRACES, running_collector, traceparents, traces_environment
from tests.alerts.real_parts import free_port

ROOT = Path(__file__).parents[1]
REQUESTS = 2_000
HEADERS = [(b"host", b"engine"), (b"content-type", b"application/json"), (b"x-tenant-id", b"acme")]
BODY = b'{"choices":[],"usage":{"prompt_tokens":37,"total_tokens":53,"completion_tokens":16}}'


async def microseconds(app: Any, share: float) -> float:
    """Of so many requests, a request; so large a share of them sampled."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        pass

    client = SimpleNamespace(output_processor=SimpleNamespace(request_states={}, add_request=lambda *_: None))
    server = SimpleNamespace(state=SimpleNamespace(engine_client=client))
    contexts = traceparents(share)
    scopes = [
        {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "root_path": "", "app": server,
            "headers": [*HEADERS, (b"traceparent", next(contexts).encode())],
        }
        for _ in range(REQUESTS)
    ]  # fmt: skip
    began = time.thread_time_ns()
    for each in scopes:
        await app(each, receive, send)
    return (time.thread_time_ns() - began) / REQUESTS / 1000


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": BODY})


def child(rounds: int) -> None:
    """Measure in this process, by its environment; round 0 does not count."""
    from farthing_probe.probe import obtain  # noqa: PLC0415 - reads the environment
    from farthing_probe.request_meter import RequestMeter  # noqa: PLC0415

    probe = obtain(None)
    assert probe is not None
    probe.begin_once()
    metered = RequestMeter(application)
    found: dict[str, list[float]] = {"0": [], "1": []}
    for turn in range(rounds + 1):
        for share in sorted(found, reverse=bool(turn % 2)):
            taken = asyncio.run(microseconds(metered, float(share))) - asyncio.run(
                microseconds(application, float(share))
            )
            if turn:
                found[share].append(taken)
    print("RESULT" + json.dumps({**found, "errors": probe.errors}), flush=True)
    os._exit(0)


def main() -> int:
    """Print the table; status 1 when the probe caught an exception of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (9)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.rounds)
    port, errors = free_port(), 0
    print(f"{'traces':<10}{'sampled':<10}{'median':>10}{'least':>10}{'most':>10}   us a request")
    with running_collector(port) as collected:
        ways = {"off": WITHOUT_TRACES, "records": {"FARTHING_PROBE_TRACES": "records"}, "sdk": traces_environment(port)}
        for name, own in ways.items():
            environment = {**os.environ, "FARTHING_PROBE_URL": f"http://127.0.0.1:{free_port()}", **own}
            command = [sys.executable, "-m", "benchmarks.trace_calls", "--child", "--rounds", str(options.rounds)]
            environment |= {"FARTHING_PROBE_SPOOL": "", "OTEL_BSP_MAX_QUEUE_SIZE": "100000"}
            done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.rpartition("RESULT")[2])
            errors += found.pop("errors")
            for share, values in found.items():
                spread = f"{statistics.median(values):>10.1f}{min(values):>10.1f}{max(values):>10.1f}"
                print(f"{name:<10}{'all' if share == '1' else 'none':<10}{spread}", flush=True)
    print(
        f"load average {os.getloadavg()[0]:.2f}; {collected.exports} exports; exceptions of the probe's own: {errors}"
    )
    return 1 if errors or not collected.exports else 0


if __name__ == "__main__":
    sys.exit(main())
