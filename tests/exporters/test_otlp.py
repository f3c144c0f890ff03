"""Edge spans: what a record says, in OpenTelemetry's words, with its own ids and times, and nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from tests.tracing.receiver import decoded
from tests.tracing.traced import ids_of, traced_wire

from farthing.collectors.wire import decode_line
from farthing.domain import conventions as c
from farthing.domain.clock import Anchor
from farthing.domain.records import RecordKey, Usage
from farthing.exporters.otlp import EdgeSpans, Request
from farthing.replay.recording import load_recording

ANCHOR = Anchor(1_795_000_000_000_000_000, 5_000)
KNOWN = {getattr(c, name) for name in dir(c) if name.startswith("ATTRIBUTE_")}


@pytest.fixture(scope="module")
def usages():
    """The requests of a recorded H100, 2,464 that finished, were aborted or cut off."""
    records = traced_wire(load_recording("h100-llama8b-vllm0.26"))
    lines = (json.dumps(record).encode() for record in records if record["kind"] == "usage")
    return [record for line in lines if isinstance(record := decode_line(line), Usage)]


def spans_of(*usages, engine="h100"):
    """The spans as a collector reads them."""
    made = EdgeSpans().of(Request(usage, ANCHOR, engine) for usage in usages)
    return decoded(encode_spans(list(made)).SerializeToString())


def usage(**fields: Any) -> Usage:
    ids: dict[str, Any] = {
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "sampled": True,
    }
    key = RecordKey("b", 0, 1)
    return Usage(key, "r1", 0, "llama", c.FINISHED, 200, 6_000, 9_000, **(ids | fields))


def test_each_recorded_request_is_a_span_with_its_own_ids_and_times(usages):
    """As the record has them, moved from the boot's clock to UTC."""
    spans = spans_of(*usages)
    assert len(spans) == len(usages) == 2464
    for number, (span, one) in enumerate(zip(spans, usages, strict=True)):
        ids = ids_of(number)
        assert (span.trace_id, span.span_id, span.parent_span_id) == tuple(ids.values())
        assert span.start_ns == ANCHOR.to_wall(one.arrived_ns) <= span.end_ns == ANCHOR.to_wall(one.ended_ns)
        assert all(span.start_ns <= event.at_ns <= span.end_ns for event in span.events)
        assert span.attributes[c.ATTRIBUTE_OUTCOME] == one.outcome
        assert span.attributes[c.ATTRIBUTE_ESTIMATE] == one.estimate_nano


def test_a_span_says_what_the_conventions_name_and_nothing_else(usages):
    """An attribute that nobody agreed on might be content."""
    found = {name for span in spans_of(*usages) for name in span.attributes}
    assert found <= KNOWN
    assert {c.ATTRIBUTE_OPERATION, c.ATTRIBUTE_INPUT_TOKENS, c.ATTRIBUTE_OUTPUT_TOKENS, c.ATTRIBUTE_TENANT} <= found


def test_a_request_is_a_server_span_of_its_engine():
    """Its name, kind, resource and attributes are those of OpenTelemetry's conventions for GenAI."""
    (span,) = spans_of(
        usage(
            route="/v1/chat/completions", first_ns=7_000, last_ns=8_000, finish_reason="stop", tenant="acme",
            project="search", tier="gold", prompt_tokens=12, cached_tokens=4, output_tokens=3, image_tokens=0,
            estimate_nano=42,
        ),
        engine="llama-0",
    )  # fmt: skip
    assert (span.name, span.kind, span.status, span.parent_span_id) == ("chat llama", "SERVER", "UNSET", "")
    assert span.resource == {"service.name": "farthing-edge", "service.instance.id": "llama-0"}
    assert [(event.name, event.at_ns, event.attributes) for event in span.events] == [
        ("first_token", ANCHOR.to_wall(7_000), {})
    ]
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "llama",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "farthing.usage.image_tokens": 0,
        "farthing.tenant": "acme",
        "farthing.project": "search",
        "farthing.tier": "gold",
        "farthing.outcome": "finished",
        "farthing.request_id": "r1",
        "farthing.cost.estimate_nano_usd": 42,
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }


def test_what_nobody_knows_is_left_out():
    """An estimate, or tokens, of 0 would be a statement."""
    (span,) = spans_of(usage(tenant="acme"))
    assert c.ATTRIBUTE_ESTIMATE not in span.attributes
    assert c.ATTRIBUTE_INPUT_TOKENS not in span.attributes
    assert c.ATTRIBUTE_PROJECT not in span.attributes


@pytest.mark.parametrize(
    ("outcome", "status", "events"),
    [
        (c.FINISHED, "UNSET", ["first_token"]),
        (c.ABORTED, "UNSET", ["first_token", "aborted"]),
        (c.FAILED, "ERROR", ["first_token"]),
        (c.REJECTED, "UNSET", []),
    ],
)
def test_how_a_request_ended_is_in_status_and_events(outcome, status, events):
    """A failure is an error; an abort is the client's own doing, and an event."""
    (span,) = spans_of(replace(usage(first_ns=7_000), outcome=outcome))
    assert (span.status, [event.name for event in span.events]) == (status, events)


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("/v1/completions", "text_completion llama"),
        ("/v1/embeddings", "embeddings llama"),
        ("/v1/rerank", "rerank llama"),
        ("", "unknown llama"),
    ],
)
def test_the_operation_is_the_routes(route, name):
    """As the conventions call it, else as the route does."""
    assert spans_of(usage(route=route))[0].name == name


@pytest.mark.parametrize(
    "fields",
    [{"trace_id": ""}, {"trace_id": "0" * 32}, {"trace_id": "A" * 32}, {"span_id": ""}, {"span_id": "0" * 16}],
)
def test_without_ids_that_are_some_there_is_no_span(fields):
    """A collector would throw it away, or take it for another's."""
    assert spans_of(usage(**fields)) == []
