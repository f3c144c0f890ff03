"""Runs in the engine's environment: the cost of vLLM's Prometheus logger and of the probe, on the same steps.

    PYTHONPATH=<the probe's wheel> <engine python> record_cost.py MODEL_FOLDER STEPS.jsonl.gz ROUNDS

Prints one JSON object: microseconds per call of ``record()``, one entry a round; and of the middleware, per request
and per chunk.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

os.environ["FARTHING_PROBE_SPOOL"] = ""

from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerIterationDetails, SchedulerStats

from farthing_probe import RequestMeter
from farthing_probe.probe import obtain
from farthing_probe.stat_logger import FarthingStatLogger


def statistics_of(path: str) -> list[tuple[SchedulerStats, IterationStats]]:
    """The recorded steps as the objects that vLLM hands to its loggers."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            scheduler = SchedulerStats(
                num_running_reqs=row["run"], num_waiting_reqs=row["wait"], kv_cache_usage=row["kv"]
            )
            if row.get("d"):
                index, prefills, prefilled, decodes, decoded, elapsed, inputs, encoded = row["d"]
                scheduler.iteration_details = SchedulerIterationDetails(
                    index, prefills, prefilled, decodes, decoded, elapsed, inputs, encoded
                )
            iteration = IterationStats()
            iteration.num_generation_tokens = row.get("g", 0)
            total, computed, hit, external = row.get("p", (0, 0, 0, 0))
            prompt = iteration.prompt_token_stats
            prompt.total, prompt.computed, prompt.local_cache_hit = total, computed, hit
            prompt.external_kv_transfer, prompt.cached_tokens = external, hit + external
            first = min(row.get("g", 0), row["d"][1] if row.get("d") and total else 0)
            iteration.time_to_first_tokens_iter = [0.1] * first
            iteration.inter_token_latencies_iter = [0.01] * (row.get("g", 0) - first)
            iteration.num_preempted_reqs = row.get("pre", 0)
            for ended in row.get("fin", ()):
                known = FinishedRequestStats.__dataclass_fields__
                fields = {name: value for name, value in ended.items() if name in known and name != "finish_reason"}
                iteration.finished_requests.append(FinishedRequestStats(finish_reason=FinishReason.LENGTH, **fields))
            rows.append((scheduler, iteration))
    return rows


def microseconds_per_call(logger: Any, rows: list[tuple[SchedulerStats, IterationStats]]) -> float:
    """Mean over all steps."""
    record = logger.record
    began = time.perf_counter_ns()
    for scheduler, iteration in rows:
        record(scheduler, iteration, mm_cache_stats=None, engine_idx=0)
    return (time.perf_counter_ns() - began) / len(rows) / 1000


CHUNK = (
    b'data: {"id":"chatcmpl-3f1c","object":"chat.completion.chunk","created":1795707437,"model":"tiny","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":37,"total_tokens":53,"completion_tokens":16}}\n\n'
HEADERS = [
    (b"host", b"engine"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer key"),
    (b"x-tenant-id", b"acme"),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
]


async def middleware_microseconds(requests: int, chunks: int) -> float:
    """Wall microseconds of so many streamed answers through the middleware, less those without it, a request."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for _ in range(chunks):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": LAST, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        pass

    processor = SimpleNamespace(request_states={}, add_request=lambda *_: None)
    state = SimpleNamespace(engine_client=SimpleNamespace(output_processor=processor))

    def scope() -> dict[str, Any]:
        return {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "root_path": "", "headers": list(HEADERS),
            "app": SimpleNamespace(state=state),
        }  # fmt: skip

    async def seconds(app: Any) -> float:
        scopes = [scope() for _ in range(requests)]
        began = time.perf_counter_ns()
        for each in scopes:
            await app(each, receive, send)
        return (time.perf_counter_ns() - began) / requests / 1000

    metered = RequestMeter(application)
    await seconds(metered), await seconds(application)
    return await seconds(metered) - await seconds(application)


def main() -> None:
    """Measure, print."""
    folder, steps, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = EngineArgs(
        model=folder, load_format="dummy", enforce_eager=True, max_model_len=2048, enable_logging_iteration_details=True
    ).create_engine_config()
    probe = obtain(config)
    assert probe is not None
    loggers = {"prometheus": PrometheusStatLogger(config, [0]), "probe": FarthingStatLogger(config, 0)}
    loggers["probe"].log_engine_initialized()
    rows = statistics_of(steps)
    result: dict[str, Any] = {"record": {name: [] for name in loggers}, "steps": len(rows), "request": [], "chunk": []}
    for turn in range(rounds + 1):
        for name in sorted(loggers, reverse=bool(turn % 2)):
            taken = microseconds_per_call(loggers[name], rows)
            if turn:
                result["record"][name].append(taken)
    for _ in range(rounds):
        bare = asyncio.run(middleware_microseconds(2000, 0))
        many = asyncio.run(middleware_microseconds(200, 500))
        result["request"].append(bare)
        result["chunk"].append((many - bare) / 500)
    result["errors"] = probe.errors
    print("RESULT" + json.dumps(result))
    os._exit(0)


if __name__ == "__main__":
    main()
