"""``RequestMeter``, the ASGI middleware: who asked, what came of it, and when, for every request that generates.

It sees headers, status and the passing of bodies, of which it reads nothing but the numbers in ``usage``. What a
request did inside the engine it learns from the engine's own request states: the output processor's
``add_request`` tells it, within the request's context, which states are the request's. Where a version has no such
thing the record says less, and the label of its cost degrades.
"""

from __future__ import annotations

import contextvars
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from farthing_probe import wire
from farthing_probe.attribution import attribute, clamp
from farthing_probe.edge_span import edge_span, estimate_nano
from farthing_probe.probe import Probe, current, obtain, ordered
from farthing_probe.sequences import EngineSequence, entries, watch
from farthing_probe.trace_context import edge_context
from farthing_probe.usage_fields import USAGE, Told, told_by

__all__ = ["RequestMeter", "finished"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PATHS = frozenset(
    {
        "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses", "/v1/messages",
        "/cohere/v2/chat", "/v1/systemone", "/v1/decisions", "/inference/v1/generate", "/generative_scoring",
        "/invocations", "/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score", "/rerank",
        "/v1/rerank", "/v2/rerank", "/v1/audio/transcriptions", "/v1/audio/translations",
    }
)  # fmt: skip
"""Routes that reach the engine; everything else passes by untouched."""
LINGER_NS = 1_000_000_000
"""How long a record waits for the engine's last word once its answer is complete."""
LONGEST_NS = 3600 * LINGER_NS
"""How long it waits while the engine still works for it (background responses)."""
CLOSED, UNAVAILABLE = 499, 503
DONE = (b"data: [DONE]", b"event: message_stop", b"event: response.completed")
ERRORS = (b'data: {"error":', b"event: error", b"event: response.failed")
"""How events begin. In an answer's text quotation marks and line feeds are escaped: no text can begin a line."""
DONE_LINES = tuple(b"\n" + event for event in DONE)
BACKGROUND = "/v1/responses"
"""The route whose answer may go out before the engine is asked."""
ID_HEADER = b"x-request-id"

_request: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("farthing_request", default=None)


class RequestMeter:
    """``--middleware farthing_probe.RequestMeter``; vLLM adds it last, so that it is outermost."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass everything on; what generates is metered on the way."""
        exchange = self._open(scope, receive, send)
        if exchange is None:
            await self.app(scope, receive, send)
            return
        context = _request.set(exchange)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            _request.reset(context)
            exchange.close()

    def _open(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> Exchange | None:
        """The exchange of a request that is to be metered; None for all else, and for whatever goes wrong here."""
        probe = current()
        if probe is not None:
            probe.metered_http = True  # from the first call, which is the server's start
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path not in PATHS:
            return None
        try:
            client = scope["app"].state.engine_client
            if probe is None and (probe := obtain(getattr(client, "vllm_config", None))) is not None:
                probe.begin_once()
            if probe is None or not probe.on:
                return None
            watch(probe, client, _current_sequences)
        except Exception as error:
            if probe is None:
                return None
            probe.failed("watch", error)
        try:
            return Exchange(probe, scope, path, receive, send)
        except Exception as error:
            probe.failed("open", error)
            return None


def _current_sequences() -> list[EngineSequence] | None:
    """Where a state that is added now belongs; None outside of any metered request, and after its record."""
    exchange = _request.get()
    return None if exchange is None or exchange.sent else exchange.sequences


class Exchange:
    """One request and its answer."""

    def __init__(self, probe: Probe, scope: MutableMapping[str, Any], path: str, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])  # of a header sent twice, the last
        self.trace, passed = edge_context(scope["headers"], probe.settings.traces)
        if passed is not None:
            scope["headers"] = passed
        self.request_id = headers.get(ID_HEADER, b"").decode("latin-1")
        if not self.request_id:
            self.request_id = uuid.uuid4().hex
            # before an empty one: the first counts
            scope["headers"] = [(ID_HEADER, self.request_id.encode()), *scope["headers"]]
        self.sequences: list[EngineSequence] = []
        self.who = attribute(headers, probe.settings)
        self._probe, self._path, self._receive, self._send = probe, path, receive, send
        self._status = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._ended_ns: int | None = None
        self._hung_up_ns: int | None = None
        self._chunks = 0
        self._stream = False
        self._complete = self._delivered = self._error = self._works = False
        self._usage_body = b""
        self.sent = False
        """Whether its record is out."""
        with probe.lock:
            probe.metered_http = True
            self.arrived_ns = time.monotonic_ns()
            probe.pending[self] = None

    async def receive(self) -> Message:
        """What the client sends; notes that it hung up."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._hang_up()
        return message

    def _hang_up(self) -> None:
        if self._complete or self._hung_up_ns is not None:
            return
        self._hung_up_ns = time.monotonic_ns()
        try:
            for sequence in self.sequences:
                sequence.locate()
        except Exception as error:
            self._probe.failed("locate", error)

    async def send(self, message: Message) -> None:
        """What goes to the client: notes the moments, and keeps the one piece that tells the usage."""
        try:
            await self._send(message)
        except OSError:  # ASGI 2.4: the client has gone
            self._hang_up()
            raise
        try:
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                if body and self._hung_up_ns is None:
                    self._piece(body)
                if not message.get("more_body"):
                    self._complete = True
            elif message["type"] == "http.response.start":
                if self._hung_up_ns is None:  # what nobody hears is no answer, such as 400 to half a body
                    self._status = message["status"]
                kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
                self._stream = bool(kinds) and kinds[0].startswith(b"text/event-stream")
        except Exception as error:
            self._probe.failed("send", error)

    def _piece(self, body: bytes) -> None:
        self._last_ns = time.monotonic_ns()
        if self._first_ns is None:
            self._first_ns = self._last_ns
        if self._stream:
            self._chunks += 1
            self._error = self._error or body.startswith(ERRORS)
            if not self._delivered:
                end = body[-512:]
                self._delivered = body.startswith(DONE) or any(line in end for line in DONE_LINES)
        if USAGE in body:
            self._usage_body = body

    def close(self) -> None:
        """The application is done with the request; its record goes out as soon as the engine has said its word."""
        try:
            self._ended_ns = time.monotonic_ns()
            with self._probe.lock:
                if self.settle(self._ended_ns, final=False):
                    self._probe.pending.pop(self, None)
        except Exception as error:
            self._probe.failed("close", error)

    # ---- the record ----------------------------------------------------------------------------

    def settle(self, now_ns: int, *, final: bool) -> bool:
        """See probe.Pending."""
        if self.sent or (not self._probe.on and not final):
            return self.sent
        if not final and (self._ended_ns is None or self._waits(now_ns - self._ended_ns)):
            return False
        self.sent = True
        try:
            self._report(now_ns)
        except Exception as error:  # states that are not as expected: the client's side is left
            self._probe.failed("report", error)
            self._let_go()
            self._report(now_ns)
        self._let_go()
        return True

    def _let_go(self) -> None:
        for sequence in self.sequences:
            sequence.forget()
        self.sequences = []

    def _waits(self, since_ns: int) -> bool:
        worked, self._works = self._works, any(sequence.alive for sequence in self.sequences)
        if self._works or worked:  # once more: a sequence has ended a moment before its statistics come
            return since_ns < LONGEST_NS
        expected = any(not sequence.reported for sequence in self.sequences)
        return since_ns < LINGER_NS and (expected or (not self.sequences and self._path == BACKGROUND))

    def _outcome(self) -> str:
        if self._status >= 500 or self._error:
            return "failed"
        if self._status >= 400:
            return "rejected"
        if self._hung_up_ns is not None and not self._delivered:
            return "aborted"
        return "finished" if self._complete or self._delivered else "failed"

    def _pieces(self) -> int:
        """Chunks that brought text: a chat's first names the role, and the last may only say that it is the last."""
        return max(0, self._chunks - ("/chat/" in self._path) - self._delivered)

    def _report(self, now_ns: int) -> None:
        probe, outcome = self._probe, self._outcome()
        told = told_by(self._usage_body) if self._usage_body else Told()
        given = entries(self.sequences)
        status = CLOSED if outcome == "aborted" else self._status
        if outcome == "failed" and status < 500:
            status = 500 if self._ended_ns is not None else UNAVAILABLE
        rejected = status in {401, 403}
        _, first, last, ended = ordered(
            (self.arrived_ns, self._first_ns, self._last_ns, self._hung_up_ns or self._ended_ns or now_ns)
        )
        if outcome in {"failed", "rejected"} and not given:
            first = last = None
        prompt = sum(each.prompt_tokens for each in self.sequences if each.first_of_prompt) or None
        adapter = next((each.adapter for each in self.sequences if each.adapter), "")
        prompt = told.prompt if told.prompt is not None else prompt
        # what the encoder makes of a picture; clients that ask are told of the placeholder around it as well
        images = sum(each.image_tokens for each in self.sequences if each.first_of_prompt) or told.image
        images = 0 if images is None and self.sequences else images
        if images is not None and prompt is not None:
            images = min(images, prompt)
        reasons = [each.finish_reason for each in self.sequences if each.finish_reason]
        fields = {
            "request_id": clamp(self.request_id, 512),
            "engine_index": probe.rank(next((each.engine_index for each in self.sequences), 0)),
            "model": clamp(adapter or probe.identity.model, 256),
            "outcome": outcome,
            "status": status,
            "arrived_ns": self.arrived_ns,
            "ended_ns": ended or now_ns,
            "first_ns": first,
            "last_ns": last,
            "route": self._path,
            "finish_reason": reasons[0] if reasons else "",
            # who sent a wrong key may claim to be anybody
            **({} if rejected else self.who),
            "prompt_tokens": prompt,
            "cached_tokens": told.cached,
            "image_tokens": images,
            "output_tokens": told.output,
            "delivered_tokens": None if told.output is not None or given or not self._chunks else self._pieces(),
            "sequences": given,
            "seen_by": "both" if given else "client",
        }
        probe.send(wire.usage, **fields, **self._traced(fields, reasons))

    def _steps(self, given: list[dict[str, Any]]) -> float | None:
        """What its sequences had of the engine's steps; None if it is not known.

        Of several API servers, each is told of some steps only; engines of several ranks have each their own.
        """
        indexes = {each.engine_index for each in self.sequences}
        steps = self._probe.steps.get(indexes.pop()) if len(indexes) == 1 else None
        if steps is None or self._probe.identity.processes > 1:
            return None
        return steps.company.parts_of(given)

    def _traced(self, fields: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
        """What the record says of its trace; a sampled span goes on its way here, if the probe sends spans at all.

        A trace that nobody keeps is named only where it is the caller's.
        """
        trace, probe = self.trace, self._probe
        named = {"trace_id": trace.trace_id} if trace.parent_span_id or not trace.span_id else {}
        if not trace.sampled:
            return {**named, "span_id": trace.span_id, "parent_span_id": trace.parent_span_id} if named else {}
        try:
            prices = probe.delivery.unit_prices.get(probe.identity.engine)
            more = {
                "trace_id": trace.trace_id,
                "span_id": trace.span_id,
                "parent_span_id": trace.parent_span_id,
                "sampled": True,
                "estimate_nano": estimate_nano(prices, fields, self._steps(fields["sequences"])),
            }
            if probe.spans is not None:
                span = edge_span({**fields, **more}, reasons, time.time_ns() - time.monotonic_ns())
                more["span_sent"] = probe.spans.put(span)
            return more
        except Exception as error:  # a record is worth more than its span
            probe.failed("span", error)
            return named


def finished(probe: Probe, engine_index: int, at_ns: int, ended: list[Any]) -> None:
    """Take what the engine says of sequences that ended with the step reported at ``at_ns``."""
    for statistics in ended:
        try:
            sequence = EngineSequence.of_finished(probe, engine_index, at_ns, statistics)
            if sequence is not None:
                _report_alone(probe, probe.rank(engine_index), at_ns, sequence)
        except Exception as error:
            probe.failed("finished", error)


def _report_alone(probe: Probe, rank: int, at_ns: int, sequence: EngineSequence) -> None:
    """The record of a sequence that is nobody's over HTTP: another front end's, or there is no middleware."""
    given = entries([sequence])
    if (given[0]["scheduled_ns"] if given else sequence.arrived_ns) < probe.began_ns:
        return  # the boot that it ran in has ended, and said what it knew of it
    probe.send(
        wire.usage,
        request_id=clamp(sequence.request_id, 512),
        engine_index=rank,
        model=probe.identity.model,
        outcome="aborted" if sequence.finish_reason == "abort" else "finished",
        status=0,
        arrived_ns=sequence.arrived_ns,
        ended_ns=at_ns,
        finish_reason=sequence.finish_reason,
        **probe.attribution,
        sequences=given,
        seen_by="engine",
    )
