"""Spans of an application's own stages, and the trace context that takes them into the engine.

    @tracing.stage("embed", model="wordllama-256")
    def embed(texts): ...

    with tracing.stage("search", source="handbook") as span:
        found = index.search(vector, 20)
        span.set(documents=len(found))

    client.chat.completions.create(..., extra_headers=tracing.headers())

Names follow OpenTelemetry's conventions for generative AI
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md). Content is never in a
span: of a decorated function neither arguments nor results are looked at, a span takes only the facts of ``FACTS``
(counts, flags and identifiers without blanks), and of an error only its type. opentelemetry-api is imported where it
is there; without it stages do nothing, and that is said once.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from farthing_probe.sdk_log import unlogged
from farthing_probe.settings import HEADERS
from farthing_probe.span_delivery import Answers, session
from farthing_probe.span_names import ATTRIBUTE_OPERATION
from farthing_probe.stage_facts import FACTS, Fact, attributes_of
from farthing_probe.trace_settings import (
    BASE_ENDPOINT,
    CANNOT_BE_SENT,
    ENDPOINT,
    EXPORTERS,
    disabled,
    exports,
    protocol_of,
    traces_address,
    unsendable_headers,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["FACTS", "STAGES", "Stage", "StageSpan", "cache_hit", "configure", "flush", "headers", "inject", "stage"]

F = TypeVar("F", bound=Callable[..., Any])
log = logging.getLogger(__name__)

SCOPE = "farthing_probe.tracing"
ERROR_TYPE = "error.type"
"""The stable convention of errors: https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/."""
STAGE = "farthing.stage"
ABORTED = "farthing.stage.aborted"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
"""In seconds. An attribute, and no event: the stack's Jaeger drops those of applications, which may hold content."""


class Kind(NamedTuple):
    """A kind of stage: its operation by the conventions, and the fact that its span's name ends in."""

    operation: str
    subject: str
    client: bool = False
    """Whether it is a call to somebody else wherever it is used; others say so with ``remote=True``."""


STAGES: Mapping[str, Kind] = {
    "workflow": Kind("invoke_workflow", "workflow"),
    "embed": Kind("embeddings", "model"),
    "search": Kind("retrieval", "source"),
    # for these two the conventions have no operation, and allow one of one's own
    "rerank": Kind("rerank", "model"),
    "cache": Kind("cache", "source"),
    "generate": Kind("chat", "model", client=True),
}


def stage(kind: str, *, remote: bool = False, **facts: Fact) -> Stage:
    """A stage of a request: a context manager (``with`` and ``async with``) and a decorator.

    Decorated may be functions, coroutine functions, generators and asynchronous generators; the span of a generator
    lasts until it is exhausted or closed, and is current only while the generator itself runs. ``remote``: the work
    is done in another process. Raises ValueError for a kind that is not in ``STAGES`` and TypeError for a fact that
    is not in ``FACTS``; a fact whose value cannot be used is left out.
    """
    return Stage(kind, remote, facts)


class StageSpan:
    """A stage under way. Without opentelemetry-api it takes everything and does nothing."""

    __slots__ = ("_answered", "_began", "_span")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self._answered = False
        self._began = time.monotonic()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty where nothing is traced."""
        context = self._span.get_span_context() if self._span is not None else None
        return f"{context.trace_id:032x}" if context is not None and context.is_valid else ""

    def set(self, **facts: Fact) -> None:
        """Add facts, by their names in ``FACTS``; raises TypeError for any other name."""
        attributes = attributes_of(facts)
        if self._span is not None:
            self._span.set_attributes(attributes)

    def first_token(self) -> None:
        """Note that the answer begins; only the first call counts."""
        if self._span is not None and not self._answered:
            self._answered = True
            self._span.set_attribute(FIRST_CHUNK, time.monotonic() - self._began)

    def cache_hit(self, *, saved_nano_usd: int | None = None, saved_estimate_nano_usd: int | None = None) -> None:
        """Note that a cache had the answer, and what it cost when it was made, in nano-dollars; None: unknown.

        ``saved_estimate_nano_usd`` is for what is only estimated yet.
        """
        amounts = {"saved_nano_usd": saved_nano_usd, "saved_estimate_nano_usd": saved_estimate_nano_usd}
        self.set(hit=True, **{name: nano for name, nano in amounts.items() if nano is not None})

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Spans that begin within the block, and headers made in it, belong to this one."""
        api = _api()
        if api is None or self._span is None:
            yield
            return
        token = api.context.attach(api.trace.set_span_in_context(self._span))
        try:
            yield
        finally:
            api.context.detach(token)

    def _end(self, error: BaseException | None = None) -> None:
        api = _api()
        if api is None or self._span is None:
            return
        if isinstance(error, (GeneratorExit, asyncio.CancelledError)):  # nobody wants the rest
            self._span.set_attribute(ABORTED, True)
        elif error is not None:
            self._span.set_attribute(ERROR_TYPE, _name(type(error)))
            self._span.set_status(api.trace.StatusCode.ERROR)  # without a description: it would be the message
        self._span.end()


class Stage:
    """See ``stage``. A stage is entered once at a time; each call of what it decorates has a span of its own."""

    def __init__(self, kind: str, remote: bool, facts: Mapping[str, Fact]) -> None:
        if kind not in STAGES:
            raise ValueError(f"there is no stage {kind!r}; give one of {', '.join(STAGES)}")
        attributes = attributes_of(facts)
        known = STAGES[kind]
        subject = attributes.get(FACTS[known.subject][0])
        self._name = f"{known.operation} {subject}" if subject else known.operation
        self._attributes = {ATTRIBUTE_OPERATION: known.operation, STAGE: kind, **attributes}
        self._client = known.client or remote
        self._answers = kind == "generate"
        self._entered: tuple[StageSpan, Any] | None = None

    def __enter__(self) -> StageSpan:
        if self._entered is not None:
            raise RuntimeError("this stage is under way already; make another with stage()")
        span = self._start()
        current = span._current()
        current.__enter__()
        self._entered = span, current
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._entered is not None:
            (span, current), self._entered = self._entered, None
            current.__exit__(None, None, None)
            span._end(error)

    async def __aenter__(self) -> StageSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """The function, each call of which is such a stage."""
        wrap: Callable[[Any], Any] = self._function
        if inspect.isasyncgenfunction(function):
            wrap = self._async_generator
        elif inspect.isgeneratorfunction(function):
            wrap = self._generator
        elif inspect.iscoroutinefunction(function):
            wrap = self._coroutine
        return cast("F", functools.wraps(function)(wrap(function)))

    def _start(self) -> StageSpan:
        api = _api()
        if api is None:
            return StageSpan(None)
        kind = api.trace.SpanKind.CLIENT if self._client else api.trace.SpanKind.INTERNAL
        tracer = api.trace.get_tracer(SCOPE)
        return StageSpan(tracer.start_span(self._name, kind=kind, attributes=self._attributes))

    @contextmanager
    def _lasting(self) -> Iterator[StageSpan]:
        """A span that ends with the block, and is current only where the block says so."""
        span = self._start()
        try:
            yield span
        except BaseException as error:
            span._end(error)
            raise
        span._end()

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with self._lasting() as span, span._current():
                return function(*args, **kwargs)

        return called

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            with self._lasting() as span, span._current():
                return await function(*args, **kwargs)

        return called

    def _generator(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            stream = function(*args, **kwargs)
            step: Callable[[Any], Any] = stream.send
            given: Any = None
            with self._lasting() as span:
                while True:
                    try:
                        with span._current():
                            item = step(given)
                    except StopIteration as ended:
                        return ended.value
                    self._answered(span)
                    try:
                        step, given = stream.send, (yield item)
                    except GeneratorExit:
                        with span._current():
                            stream.close()
                        raise
                    except BaseException as error:
                        step, given = stream.throw, error

        return called

    def _async_generator(self, function: Callable[..., AsyncGenerator[Any, Any]]) -> Callable[..., Any]:
        async def called(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            stream = function(*args, **kwargs)
            step: Callable[[Any], Any] = stream.asend
            given: Any = None
            with self._lasting() as span:
                while True:
                    try:
                        with span._current():
                            item = await step(given)
                    except StopAsyncIteration:
                        return
                    self._answered(span)
                    try:
                        step, given = stream.asend, (yield item)
                    except GeneratorExit:
                        with span._current():
                            await stream.aclose()
                        raise
                    except BaseException as error:
                        step, given = stream.athrow, error

        return called

    def _answered(self, span: StageSpan) -> None:
        if self._answers:
            span.first_token()


def cache_hit(*, saved_nano_usd: int | None = None, saved_estimate_nano_usd: int | None = None) -> None:
    """``StageSpan.cache_hit`` of the stage that is current."""
    api = _api()
    current = StageSpan(None if api is None else api.trace.get_current_span())
    current.cache_hit(saved_nano_usd=saved_nano_usd, saved_estimate_nano_usd=saved_estimate_nano_usd)


def headers(*, request_id: str = "", **attribution: str) -> dict[str, str]:
    """Headers that continue the current trace in the engine: ``extra_headers`` of the OpenAI client.

    Trace context only (https://www.w3.org/TR/trace-context/): baggage may hold content, and stays here.
    ``request_id`` finds the request in reports; ``attribution`` (tenant, project, workload, user, tier) says who it
    is booked to. Raises TypeError for any other name.
    """
    made: dict[str, str] = {"X-Request-Id": request_id} if request_id else {}
    for name, value in attribution.items():
        if name not in HEADERS:
            raise TypeError(f"headers() takes no {name!r}; it takes request_id, {', '.join(HEADERS)}")
        made[HEADERS[name][0].title()] = value
    api = _api()
    if api is not None:
        api.propagator.inject(made)
    return made


def inject(request: Any) -> None:
    """Continue the current trace in a request of httpx: ``httpx.Client(event_hooks={"request": [tracing.inject]})``."""
    request.headers.update(headers())


def configure(service_name: str, *, endpoint: str = "") -> bool:
    """Hand this process's spans to a collector over OTLP; returns whether a provider of the SDK is there for that.

    ``endpoint`` is the collector's address without a path, as in OTEL_EXPORTER_OTLP_ENDPOINT, which counts where it
    is not given; OpenTelemetry's other variables count as ever (OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER, of which
    there is ``otlp`` and ``none``, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, …). A provider of the SDK that the
    application has set already is left as it is, and what it does is its own. Needs opentelemetry-sdk and
    opentelemetry-exporter-otlp-proto-http (or -grpc, where OTEL_EXPORTER_OTLP_PROTOCOL says grpc).
    """
    given = os.environ.get
    if disabled(os.environ) or not exports(os.environ):
        return False
    if not (endpoint or given(ENDPOINT) or given(BASE_ENDPOINT)):
        log.warning("spans are handed to nobody: give an endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT")
        return False
    try:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        if isinstance(trace.get_tracer_provider(), TracerProvider):
            return True
        if (exporter := _exporter(endpoint.rstrip("/"))) is None:
            return False
    except Exception as error:  # a provider of credentials may be wrong in any way
        missing = f"{error.name} is not installed" if isinstance(error, ImportError) else ""
        log.warning("spans are handed to nobody: %s", missing or f"no exporter can be made ({type(error).__name__})")
        return False
    provider = TracerProvider(resource=Resource.create({"service.name": given("OTEL_SERVICE_NAME") or service_name}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return True


def flush(seconds: float = 10.0) -> bool:
    """Hand over every span that has ended; returns whether there was time for all of them."""
    api = _api()
    push = getattr(api.trace.get_tracer_provider(), "force_flush", None) if api is not None else None
    return push is None or bool(push(round(seconds * 1000)))


def _exporter(endpoint: str) -> Any:
    """OTLP over HTTP with protobuf unless the environment says gRPC; None if its headers cannot be sent."""
    protocol = "grpc" if protocol_of(os.environ) == "grpc" else "http/protobuf"
    # by name: only one of the two packages need be there
    exporter = importlib.import_module(EXPORTERS[protocol])
    if variable := unsendable_headers(os.environ, protocol):
        log.warning("spans are handed to nobody: %s", CANNOT_BE_SENT.format(variable))
        return None
    answers = {} if protocol == "grpc" else {"session": session(Answers())}
    with unlogged():  # it would quote a header that it cannot read
        return exporter.OTLPSpanExporter(endpoint=traces_address(endpoint, protocol) or None, **answers)


class _Api(NamedTuple):
    trace: Any
    context: Any
    propagator: Any


@functools.cache
def _api() -> _Api | None:
    """What is needed of opentelemetry-api; None where it is not installed, which is said the first time."""
    try:
        from opentelemetry import context, trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
    except ImportError:
        log.warning("opentelemetry-api is not installed: stages are not traced")
        return None
    return _Api(trace, context, TraceContextTextMapPropagator())


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
