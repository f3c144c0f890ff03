"""A span that the probe sends, and the one that the service makes of the same record: nobody can tell them apart."""

import json
from dataclasses import asdict

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from tests.probe.answers import ID, NO_USAGE, ROLE, TENANT, TEXT, USAGE, body, plain, start
from tests.probe.rig import JSON, Rig, rigged
from tests.tracing.receiver import Span, decoded

from farthing.collectors.wire import decode_line
from farthing.domain.clock import Anchor
from farthing.domain.records import Usage
from farthing.exporters.otlp import EdgeSpans, Request
from farthing_probe.edge_span import edge_span
from farthing_probe.settings import Settings
from farthing_probe.span_delivery import Otlp, SpanDelivery
from farthing_probe.trace_settings import TraceSettings

SETTINGS = TraceSettings(
    mode="sdk", begins=True, endpoint="http://127.0.0.1:1/v1/traces", protocol="http/protobuf", delay_seconds=60.0
)
PARENT = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


async def streamed(_scope, receive, send):
    """An answer in pieces, with its usage."""
    await receive()
    for message in (start(), body(ROLE), body(TEXT), body(USAGE), body(more=False)):
        await send(message)


async def hung_up(_scope, receive, send):
    """A client that goes away in the middle of its answer."""
    await receive()
    await send(start())
    await send(body(TEXT))
    await receive()


REQUESTS = {
    "streamed": (streamed, [TENANT, (b"x-tier", b"gold"), (b"x-project-id", b"claims"), PARENT]),
    "of nobody, a root": (streamed, []),
    "aborted": (hung_up, [TENANT]),
    "failed": (plain(start(500, JSON), body(b"{}", more=False)), [PARENT]),
    "rejected": (plain(start(429, JSON), body(b"{}", more=False)), [TENANT]),
    "without a usage": (plain(start(headers=JSON), NO_USAGE), [TENANT]),
}


def both(rig: Rig) -> tuple[Span, Span]:
    """The span that waits in the probe, and the one of the record, as they would arrive."""
    rig.clock.pass_(10)
    rig.probe.tick()
    (record,) = [record for record in rig.delivery.records if record["kind"] == "usage"]
    usage = decode_line(json.dumps(record).encode())
    assert isinstance(usage, Usage)
    assert isinstance(rig.probe.spans, SpanDelivery)
    (waiting,) = rig.probe.spans._queue
    anchor = Anchor(wall_ns=rig.clock.time_ns(), mono_ns=rig.clock.monotonic_ns())
    made = Otlp(SETTINGS, "llama-8b").readable(waiting), *EdgeSpans().of([Request(usage, anchor, "llama-8b")])
    one, other = (decoded(encode_spans([span]).SerializeToString())[0] for span in made)
    return one, other


@pytest.mark.parametrize(("app", "headers"), REQUESTS.values(), ids=REQUESTS)
def test_a_span_is_the_same_whoever_sends_it(app, headers, monkeypatch):
    """Ids, times, attributes, events, status; the probe's resource has what the engine's environment adds."""
    monkeypatch.setattr(SpanDelivery, "start", lambda _: None)
    with rigged(Settings(spool=None, traces=SETTINGS)) as rig:
        rig.begin()
        rig.ask(app, scope=rig.scope(headers=[ID, *headers]))
        sent, emitted = both(rig)
    differing = {"resource", "scope_version"}
    for name in set(Span.__slots__) - differing:
        assert getattr(sent, name) == getattr(emitted, name), name
    assert emitted.resource.items() <= sent.resource.items()


TOLD = b'{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":40}}'


@pytest.mark.parametrize("told", [TOLD, b'{"choices":[]}'], ids=["told", "not told"])
@pytest.mark.parametrize(("cached", "shown"), [((0, 992, 992, 992), 0), ((992,) * 4, 968)], ids=["new", "known"])
def test_a_prompt_of_several_choices_is_counted_once(told, cached, shown, monkeypatch):
    """n = 4: the engine counts it four times; what came from the cache is no more than it, nor what was computed."""
    monkeypatch.setattr(SpanDelivery, "start", lambda _: None)
    with rigged(Settings(spool=None, traces=SETTINGS)) as rig:
        rig.begin()

        async def app(_scope, receive, send):
            await receive()
            for choice, count in zip(rig.engine.add("cmpl-abc", 1000, n=4), cached, strict=True):
                rig.step({choice: 10}, {choice: "length"}, cached=count)
            await send(start(headers=JSON))
            await send(body(told, more=False))

        rig.ask(app, scope=rig.scope(headers=[ID]))
        spans = both(rig)
    names = [f"gen_ai.usage.{name}" for name in ("input_tokens", "cache_read.input_tokens", "output_tokens")]
    assert [[span.attributes[name] for name in names] for span in spans] == [[1000, shown, 40]] * 2


def test_no_record_has_more_from_the_cache_than_its_prompt():
    """Whatever a sender puts together, on either way."""
    entry = {
        "prompt_tokens": 10,
        "cached_tokens": 8,
        "output_tokens": 1,
        "scheduled_ns": 2,
        "first_ns": 3,
        "last_ns": 4,
    }
    for prompt, cached, shown in ((None, 90, 20), (20, None, 16), (10, None, 6), (3, None, 0), (None, None, 16)):
        record = {
            "v": 1, "kind": "usage", "boot": "b", "proc": 0, "seq": 1, "request_id": "r", "outcome": "finished",
            "status": 200, "arrived_ns": 1, "first_ns": 3, "ended_ns": 5, "trace_id": "1" * 32, "span_id": "2" * 16,
            "sequences": [entry, entry],
        }  # fmt: skip
        told = {name: n for name, n in (("prompt_tokens", prompt), ("cached_tokens", cached)) if n is not None}
        usage = decode_line(json.dumps({**record, **told}).encode())
        assert isinstance(usage, Usage)
        (emitted,) = EdgeSpans().of([Request(usage, Anchor(1764000000 * 10**9, 0), "e")])
        sent = edge_span(asdict(usage), [], 0)
        name = "gen_ai.usage.cache_read.input_tokens"
        assert emitted.attributes is not None
        assert (emitted.attributes[name], sent.attributes[name]) == (shown, shown)
