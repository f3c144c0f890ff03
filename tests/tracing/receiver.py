"""A loopback receiver of OTLP over HTTP with protobuf bodies, decoded by OpenTelemetry's own messages.

It answers well, slowly, with errors or not at all, as it is told; what it took is kept decoded and as it came.
The protocol: https://opentelemetry.io/docs/specs/otlp/#otlphttp.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

__all__ = ["TRACES_PATH", "Event", "Link", "Mode", "Received", "Receiver", "Span", "decoded", "otlp_receiver"]

Mode = Literal["ok", "slow", "error", "refusing"]
TRACES_PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a span; time in nanoseconds since the epoch."""

    name: str
    at_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a span; ids in hexadecimal."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived; ids in hexadecimal, times in nanoseconds since the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    """Empty at a root."""
    kind: str
    """SERVER, CLIENT, INTERNAL, PRODUCER, CONSUMER or UNSPECIFIED."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: str
    """UNSET, OK or ERROR."""
    status_message: str
    resource: dict[str, Any]
    scope: str
    scope_version: str
    trace_state: str
    flags: int


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    wire_bytes: int
    """Length of the body as it was sent."""
    body: bytes
    """The body, decompressed."""
    status: int
    """What was answered."""


@dataclass(eq=False)
class Receiver:
    """Listens on a loopback port. ``mode`` holds for every request from now on; set it with ``behave``.

    ``ok`` answers at once; ``slow`` holds each connection ``hold_s`` seconds, then answers well; ``error`` answers
    ``error_status`` and keeps no span; ``refusing`` does not listen, so that connections are refused.
    """

    hold_s: float = 5.0
    error_status: int = 503
    rejects: int = 0
    """Spans of each request that it says it did not take, though it keeps them."""
    mode: Mode = "ok"
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    """Every request whose body arrived, whatever was answered."""
    open_connections: int = 0
    most_connections: int = 0
    connections: int = 0
    """Ever accepted."""
    _spans: list[Span] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _released: threading.Event = field(default_factory=threading.Event)
    _server: _Server | None = None
    _thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT: the address without the path of a signal."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: the whole address."""
        return self.endpoint + TRACES_PATH

    @property
    def spans(self) -> list[Span]:
        """Every span that was taken, in order of arrival."""
        with self._changed:
            return list(self._spans)

    @property
    def body_bytes(self) -> int:
        """Bytes of all bodies as they were sent."""
        with self._changed:
            return sum(request.wire_bytes for request in self.requests)

    def behave(self, mode: Mode, *, hold_s: float | None = None, error_status: int | None = None) -> None:
        """Change the mode; connections that wait in the slow mode are answered."""
        self.hold_s = self.hold_s if hold_s is None else hold_s
        self.error_status = self.error_status if error_status is None else error_status
        self._released.set()
        self._released = threading.Event()
        self.mode = mode
        if mode == "refusing":
            self._hang_up()
        elif self._server is None:
            self._listen()

    def clear(self) -> None:
        """Forget what came."""
        with self._changed:
            self.requests.clear()
            self._spans.clear()

    def wait_for(self, wanted: int | Callable[[list[Span]], Any], seconds: float = 10.0) -> list[Span]:
        """The spans, once there are so many or once a condition of them holds; fails when that takes too long."""
        holds = wanted if callable(wanted) else lambda spans: len(spans) >= wanted
        with self._changed:
            if not self._changed.wait_for(lambda: holds(list(self._spans)), seconds):
                names = [span.name for span in self._spans]
                raise AssertionError(f"the receiver waited {seconds} s in vain; {len(names)} spans: {names[-20:]}")
            return list(self._spans)

    def wait_for_requests(self, count: int, seconds: float = 10.0) -> list[Received]:
        """The requests, once there are so many, however they were answered."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, seconds):
                raise AssertionError(f"{len(self.requests)} requests of {count} came in {seconds} s")
            return list(self.requests)

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, the earliest first."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def close(self) -> None:
        """Answer what waits and stop listening."""
        self._released.set()
        self._hang_up()

    def _listen(self) -> None:
        self._server = _Server(self)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _hang_up(self) -> None:
        server, thread, self._server, self._thread = self._server, self._thread, None, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.close_connections()
        if thread is not None:
            thread.join(5)

    def _connected(self, change: int) -> None:
        with self._changed:
            self.open_connections += change
            self.connections += max(0, change)
            self.most_connections = max(self.most_connections, self.open_connections)
            self._changed.notify_all()

    def _keep(self, request: Received, spans: list[Span]) -> None:
        with self._changed:
            self.requests.append(request)
            self._spans.extend(spans)
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.handlers: set[_Handler] = set()
        super().__init__(("127.0.0.1", receiver.port), _Handler)

    def close_connections(self) -> None:
        """End the connections that are kept alive: a collector that is gone answers nobody."""
        for handler in list(self.handlers):
            with suppress(OSError):
                handler.connection.shutdown(2)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.server.handlers.add(self)
        self.server.receiver._connected(1)
        try:
            with suppress(OSError):
                super().handle()
        finally:
            self.server.handlers.discard(self)
            self.server.receiver._connected(-1)

    def do_POST(self) -> None:
        receiver, mode = self.server.receiver, self.server.receiver.mode
        released = receiver._released
        sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        status, body, spans = self._judge(sent, mode)
        if mode == "slow":
            released.wait(receiver.hold_s)
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver._keep(Received(self.path, headers, len(sent), body, status), spans)
        said = service.ExportTraceServiceResponse()
        if receiver.rejects:
            said.partial_success.rejected_spans = receiver.rejects
        answer = said.SerializeToString() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Type", PROTOBUF)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _judge(self, sent: bytes, mode: Mode) -> tuple[int, bytes, list[Span]]:
        """The status to answer, the plain body, and the spans to keep."""
        encoding = self.headers.get("Content-Encoding", "identity")
        status = 200
        if self.path != TRACES_PATH:
            status = 404
        elif encoding not in {"identity", "gzip"} or self.headers.get_content_type() != PROTOBUF:
            status = 415
        try:
            body = gzip.decompress(sent) if encoding == "gzip" else sent
            if status == 200 and mode == "error":
                status = self.server.receiver.error_status
            return status, body, decoded(body) if status == 200 else []
        except (OSError, EOFError, DecodeError):
            return 400, sent, []

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def decoded(body: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest; raises DecodeError when it is none."""
    request = service.ExportTraceServiceRequest.FromString(body)
    return [
        _span(span, _attributes(group.resource.attributes), scoped.scope)
        for group in request.resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]


def _span(span: trace_pb2.Span, resource: dict[str, Any], scope: common_pb2.InstrumentationScope) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(Event(event.name, event.time_unix_nano, _attributes(event.attributes)) for event in span.events),
        links=tuple(Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        resource=resource,
        scope=scope.name,
        scope_version=scope.version,
        trace_state=span.trace_state,
        flags=span.flags,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common_pb2.AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(entry) for entry in value.array_value.values]
    if which == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, which)


@contextmanager
def otlp_receiver(**settings: Any) -> Iterator[Receiver]:
    """A receiver that listens within the block; settings are fields of Receiver."""
    receiver = Receiver(**settings)
    mode = receiver.mode
    receiver.behave("ok")
    if mode != "ok":
        receiver.behave(mode)
    try:
        yield receiver
    finally:
        receiver.close()
