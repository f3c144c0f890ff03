"""A closed-loop load of streamed completions: so many clients, each sending its next request when one ends.

    python benchmarks/gpu/load.py --url http://127.0.0.1:8000 --model FOLDER --clients FILE.jsonl.gz
        --phases warmup:8,c1:25,c8:25

Runs in vLLM's own environment: the standard library and aiohttp. A phase is NAME:SECONDS and lets what it began end;
with ``--requests N`` it ends after N requests, at the latest when its seconds are over. Prints one JSON line a phase;
FILE gets the client's view of each request.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp  # type: ignore[import-not-found]  # only the engine's environment has it

if not __package__:
    sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.plan import PHASES, Planned, load_words, plan
from benchmarks.gpu.tracing import traceparents

Row = dict[str, Any]
ABORTED = "aborted"
KEEP_ALIVE_SECONDS = 2
"""vLLM closes a connection that was idle for 5 s; one that is being closed must not be taken for a new request."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what all of them say."""

    session: Any
    url: str
    temperature: float | None
    contexts: Iterator[str] | None = None
    """Trace contexts of the callers, one a request."""


async def ask(target: Target, request: Planned, row: Row, gaps: list[float]) -> None:
    """Send a request; its row is filled, and the seconds between its chunks go to ``gaps``."""
    body: Row = {
        "model": "m",
        "prompt": " " + " ".join(request.words),
        "max_tokens": request.output,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.answers > 1:
        body |= {"n": request.answers, "temperature": 1.0}
    elif target.temperature is not None:
        body["temperature"] = target.temperature
    headers = {"X-Request-Id": row["id"], "X-Tenant-Id": row["tenant"]}
    if target.contexts is not None:
        headers["traceparent"] = next(target.contexts)
    try:
        async with target.session.post(f"{target.url}/v1/completions", json=body, headers=headers) as response:
            if response.status != 200:
                row["err"] = f"{response.status} {(await response.text())[:200]}"
                return
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                now = time.time()
                if row["last"] is None:
                    row["first"] = now
                else:
                    gaps.append(now - row["last"])
                row["last"] = now
                row["chunks"] += 1
                if b'"usage":{' in line:
                    row["usage"] = json.loads(line[6:])["usage"]
                if request.patience is not None and now - row["t0"] > request.patience:
                    row["err"] = ABORTED
                    response.close()
                    return
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        row["err"] = repr(error)[:200]
    finally:
        row["end"] = time.time()


def new_row(identifier: str, phase: str, request: Planned) -> Row:
    """The client's view of a request that is being sent; times are seconds since the epoch."""
    return {
        "id": identifier,
        "phase": phase,
        "tenant": request.tenant,
        "out": request.output,
        "shared": request.shared,
        "tokens": len(request.words),
        "t0": time.time(),
        "first": None,
        "last": None,
        "chunks": 0,
        "usage": None,
        "err": None,
    }


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that so large a share of them lies below."""
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 6) if values else None


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    return round(sum(values) / len(values), 6) if values else None


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all of its descendants."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        total += ticks.get(process, 0)
        waiting += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")


def summary(rows: Sequence[Row], gaps: Sequence[float], seconds: float) -> Row:
    """A phase in numbers; seconds, but for the counts."""
    done = [row for row in rows if row["err"] is None]
    told = [row["usage"] for row in done if row["usage"]]
    generated = sum(usage["completion_tokens"] for usage in told)
    first = [row["first"] - row["t0"] for row in done if row["first"] is not None]
    return {
        "wall": round(seconds, 3),
        "n": len(rows),
        "ok": len(done),
        "aborted": sum(row["err"] == ABORTED for row in rows),
        "errs": [row["err"] for row in rows if row["err"] not in {None, ABORTED}][:3],
        "req_s": round(len(done) / seconds, 4),
        "gen_s": round(generated / seconds, 1),
        "gen": generated,
        "prompt": sum(usage["prompt_tokens"] for usage in told),
        "ttft_mean": mean(first),
        "ttft_p50": quantile(first, 0.5),
        "ttft_p99": quantile(first, 0.99),
        "gap_mean": mean(gaps),
        "gap_p50": quantile(gaps, 0.5),
        "gap_p99": quantile(gaps, 0.99),
        "e2e_mean": mean([row["end"] - row["t0"] for row in done]),
    }


async def run_phase(
    target: Target, name: str, requests: Iterator[Planned], ids: Iterator[str], *, seconds: float, most: int | None
) -> tuple[list[Row], list[float]]:
    """The rows of a phase's requests, and the seconds between their chunks."""
    rows: list[Row] = []
    gaps: list[float] = []
    ends = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < ends and (most is None or len(rows) < most):
            request = next(requests)
            rows.append(new_row(next(ids), name, request))
            await ask(target, request, rows[-1], gaps)

    clients = PHASES[name].clients
    if clients:
        await asyncio.gather(*(client() for _ in range(clients)))
    else:
        await asyncio.sleep(seconds)
    return rows, gaps


async def run(options: argparse.Namespace) -> list[Row]:
    """Go through the phases; all rows."""
    words = load_words(options.model)
    ids = (f"{options.id_prefix}{number:06d}" for number in range(1, 1_000_000))
    rows: list[Row] = []
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600), connector=connector) as session:
        contexts = None if options.sampled is None else traceparents(options.sampled, options.seed)
        target = Target(session, options.url, options.temperature, contexts)
        for part in options.phases.split(","):
            name, _, seconds = part.partition(":")
            requests = plan(name, options.seed, words, options.scale)
            spent = cpu_seconds(options.server_pid) if options.server_pid else None
            began, start = time.time(), time.monotonic()
            found, gaps = await run_phase(target, name, requests, ids, seconds=float(seconds), most=options.requests)
            told = {
                "label": options.label,
                "phase": name,
                "began": began,
                "conc": PHASES[name].clients,
                **summary(found, gaps, time.monotonic() - start),
                "server_cpu_s": None if spent is None else round(cpu_seconds(options.server_pid) - spent, 2),
            }
            print(json.dumps(told), flush=True)
            rows += found
    return rows


def main() -> None:
    """Send the load, write down what the clients saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server, which serves its model as m")
    parser.add_argument("--model", type=Path, required=True, help="its folder, for words.json")
    parser.add_argument("--phases", required=True, help=f"NAME:SECONDS,... of {', '.join(PHASES)}")
    parser.add_argument("--clients", type=Path, required=True, help="file for the client's view, .jsonl.gz")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, help="most requests of a phase")
    parser.add_argument("--scale", type=float, default=1.0, help="shortens prompts and outputs (1)")
    parser.add_argument("--temperature", type=float, help="of requests for one answer (the model's own)")
    parser.add_argument("--sampled", type=float, help="send trace contexts, so large a share of them sampled (none)")
    parser.add_argument("--id-prefix", default="r")
    parser.add_argument("--label", default="", help="goes into the summaries")
    parser.add_argument("--server-pid", type=int, help="counts the CPU time of this process and its descendants")
    options = parser.parse_args()
    rows = asyncio.run(run(options))
    with gzip.open(options.clients, "wt", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
