"""A usage record as the edge span of its request, in OpenTelemetry's own terms, and the way to a collector.

Names are those of the GenAI and HTTP conventions (github.com/open-telemetry/semantic-conventions-genai and
semantic-conventions), and ``farthing.*`` where they have none. Nothing that was asked or answered is in a record, so
nothing of it is in a span. Import it where spans are exported: OpenTelemetry's SDK takes a moment to load.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from farthing.domain import conventions as c
from farthing.domain.clock import Anchor
from farthing.domain.records import Usage
from farthing.domain.trace_ids import is_span_id, is_trace_id
from farthing.settings_access import is_loopback

__all__ = ["EdgeSpans", "OtlpExport", "Request"]

_SCOPE = InstrumentationScope(c.SPAN_SCOPE, version("farthing"))
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)

MOST_ANSWER = 65_536
"""Bytes that are read of a collector's answer; one that took all says nothing."""

Attribute = str | int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that ended: its record, the clock of its boot, and the name that its engine is shown under."""

    usage: Usage
    anchor: Anchor
    engine: str


class EdgeSpans:
    """Makes edge spans; those of one engine share a resource, which is what an exporter groups them by."""

    def __init__(self) -> None:
        self._resources: dict[str, Resource] = {}

    def of(self, requests: Iterable[Request]) -> Iterator[ReadableSpan]:
        """The span of each request that has ids of a trace and a span; the others have none."""
        for request in requests:
            usage = request.usage
            if is_trace_id(usage.trace_id) and is_span_id(usage.span_id):
                yield _span(usage, request.anchor, self._resource(request.engine))

    def _resource(self, engine: str) -> Resource:
        if engine not in self._resources:
            named = {c.RESOURCE_SERVICE: c.SPAN_SERVICE, c.RESOURCE_INSTANCE: engine}
            self._resources[engine] = Resource(named)
        return self._resources[engine]


def _span(usage: Usage, anchor: Anchor, resource: Resource) -> ReadableSpan:
    trace = int(usage.trace_id, 16)
    parent = None
    if is_span_id(usage.parent_span_id):
        parent = SpanContext(trace, int(usage.parent_span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    operation = _operation(usage.route)
    return ReadableSpan(
        name=f"{operation} {usage.model}",
        context=SpanContext(trace, int(usage.span_id, 16), is_remote=False, trace_flags=_SAMPLED),
        parent=parent,
        resource=resource,
        attributes=dict(_attributes(usage, operation)),
        events=tuple(_events(usage, anchor)),
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if usage.outcome == c.FAILED else StatusCode.UNSET),
        start_time=anchor.to_wall(usage.arrived_ns),
        end_time=anchor.to_wall(usage.ended_ns),
        instrumentation_scope=_SCOPE,
    )


def _operation(route: str) -> str:
    """What OpenTelemetry calls a route's operation; another route's last part, which is what vLLM calls the task."""
    return c.SPAN_OPERATIONS.get(route) or route.rstrip("/").rpartition("/")[2] or c.UNKNOWN


def _attributes(usage: Usage, operation: str) -> Iterator[tuple[str, Attribute]]:
    """What is known of the request; what is not is left out, never 0 or empty."""
    yield c.ATTRIBUTE_OPERATION, operation
    yield c.ATTRIBUTE_PROVIDER, c.SPAN_PROVIDER
    if usage.finish_reason:
        yield c.ATTRIBUTE_FINISH_REASONS, (usage.finish_reason,)
    texts = (
        (c.ATTRIBUTE_MODEL, usage.model),
        (c.ATTRIBUTE_TENANT, usage.tenant),
        (c.ATTRIBUTE_PROJECT, usage.project),
        (c.ATTRIBUTE_TIER, usage.tier),
        (c.ATTRIBUTE_OUTCOME, usage.outcome),
        (c.ATTRIBUTE_REQUEST_ID, usage.request_id),
        (c.ATTRIBUTE_ROUTE, usage.route),
    )
    yield from ((name, text) for name, text in texts if text)
    prompt, cached, output = _tokens(usage)
    numbers = (
        (c.ATTRIBUTE_INPUT_TOKENS, prompt),
        (c.ATTRIBUTE_OUTPUT_TOKENS, output),
        (c.ATTRIBUTE_CACHED_TOKENS, cached),
        (c.ATTRIBUTE_IMAGE_TOKENS, usage.image_tokens),
        (c.ATTRIBUTE_ESTIMATE, usage.estimate_nano),
        (c.ATTRIBUTE_STATUS, usage.status or None),
    )
    yield from ((name, number) for name, number in numbers if number is not None)


def _tokens(usage: Usage) -> tuple[int | None, int | None, int | None]:
    """Prompt, cached and output tokens: as the client was told, else as the engine counted them.

    The engine counts a prompt for each of its choices (n > 1), the client once: cached is then what no choice computed.
    """
    counted = usage.sequences
    prompt, cached, output = usage.prompt_tokens, usage.cached_tokens, usage.output_tokens
    if counted:
        whole, held = sum(each.prompt_tokens for each in counted), sum(each.cached_tokens for each in counted)
        prompt = whole if prompt is None else prompt
        cached = min(held, max(0, prompt - (whole - held))) if cached is None else cached
        output = sum(each.output_tokens for each in counted) if output is None else output
    if prompt is not None and cached is not None:
        cached = min(cached, prompt)
    return prompt, cached, usage.delivered_tokens if output is None else output


def _events(usage: Usage, anchor: Anchor) -> Iterator[Event]:
    if usage.first_ns is not None and usage.outcome != c.REJECTED:
        yield Event(c.SPAN_FIRST_TOKEN, timestamp=anchor.to_wall(usage.first_ns))
    if usage.outcome == c.ABORTED:
        yield Event(c.SPAN_ABORTED, timestamp=anchor.to_wall(usage.ended_ns))


class OtlpExport:
    """OpenTelemetry's exporter to a collector's whole address: HTTP, protobuf, compressed, tried again for so long."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_seconds: float) -> None:
        # whoever exports counts what fails, and says so once; the second quotes what it cannot read of the environment
        for name in (OTLPSpanExporter.__module__, "opentelemetry.util.re"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._session = _Session(headers)
        self._session.trust_env = not is_loopback(urlsplit(url).hostname or "")
        self._exporter = OTLPSpanExporter(
            endpoint=url, timeout=timeout_seconds, compression=Compression.Gzip, session=self._session
        )

    def export(self, spans: Sequence[ReadableSpan]) -> int:
        """Send spans and wait for the answer; returns how many the collector took."""
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            return 0
        return max(0, len(spans) - self._session.rejected)

    def shutdown(self) -> None:
        """End what is being tried again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library does not annotate it


class _Session(requests.Session):
    """Posts with the headers that it was given alone, and reads little of an answer, for as long as the post may take.

    The exporter would add those of OTEL_EXPORTER_OTLP_HEADERS, which are for whatever collector the environment means.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__()
        # an answer as it is: a small one may unpack to anything
        own = {"content-type": "application/x-protobuf", "content-encoding": "gzip", "accept-encoding": "identity"}
        self._own = {"user-agent": f"farthing/{version('farthing')}", **own, **headers}
        if "authorization" in self._own:
            self.auth = lambda request: request  # else a login for the host in .netrc would take its place
        self.rejected = 0
        """Spans that the last answer said were not taken."""

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]  # as it is called
        """The exporter's only call; raises what it takes for a failure, where it would see success."""
        until = time.monotonic() + options["timeout"]
        self.headers.clear()
        response = super().request(
            method, url, **(options | {"headers": self._own, "stream": True, "allow_redirects": False})
        )
        with response:
            if 300 <= response.status_code < 400:
                raise ValueError("answered with a redirect")
            self.rejected = _rejected(_answer(response, until)) if response.ok else 0
        return response


def _answer(response: requests.Response, until: float) -> bytes:
    """The beginning of a body; raises ValueError for one that has not come by ``until``, of the monotonic clock."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        with suppress(RuntimeError, ValueError, OSError):  # it was read just now, closed, or reset
            response.raw.shutdown()

    timer = threading.Timer(max(0.0, until - time.monotonic()), give_up)
    timer.daemon = True
    timer.start()
    try:
        answer: bytes = response.raw.read(MOST_ANSWER, decode_content=False)
    finally:
        timer.cancel()
    if late.is_set():
        raise ValueError("did not end its answer in time")
    return answer


def _rejected(answer: bytes) -> int:
    """Spans that a collector did not take though it took others (OTLP specification, Partial Success)."""
    try:
        return max(0, ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:
        return 0
