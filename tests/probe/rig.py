"""A probe on a frozen clock whose records stay here, and an engine of vLLM's shape for it to look at.

``FakeEngine`` has what the probe reads of vLLM 0.32's front end, by the same names; that those names are vLLM's own
is what ``test_versions.py`` proves with the real classes.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farthing.collectors.wire import decode_line
from farthing.domain.records import Lifecycle, Record, Started, StepBatch, Usage
from farthing_probe import probe, request_meter, stat_logger, wire
from farthing_probe.delivery import Counts
from farthing_probe.identity import Identity
from farthing_probe.request_meter import RequestMeter
from farthing_probe.settings import Settings

__all__ = ["CHAT", "JSON", "SSE", "Answer", "Captured", "Clock", "FakeEngine", "Rig", "rigged"]

SECOND = 1_000_000_000
CHAT = "/v1/chat/completions"
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
BODY = {"type": "http.request", "body": b"{}", "more_body": False}
GONE = {"type": "http.disconnect"}


class Clock:
    """Stands for the module ``time``; it moves when told."""

    CLOCK_MONOTONIC = 1

    def __init__(self, now_ns: int = 1000 * SECOND) -> None:
        self.now = now_ns

    def monotonic_ns(self) -> int:
        """The boot's clock."""
        return self.now

    def monotonic(self) -> float:
        """The same in seconds, as the engine core reads it."""
        return self.now / SECOND

    def time_ns(self) -> int:
        """UTC."""
        return 1_780_000_000 * SECOND + self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * SECOND)


class Captured:
    """Stands where the delivery does."""

    def __init__(self) -> None:
        self.records: list[wire.Wire] = []
        self.counts = Counts()
        self.unit_prices: dict[str, dict[str, int]] = {}
        self.waiting = self.spooled_bytes = 0
        self.started = 0
        self.closed: list[float] = []
        self.abandoned = False

    def put(self, record: wire.Wire) -> None:
        """Keep a record."""
        self.records.append(record)

    def start(self) -> None:
        """Count the call."""
        self.started += 1

    def close(self, seconds: float) -> None:
        """Note the deadline."""
        self.closed.append(seconds)

    def abandon(self) -> None:
        """Note the call."""
        self.abandoned = True


# ---- the engine ---------------------------------------------------------------------------------


@dataclass
class RequestStateStats:
    """vllm.v1.metrics.stats.RequestStateStats."""

    num_generation_tokens: int = 0
    num_preemptions: int = 0
    arrival_time: float = 0.0
    queued_ts: float = 0.0
    scheduled_ts: float = 0.0
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0


@dataclass
class RequestState:
    """vllm.v1.engine.output_processor.RequestState."""

    request_id: str
    external_req_id: str
    prompt_len: int
    parent_req: object = None
    request_index: int = 0
    lora_name: str | None = None
    num_cached_tokens: int = 0
    is_prefilling: bool = True
    stats: RequestStateStats = field(default_factory=RequestStateStats)


@dataclass
class FinishedRequestStats:
    """vllm.v1.metrics.stats.FinishedRequestStats."""

    finish_reason: str
    request_id: str | None
    e2e_latency: float
    num_prompt_tokens: int
    num_preemptions: int
    num_generation_tokens: int
    queued_time: float
    inference_time: float
    decode_time: float
    num_cached_tokens: int


@dataclass
class IterationStats:
    """vllm.v1.metrics.stats.IterationStats."""

    num_generation_tokens: int = 0
    num_preempted_reqs: int = 0
    prompt_token_stats: Any = field(default_factory=lambda: SimpleNamespace(computed=0, total=0))
    finished_requests: list[FinishedRequestStats] = field(default_factory=list)
    time_to_first_tokens_iter: list[float] = field(default_factory=list)
    inter_token_latencies_iter: list[float] = field(default_factory=list)


class FakeEngine:
    """An engine client: its output processor, and a core that does what it is told."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.vllm_config = SimpleNamespace()
        self.request_states: dict[str, RequestState] = {}
        self.output_processor = SimpleNamespace(request_states=self.request_states, add_request=self._add_request)
        self.engine_core = SimpleNamespace(reqs_in_flight={})
        self.generated: defaultdict[str, int] = defaultdict(int)
        """Output tokens by internal id, as the core counts them."""
        self._numbers = iter(range(10**9))

    def _add_request(
        self, request: Any, prompt: str | None = None, parent_req: Any = None, request_index: int = 0, queue: Any = None
    ) -> str:
        """OutputProcessor.add_request; its result is what the engine must get back."""
        if request.request_id not in self.request_states:
            self.request_states[request.request_id] = RequestState(
                request.request_id,
                request.external_req_id,
                request.prompt_len,
                parent_req,
                request_index,
                request.lora_name,
                stats=RequestStateStats(arrival_time=self.clock.monotonic()),
            )
        return f"added {request.request_id}"

    def add(
        self, external: str, prompt: int = 10, n: int = 1, lora: str | None = None, images: Iterable[int] = ()
    ) -> list[str]:
        """Submit a request through the output processor; the internal ids of its sequences."""
        features = [SimpleNamespace(modality="image", mm_position=SimpleNamespace(length=each)) for each in images]
        parent = object() if n > 1 else None
        internal = []
        for index in range(n):
            identity = f"{external}-{next(self._numbers):08x}"
            request = SimpleNamespace(
                request_id=identity, external_req_id=external, prompt_len=prompt, lora_name=lora, mm_features=features
            )
            result = self.output_processor.add_request(request, None, parent, index, None)
            assert result == f"added {identity}"
            internal.append(identity)
        return internal

    def step(
        self, tokens: dict[str, int], finish: dict[str, str] | None = None, cached: int = 0, named: bool = True
    ) -> IterationStats:
        """Outputs of one step for internal ids, as the output processor makes statistics of them.

        ``finish`` has the reasons of those that end with it; ``named`` is False before vLLM 0.20.
        """
        iteration = IterationStats()
        now = self.clock.monotonic()
        for identity, count in tokens.items():
            self.generated[identity] += count
            state = self.request_states.get(identity)
            if state is None:
                continue  # aborted meanwhile
            stats = state.stats
            iteration.num_generation_tokens += count
            if state.is_prefilling:
                state.is_prefilling = False
                state.num_cached_tokens = min(cached, state.prompt_len)
                stats.queued_ts = stats.arrival_time
                stats.scheduled_ts = stats.queued_ts + (now - stats.queued_ts) / 2
                stats.first_token_ts = now
                iteration.time_to_first_tokens_iter.append(now - stats.arrival_time)
                iteration.prompt_token_stats.total += state.prompt_len
                iteration.prompt_token_stats.computed += state.prompt_len - state.num_cached_tokens
            else:
                iteration.inter_token_latencies_iter.append(now - stats.last_token_ts)
            stats.num_generation_tokens += count
            stats.last_token_ts = now
            if finish and identity in finish:
                del self.request_states[identity]
                iteration.finished_requests.append(
                    FinishedRequestStats(
                        finish[identity],
                        state.external_req_id if named else None,
                        now - stats.arrival_time,
                        state.prompt_len,
                        stats.num_preemptions,
                        stats.num_generation_tokens,
                        stats.scheduled_ts - stats.queued_ts,
                        now - stats.scheduled_ts,
                        now - stats.first_token_ts,
                        state.num_cached_tokens,
                    )
                )
        return iteration

    def abort(self, *internal: str) -> None:
        """Forget requests: no statistics of them will come."""
        for identity in internal:
            self.request_states.pop(identity, None)

    def state(self, **more: Any) -> Any:
        """Scheduler statistics of the present."""
        return SimpleNamespace(num_running_reqs=len(self.request_states), num_waiting_reqs=0, **more)


# ---- the probe ----------------------------------------------------------------------------------


@dataclass
class Answer:
    """What the application saw and what the client got of one exchange."""

    scope: dict[str, Any]
    received: list[Any]
    sent: list[Any]
    error: BaseException | None = None

    @property
    def header(self) -> str:
        """The request id that the application saw."""
        return str(next(value.decode() for name, value in self.scope["headers"] if name == b"x-request-id"))


class Rig:
    """One probe, its engine, and a client."""

    def __init__(self, clock: Clock, made: probe.Probe, delivery: Captured) -> None:
        self.clock, self.probe, self.delivery = clock, made, delivery
        self.engine = FakeEngine(clock)
        self.log: Any = stat_logger.StepLog(None, 0)

    def begin(self) -> "Rig":
        """Begin the boot."""
        self.log.log_engine_initialized()
        return self

    def step(self, *arguments: Any, scheduler: Any = None, **named: Any) -> IterationStats:
        """One engine step whose statistics reach the plugin."""
        iteration = self.engine.step(*arguments, **named)
        self.log.record(scheduler or self.engine.state(), iteration)
        return iteration

    def settle(self, seconds: float = 10.0) -> list[Usage]:
        """All usage records once that much time has passed."""
        self.clock.pass_(seconds)
        self.probe.tick()
        return self.usages

    @property
    def records(self) -> list[Record]:
        """All records, as intake takes them: each must pass its decoder."""
        lines = (json.dumps(record, separators=(",", ":")).encode() for record in self.delivery.records)
        return [decode_line(line) for line in lines]

    @property
    def usages(self) -> list[Usage]:
        """The usage records."""
        return [record for record in self.records if isinstance(record, Usage)]

    @property
    def batches(self) -> list[StepBatch]:
        """The step batches."""
        return [record for record in self.records if isinstance(record, StepBatch)]

    @property
    def events(self) -> list[str]:
        """Of what happened to the boots."""
        kept = [record for record in self.records if isinstance(record, Started | Lifecycle)]
        return ["started" if isinstance(record, Started) else record.event for record in kept]

    def scope(self, path: str = CHAT, headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> dict[str, Any]:
        """A request to the engine's server."""
        app = SimpleNamespace(state=SimpleNamespace(engine_client=self.engine))
        return {"type": "http", "method": "POST", "path": path, "headers": list(headers), "app": app, **more}

    def ask(self, app: Any, *, incoming: Iterable[Any] = (BODY,), scope: dict[str, Any] | None = None) -> Answer:
        """Let a metered application answer one request; an exception of the application is in the answer."""
        return asyncio.run(self.asked(app, incoming=incoming, scope=scope))

    async def asked(
        self, app: Any, *, incoming: Iterable[Any] = (BODY,), scope: dict[str, Any] | None = None
    ) -> Answer:
        """See ask."""
        scope = self.scope() if scope is None else scope
        answer = Answer(scope, [], [])
        messages = iter(incoming)

        async def receive() -> Any:
            message = next(messages, GONE)
            answer.received.append(message)
            return message

        async def send(message: Any) -> None:
            answer.sent.append(message)

        try:
            await RequestMeter(app)(scope, receive, send)
        except Exception as error:
            answer.error = error
        return answer


IDENTITY = Identity(
    boot="b0",
    proc=0,
    processes=1,
    started_ns=990 * SECOND,
    engine="llama-8b",
    version="0.32.0",
    model="llama",
    gpu="NVIDIA H100 80GB HBM3",
    gpu_count=1,
    gpu_uuids=("GPU-0",),
    details=False,
)


@contextmanager
def rigged(settings: Settings | None = None, identity: Identity = IDENTITY) -> Iterator[Rig]:
    """A rig in place of this process's probe, which has not begun."""
    clock, delivery = Clock(), Captured()
    with pytest.MonkeyPatch.context() as patch:
        for module in (probe, request_meter, stat_logger):
            patch.setattr(module, "time", clock)
        made = probe.Probe(settings or Settings(spool=None), identity)
        made.delivery = delivery  # type: ignore[assignment]
        made._metrics = SimpleNamespace(update=lambda _: None)  # type: ignore[assignment] # has a test of its own
        patch.setattr(probe, "_probe", made)
        yield Rig(clock, made, delivery)


def off_file(folder: Path) -> Settings:
    """Settings with a kill switch in the folder."""
    return Settings(spool=None, off_file=folder / "off")
