"""What ``test_versions.py`` runs in an engine's environment, with one version's sources first on the path.

The plugin, the middleware and the offline meter of the installed probe meet vLLM's own stat-logger base, plugin
loader, adapter, output processor, request states, statistics and requests. Only the engine core is played: its
outputs are made here, of vLLM's own types. Prints what the probe made of it, as one JSON object.

What is stubbed: ``gguf``, which 0.16 imports for quantized files and the environment does not have; the delivery,
which keeps its records; and of the configuration all but vLLM's own parallel and observability parts.
"""
# ruff: noqa: E402 - what is missing has to be stubbed before vLLM is imported

import asyncio
import importlib.util
import json
import sys
import time
from copy import copy
from types import ModuleType, SimpleNamespace
from typing import Any

stubbed = []
if importlib.util.find_spec("gguf") is None:
    stubbed.append("gguf")
    for name in ("gguf", "gguf.constants", "gguf.quants"):
        module = sys.modules[name] = ModuleType(name)
        for attribute in ("Keys", "VisionProjectorType", "GGMLQuantizationType", "MODEL_ARCH_NAMES"):
            setattr(module, attribute, object)

import torch  # type: ignore[import-not-found] # of the engine's environment only
import vllm
from vllm.config import ObservabilityConfig, ParallelConfig
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.metrics import loggers, stats

import farthing_probe
from farthing_probe import probe as runtime
from farthing_probe.delivery import Counts

RECORDS: list[dict[str, Any]] = []


class Kept:
    """Stands where the delivery does."""

    def __init__(self, *_: Any) -> None:
        self.counts = Counts()
        self.unit_prices: dict[str, dict[str, int]] = {}
        self.waiting = self.spooled_bytes = 0
        self.put = RECORDS.append

    def start(self) -> None:
        """Nothing to start."""

    def close(self, seconds: float) -> None:
        """Nothing to close."""


setattr(runtime, "Delivery", Kept)  # noqa: B010 - by name: it is no part of what the module offers


def of(kind: Any, **fields: Any) -> Any:
    """One of vLLM's structs, given those of the fields that this version has."""
    known = getattr(kind, "__struct_fields__", None) or kind.__dataclass_fields__
    return kind(**{name: value for name, value in fields.items() if name in known})


NAMED = "external_req_id" in EngineCoreRequest.__struct_fields__
DETAILED = hasattr(stats, "SchedulerIterationDetails")
CONFIG = SimpleNamespace(
    parallel_config=ParallelConfig(),
    observability_config=of(ObservabilityConfig, enable_logging_iteration_details=True),
    model_config=SimpleNamespace(served_model_name=["llama", "alias"], model="org/llama"),
)


class Core:
    """The engine core's part, and the loop that hands its outputs to the output processor and to the loggers."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.output_processor = OutputProcessor(None, log_stats=True)
        self.vllm_config = CONFIG
        self.engine_core = SimpleNamespace()

    def add(self, external: str, number: int, prompt: int, *, n: int = 1, images: int = 0, pooled: bool = False,
            lora: bool = False) -> list[str]:  # fmt: skip
        """As AsyncLLM.add_request does; the internal ids of the sequences."""
        params = PoolingParams() if pooled else SamplingParams(n=n, max_tokens=9, output_kind=RequestOutputKind.DELTA)
        internal = f"{external}-{number:08x}" if NAMED else external
        features = [
            of(
                MultiModalFeatureSpec, data=None, modality="image", identifier=f"i{i}",
                mm_position=PlaceholderRange(0, 4, torch.tensor([False, True, True, False]) if i else None),
            )
            for i in range(images)
        ]  # fmt: skip
        request = of(
            EngineCoreRequest, request_id=internal, external_req_id=external, prompt_token_ids=[1] * prompt,
            mm_features=features, sampling_params=None if pooled else params, pooling_params=params if pooled else None,
            eos_token_id=None, arrival_time=time.time(), cache_salt=None, data_parallel_rank=None,
            lora_request=LoRARequest("adapter-7", 1, "/adapter-7") if lora else None,
        )  # fmt: skip
        queue = RequestOutputCollector(params.output_kind, *([internal] if NAMED else []))
        if n == 1:
            self.output_processor.add_request(request, "canary", None, 0, queue)
            return [internal]
        parent = ParentRequest(request) if NAMED else ParentRequest(internal, params)
        children = []
        for index in range(n):
            child = request if index == n - 1 else copy(request)
            child.request_id, child.sampling_params = parent.get_child_info(index)
            self.output_processor.add_request(child, "canary", parent, index, queue)
            children.append(child.request_id)
        return children

    def abort(self, *internal: str) -> None:
        """As AsyncLLM.abort does."""
        self.output_processor.abort_requests(internal, **({"internal": True} if NAMED else {}))

    def step(self, *outputs: Any, details: tuple[int, ...] = (0, 0, 0, 0)) -> None:
        """One step's outputs through vLLM's own code, and its statistics to the loggers."""
        time.sleep(0.002)
        iteration = stats.IterationStats()
        self.output_processor.process_outputs(list(outputs), time.monotonic(), iteration)
        scheduler = stats.SchedulerStats(num_running_reqs=len(self.output_processor.request_states))
        if DETAILED:
            scheduler.iteration_details = stats.SchedulerIterationDetails(1, *details, 0.5, 1, 19)
        self.output_processor.update_scheduler_stats(scheduler)
        self.logger.record(scheduler_stats=scheduler, iteration_stats=iteration, mm_cache_stats=None, engine_idx=0)


def first(identity: str, tokens: int, prompt: int, cached: int = 0, **more: Any) -> Any:
    """A sequence's first output, with the moments that the scheduler took it."""
    now = time.monotonic()
    events = [
        EngineCoreEvent.new_event(EngineCoreEventType.QUEUED, now - 0.004),
        EngineCoreEvent.new_event(EngineCoreEventType.SCHEDULED, now - 0.002),
        EngineCoreEvent.new_event(EngineCoreEventType.PREEMPTED, now - 0.001),
    ]
    prefill = None
    if hasattr(stats, "PrefillStats"):
        prefill = stats.PrefillStats()
        prefill.set(prompt, cached, 0)
    return of(
        EngineCoreOutput, request_id=identity, new_token_ids=[7] * tokens, events=events, num_cached_tokens=cached,
        prefill_stats=prefill, **more,
    )  # fmt: skip


def later(identity: str, tokens: int, reason: Any = None, cached: int = 0) -> Any:
    """Another output; until 0.16 each tells again how much of the prompt was cached."""
    given = {"request_id": identity, "new_token_ids": [7] * tokens, "finish_reason": reason}
    return of(EngineCoreOutput, **given, num_cached_tokens=cached)


SSE = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
END = {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False}
CHUNK = {"type": "http.response.body", "body": b'data: {"choices":[]}\n\n', "more_body": True}
STOP, LENGTH, ABORT = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT


async def finished(core: Core, send: Any, receive: Any) -> None:
    """Seven prompt tokens of which four were cached, three tokens out."""
    (one,) = core.add("chatcmpl-finished", 1, 7)
    core.step(first(one, 1, 7, 4), details=(1, 3, 0, 0))
    core.step(later(one, 2, LENGTH, 4), details=(0, 0, 1, 2))
    await send(END)


async def choices(core: Core, send: Any, receive: Any) -> None:
    """Two choices of one prompt."""
    one, two = core.add("chatcmpl-choices", 2, 6, n=2)
    core.step(first(one, 1, 6), first(two, 1, 6, 4))
    core.step(later(one, 1, STOP), later(two, 1, None, 4))
    core.step(later(two, 1, LENGTH, 4))
    await send(END)


async def aborted_early(core: Core, send: Any, receive: Any) -> None:
    """Its client hangs up before the first token."""
    (one,) = core.add("chatcmpl-early", 3, 5)
    await receive()
    core.abort(one)


async def aborted_late(core: Core, send: Any, receive: Any) -> None:
    """Its client hangs up after two tokens; the engine emits another that nobody waits for."""
    (one,) = core.add("chatcmpl-late", 4, 8)
    core.step(first(one, 1, 8, 3))
    core.step(later(one, 1, None, 3))
    await send(CHUNK)
    await receive()
    core.abort(one)
    core.step(later(one, 1))


async def pooled(core: Core, send: Any, receive: Any) -> None:
    """An embedding."""
    (one,) = core.add("embd-pooled", 5, 4, pooled=True)
    core.step(first(one, 0, 4, pooling_output=torch.zeros(2), finish_reason=STOP))
    await send(END)


async def seeing(core: Core, send: Any, receive: Any) -> None:
    """Two images, with an adapter; one has parts that are no embeddings."""
    (one,) = core.add("chatcmpl-seeing", 6, 12, images=2, lora=True)
    core.step(first(one, 1, 12, finish_reason=STOP))
    await send(END)


async def given_up(core: Core, send: Any, receive: Any) -> None:
    """The engine gives it up before it is scheduled."""
    (one,) = core.add("chatcmpl-given-up", 7, 9)
    core.step(later(one, 0, ABORT))
    await send(END)


async def twins(core: Core, send: Any, receive: Any) -> None:
    """Two with one id; before there were internal ids vLLM refuses the second."""
    (one,) = core.add("chatcmpl-twin", 8, 3)
    try:
        (two,) = core.add("chatcmpl-twin", 9, 3)
    except ValueError:
        core.step(first(one, 3, 3, finish_reason=STOP))
    else:
        core.step(first(one, 1, 3), first(two, 1, 3))
        core.step(later(one, 1), later(two, 1, STOP))
        core.step(later(one, 1, STOP))
    await send(END)


CASES = (finished, choices, aborted_early, aborted_late, pooled, seeing, given_up, twins)


async def ask(case: Any, core: Core) -> None:
    """One request through the middleware."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(SSE)
        await case(core, send, receive)

    messages = iter([{"type": "http.request", "body": b"{}", "more_body": False}])

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    async def send(_message: Any) -> None:
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions",
        "headers": [(b"x-request-id", case.__name__.encode()), (b"x-tenant-id", b"acme")],
        "app": SimpleNamespace(state=SimpleNamespace(engine_client=core)),
    }  # fmt: skip
    await farthing_probe.RequestMeter(app)(scope, receive, send)


async def serve(core: Core) -> None:
    """All cases, and one that comes from elsewhere."""
    for case in CASES:
        await ask(case, core)
    (alone,) = core.add("elsewhere", 10, 2)
    core.step(first(alone, 2, 2, finish_reason=STOP))


async def offline(core: Core, llm: Any) -> None:
    """A job of an LLM, which the middleware does not see."""
    with farthing_probe.meter(llm, job="nightly"):
        for attached in llm.llm_engine.logger_manager.stat_loggers:
            core.logger = attached
        (one,) = core.add("0", 11, 5)
        core.step(first(one, 1, 5, 2))
        core.step(later(one, 3, LENGTH, 2))


def main() -> None:
    """See the module."""
    (plugin,) = [each for each in loggers.load_stat_logger_plugin_factories() if each.__name__ == "FarthingStatLogger"]
    adapter = loggers.PerEngineStatLoggerAdapter(CONFIG, [0], plugin)
    adapter.log_engine_initialized()
    online: Any = runtime.current()
    core = Core(adapter)
    asyncio.run(serve(core))
    deadline = time.monotonic() + 20
    while online.pending and time.monotonic() < deadline:
        time.sleep(0.05)
        online.tick()
    online.stop()
    served = len(RECORDS)

    runtime._probe = None  # an offline job is a process of its own
    manager = SimpleNamespace(stat_loggers=[])
    llm = SimpleNamespace(llm_engine=SimpleNamespace(logger_manager=manager, vllm_config=CONFIG))
    asyncio.run(offline(Core(None), llm))
    probes: list[Any] = [online, runtime.current()]

    public = {name for name in vars(loggers.StatLoggerBase) if not name.startswith("_")}
    public |= {name for name in vars(loggers.AggregateStatLoggerBase) if not name.startswith("_")}
    result = {
        "version": vllm.__version__,
        "vllm": vllm.__file__,
        "probe": farthing_probe.__file__,
        "stubbed": stubbed,
        "derived": issubclass(plugin, loggers.StatLoggerBase),
        "aggregate": issubclass(plugin, loggers.AggregateStatLoggerBase),
        "not_ours": sorted(name for name in public if name not in vars(plugin.__mro__[1])),
        "errors": [each.errors for each in probes],
        "unreported": [len(each.unreported) for each in probes],
        "named": NAMED,
        "identified": "request_id" in stats.FinishedRequestStats.__dataclass_fields__,
        "detailed": DETAILED,
        "preemptions": "num_preemptions" in stats.RequestStateStats.__dataclass_fields__,
        "cached_told": hasattr(stats, "PromptTokenStats"),
        "keeps_config": any(value is CONFIG for value in vars(adapter.per_engine_stat_loggers[0]).values()),
        "served": RECORDS[:served],
        "offline": RECORDS[served:],
    }
    sys.stdout.write("RESULT" + json.dumps(result))


main()
