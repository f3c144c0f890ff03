"""Brings edge spans to a collector through the OpenTelemetry SDK that vLLM brings, from a thread of its own.

What waits is bounded, and whoever puts a span never waits: one that finds no room is dropped and counted, as is one
that the collector did not take. Spans are made with the ids that the engine was given, which no tracer would take;
vLLM's own tracer provider, the process's global one, is not touched.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from farthing_probe import span_names as names
from farthing_probe.edge_span import EdgeSpan
from farthing_probe.sdk_log import unlogged
from farthing_probe.trace_settings import EXPORTERS, TraceSettings

__all__ = ["Answers", "NotTakenError", "Otlp", "SpanCounts", "SpanDelivery", "SpanSender", "session"]

LOG_SECONDS = 60.0
"""From one complaint to the next, at least."""

PROVIDER = "opentelemetry_otlp_credential_provider"
"""The entry points of what makes an HTTP session with credentials of its own."""
PROVIDER_NAMES = tuple(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{kind}CREDENTIAL_PROVIDER" for kind in ("", "TRACES_"))
"""The variables that name one, the first before the second, as the SDK reads them."""
NO_REASON = "it gives no reason"
MOST_ANSWER = 65_536
"""Bytes that are read of a collector's answer; one that took all says nothing."""

_log = logging.getLogger("farthing_probe")


class NotTakenError(Exception):
    """Why a collector took no spans, in words that are not its own."""


class SpanSender(Protocol):
    """What takes spans; for one thread."""

    def export(self, spans: Sequence[EdgeSpan]) -> int:
        """Send spans and wait for the answer; returns how many were taken, the others being rejected. May raise
        NotTakenError to say why there is no such answer.
        """
        ...

    def shutdown(self) -> None:
        """Let go of the connection."""
        ...


@dataclass
class SpanCounts:
    """What has become of spans; a count never falls, and each is written by one side only."""

    sent: int = 0
    """A collector took them."""
    unplaced: int = 0
    """They found no room."""
    lost: int = 0
    """No collector took them."""
    failures: int = 0
    """Posts, not spans, of which no collector took anything."""

    @property
    def dropped(self) -> int:
        """Spans that will never arrive."""
        return self.unplaced + self.lost


class SpanDelivery:
    """The queue of one process, and the thread that empties it; ``make`` is called in that thread."""

    def __init__(self, settings: TraceSettings, make: Callable[[], SpanSender]) -> None:
        self.counts = SpanCounts()
        self._settings, self._make = settings, make
        self._queue: deque[EdgeSpan] = deque()
        # as in the delivery of records: a put that a signal handler may interrupt and repeat
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="farthing-probe-spans", daemon=True)
        self._closing = self._inert = False
        self._complained = False
        self._quiet_until = 0.0

    @property
    def waiting(self) -> int:
        """Spans in memory that no attempt was made for."""
        return len(self._queue)

    def put(self, span: EdgeSpan) -> bool:
        """Whether a span is on its way; called under the probe's lock, and never waits."""
        if self._inert:
            return False
        if self._closing or len(self._queue) >= self._settings.queue:
            self.counts.unplaced += 1
            return False
        self._queue.append(span)
        if len(self._queue) % self._settings.batch == 0:
            self._wake.put(None)
        return True

    def start(self) -> None:
        """Begin to send; a second call changes nothing."""
        if self._thread.ident is None and not self._inert:
            try:
                self._thread.start()
            except RuntimeError:  # no more threads for this process
                self._give_up("there is no thread for them")

    def close(self) -> None:
        """Send what waits and end; ``join`` waits for that."""
        if not self._inert:
            self._closing = True
            self._wake.put(None)

    def join(self, seconds: float) -> None:
        """Wait so long for the end; what is left then is lost."""
        if self._inert:
            return
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, seconds))
        self.counts.lost += len(self._taken(len(self._queue)))

    def abandon(self) -> None:
        """In a forked child: become inert; the spans are the parent's."""
        self._inert = True
        self._queue = deque()

    def _run(self) -> None:
        try:
            sender = self._make()
        except Exception as error:
            self._give_up(f"the exporter cannot be made ({type(error).__name__})")
            return
        last = False
        while not last:
            least = self._settings.batch
            try:
                self._wake.get(timeout=self._settings.delay_seconds)
            except Empty:
                least = 1
            last = self._closing
            # whole batches, and in time what is left; what comes meanwhile waits to become a batch
            while len(self._queue) >= (1 if last else least):
                self._send(sender, spans := self._taken(self._settings.batch))
                if len(spans) < self._settings.batch:
                    least = self._settings.batch
        with suppress(Exception):
            sender.shutdown()

    def _send(self, sender: SpanSender, spans: list[EdgeSpan]) -> None:
        taken = 0
        try:
            taken = sender.export(spans)
            reason = "" if taken == len(spans) else "it rejects some" if taken else "it rejects them"
        except Exception as error:
            reason = str(error) if isinstance(error, NotTakenError) else type(error).__name__
        self.counts.sent += taken
        self.counts.lost += len(spans) - taken
        if not taken:
            self.counts.failures += 1
        self._tell(reason, "not all" if taken else "no")

    def _tell(self, reason: str, takes: str) -> None:
        """Log that it begins and that it is over: a collector may be away for hours, or come and go."""
        now = time.monotonic()
        if reason and not self._complained and now >= self._quiet_until:
            self._complained, self._quiet_until = True, now + LOG_SECONDS
            _log.warning(
                "farthing_probe: the collector takes %s spans (%s); they are counted and given up", takes, reason
            )
        elif not reason and self._complained:
            self._complained = False
            _log.info("farthing_probe: the collector takes spans again")

    def _taken(self, most: int) -> list[EdgeSpan]:
        taken: list[EdgeSpan] = []
        with suppress(IndexError):
            while len(taken) < most:
                taken.append(self._queue.popleft())
        return taken

    def _give_up(self, reason: str) -> None:
        """From now on spans go with the records."""
        self._inert = True
        self.counts.failures += 1
        self.counts.lost += len(self._taken(len(self._queue)))
        _log.warning("farthing_probe: spans go with the records: %s", reason)


class Otlp:
    """OpenTelemetry's OTLP exporter, and edge spans as its SDK has them."""

    def __init__(self, settings: TraceSettings, engine: str) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 - comes with vLLM, and takes a moment to load
        from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        self._context, self._trace, self._sdk = context, trace, sdk
        # OTEL_RESOURCE_ATTRIBUTES are taken in as well
        self._resource = Resource.create({names.RESOURCE_SERVICE: names.SPAN_SERVICE, names.RESOURCE_INSTANCE: engine})
        self._scope = InstrumentationScope(names.SPAN_SCOPE)
        self._answers = Answers()
        with unlogged():
            self._exporter = _exporter(settings, self._answers)

    def export(self, spans: Sequence[EdgeSpan]) -> int:
        """See SpanSender; the exporter repeats what a collector asks it to, within its own time-out."""
        context = self._context
        # what instruments the exporter's HTTP client must make no spans of these posts
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            with unlogged() as told:
                taken = self._exporter.export([self.readable(span) for span in spans]).name == "SUCCESS"
        finally:
            context.detach(token)
        if not taken:
            raise NotTakenError(told.reason or NO_REASON)
        return max(0, len(spans) - self._answers.rejected)

    def shutdown(self) -> None:
        """See SpanSender."""
        self._exporter.shutdown()

    def readable(self, span: EdgeSpan) -> Any:
        """The SDK's span, with the ids that it already has."""
        trace, sampled = self._trace, self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        number = int(span.trace_id, 16)
        parent = None
        if span.parent_span_id:
            parent = trace.SpanContext(number, int(span.parent_span_id, 16), is_remote=True, trace_flags=sampled)
        return self._sdk.ReadableSpan(
            name=span.name,
            context=trace.SpanContext(number, int(span.span_id, 16), is_remote=False, trace_flags=sampled),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            events=tuple(self._sdk.Event(name, timestamp=at_ns) for name, at_ns in span.events),
            kind=trace.SpanKind.SERVER,
            status=trace.Status(trace.StatusCode.ERROR if span.failed else trace.StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


class RedirectedError(Exception):
    """A collector sends elsewhere, such as to a page with a login; the exporter follows none and calls it taken."""


class Answers:
    """What a collector's answers over HTTP say that the exporter does not read."""

    rejected = 0
    """Spans of the last post that were not taken though it succeeded (OTLP specification, Partial Success)."""

    def read(self, response: Any, **_: Any) -> None:
        """Take an answer, as a hook of requests, which would read all of it and unpack it after that; raises
        RedirectedError, which is what a post fails by then.
        """
        with response:
            if 300 <= response.status_code < 400:
                raise RedirectedError("the collector answers with a redirect")
            body = response.content if response._content_consumed else _beginning(response)
        # closed before: what is left unread ends its connection
        response._content, response._content_consumed = body, True
        self.rejected = _rejected(body) if response.ok else 0


def _beginning(response: Any) -> bytes:
    """Of a body, as it came; raises what requests does, which the exporter knows."""
    errors = importlib.import_module("urllib3.exceptions")
    try:
        body: bytes = response.raw.read(MOST_ANSWER, decode_content=False)
    except errors.HTTPError as error:
        name = "ChunkedEncodingError" if isinstance(error, errors.ProtocolError) else "ConnectionError"
        raise getattr(importlib.import_module("requests.exceptions"), name)(error) from error
    return body


def _rejected(answer: bytes) -> int:
    # both come with the exporter
    message = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    unreadable = importlib.import_module("google.protobuf.message").DecodeError
    try:
        return max(0, int(message.ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans))
    except unreadable:
        return 0


def session(answers: Answers) -> Any:
    """The exporter's session over HTTP, the answers to which are read: of the environment's provider of credentials,
    if it names one. Raises ImportError for what is not there, and what the provider raises.
    """
    provider = next((name for variable in PROVIDER_NAMES if (name := os.environ.get(variable))), "")
    if provider:
        found = entry_points(group=PROVIDER, name=provider)
        if not found:
            raise ImportError("no such credential provider", name=f"the credential provider {provider!r}")
        made = next(iter(found)).load()()
    else:
        made = importlib.import_module("requests").Session()
    made.headers["accept-encoding"] = "identity"  # a small answer may unpack to anything
    made.hooks["response"].append(answers.read)
    return made


def _exporter(settings: TraceSettings, answers: Answers) -> Any:
    """By the protocol; headers, certificates and time-outs it reads from OTEL_EXPORTER_OTLP_* itself."""
    made = importlib.import_module(EXPORTERS[settings.protocol]).OTLPSpanExporter
    if settings.protocol == "grpc":
        # as vLLM does, which sends to the same address; https says by itself that it is not
        return made(endpoint=settings.endpoint, insecure=not settings.endpoint.startswith("https:"))
    return made(endpoint=settings.endpoint, session=session(answers))
