"""The edge span as a function of the record: names, numbers, events, status, and what it would cost."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.probe.answers import DONE, ID, NO_USAGE, ROLE, TENANT, TEXT, USAGE, body, only, plain, start
from tests.probe.rig import GONE, JSON, SECOND, rigged

from farthing.domain import conventions
from farthing_probe import span_names as names
from farthing_probe.edge_span import MOST_REASONS, edge_span, estimate_nano
from farthing_probe.request_meter import PATHS
from farthing_probe.settings import Settings
from farthing_probe.stat_logger import StepLog
from farthing_probe.trace_settings import MODES, TraceSettings

PARENT = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
PRICES = {"prefill": 16_180_000, "decode": 121_900_000, "vision": 40_000_000}
WORK_AND_TOKENS = {
    "steps": 600_000_000, "prefill_tokens": 10_000_000, "prefill_context": 0, "decode_tokens": 20_000_000,
    "attended_context": 0, "prefill": 100_000_000, "decode": 1_000_000_000,
}  # fmt: skip
"""Prices of the cost model's work, and of tokens by phase."""


class Spans:
    """Stands where the delivery of spans does."""

    def __init__(self, room=True):
        self.room, self.spans = room, []

    def start(self):
        """Nothing to begin."""

    def put(self, span):
        """Keep a span, as long as there is room."""
        if self.room:
            self.spans.append(span)
        return self.room


@pytest.fixture
def traced():
    """A rig whose spans stay here."""
    with rigged(Settings(spool=None, traces=TraceSettings(begins=True))) as rig:
        rig.probe.spans = Spans()  # type: ignore[assignment]
        yield rig.begin()


def asked(rig, app, path="/v1/chat/completions", headers=(), incoming=None):
    """The one span, the one record, of a request to an application."""
    more = {} if incoming is None else {"incoming": incoming}
    rig.ask(app, scope=rig.scope(path, [ID, *headers]), **more)
    usage = only(rig.settle())
    (span,) = rig.probe.spans.spans
    assert rig.probe.errors == 0
    return span, usage


def test_both_sides_have_the_same_names():
    """The probe cannot import the core, so a test holds them together."""
    kinds = ("SPAN_", "ATTRIBUTE_", "RESOURCE_")
    core = {name: value for name, value in vars(conventions).items() if name.startswith(kinds)}
    assert {name: getattr(names, name) for name in names.__all__} == core


def test_the_probes_page_tells_every_name_of_a_span():
    """And every count, and every way that a span may go."""
    page = (Path(__file__).parents[2] / "docs/probe.md").read_text(encoding="utf-8")
    told = {value for name in names.__all__ if isinstance(value := getattr(names, name), str)} - {names.SPAN_SCOPE}
    counts = {conventions.PROBE_SPANS_SENT, conventions.PROBE_SPANS_DROPPED, conventions.PROBE_SPAN_FAILURES}
    modes = {f"`{mode}`" for mode in MODES}
    assert [name for name in sorted(told | counts | modes) if name not in page] == []


def test_the_names_of_opentelemetry_are_opentelemetrys():
    """As its own package of semantic conventions spells them."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai  # noqa: PLC0415
    from opentelemetry.semconv.attributes import http_attributes as http  # noqa: PLC0415

    known = {value for module in (gen_ai, http) for value in vars(module).values() if isinstance(value, str)}
    ours = {value for name, value in vars(names).items() if name.startswith("ATTRIBUTE_")}
    assert {name for name in ours if not name.startswith("farthing.")} <= known
    operations = {each.value for each in gen_ai.GenAiOperationNameValues}
    assert set(names.SPAN_OPERATIONS.values()) <= operations
    assert set(names.SPAN_OPERATIONS) <= PATHS


def test_a_streamed_chat_is_a_span_with_all_that_is_known(traced):
    """Ids, moments in UTC, usage, who, what came of it and what it would cost."""
    traced.delivery.unit_prices = {"llama-8b": PRICES, "another": {}}

    async def app(_scope, receive, send):
        await receive()
        (sequence,) = traced.engine.add("chatcmpl-abc", 10, images=[3])
        traced.clock.pass_(1)
        await send(start())
        for piece in (ROLE, TEXT, USAGE, DONE):
            traced.step({sequence: 1} if piece is not DONE else {}, {sequence: "stop"} if piece is USAGE else None, 4)
            await send(body(piece))
        await send(body(more=False))

    offset = traced.clock.time_ns() - traced.clock.now
    span, usage = asked(traced, app, headers=[TENANT, (b"x-tier", b"gold"), PARENT])
    assert (span.trace_id, span.parent_span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert (span.span_id, span.trace_id) == (usage.span_id, usage.trace_id)
    assert (usage.sampled, usage.span_sent) == (True, True)
    assert span.name == "chat llama"
    assert (span.start_ns, span.end_ns) == (usage.arrived_ns + offset, usage.ended_ns + offset)
    assert span.events == (("first_token", usage.arrived_ns + SECOND + offset),)
    assert not span.failed
    # 6 of 10 prompt tokens were computed, 3 came out, and 3 are of an image
    estimate = (6 * 16_180_000 + 3 * 121_900_000 + 3 * 40_000_000 + 500_000) // 1_000_000
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "llama",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "farthing.usage.image_tokens": 3,
        "farthing.tenant": "acme",
        "farthing.tier": "gold",
        "farthing.outcome": "finished",
        "farthing.request_id": "abc",
        "farthing.cost.estimate_nano_usd": estimate,
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert usage.estimate_nano == estimate


@pytest.mark.parametrize(("processes", "estimated"), [(1, 870), (4, 3_000)])
def test_an_estimate_counts_the_company_that_a_request_had(traced, processes, estimated):
    """Steps are shared by those who took part; an API server among several sees a part of them, and goes by tokens."""
    traced.delivery.unit_prices = {"llama-8b": WORK_AND_TOKENS}
    traced.probe.identity = replace(traced.probe.identity, processes=processes)

    others = [traced.engine.add(f"chatcmpl-{number}", 10)[0] for number in range(3)]
    traced.step(dict.fromkeys(others, 1))

    async def app(_scope, receive, send):
        await receive()
        (mine,) = traced.engine.add("chatcmpl-abc", 10)
        for number in range(2):
            traced.clock.pass_(1)
            # alone, and then with three others
            traced.step({mine: 1, **(dict.fromkeys(others, 1) if number else {})}, {mine: "stop"} if number else None)
        await send(start(headers=JSON))
        await send(NO_USAGE)

    # 600 x (1 + 1/4) of steps, 10 x 10 of its prompt, and 20 of the token that came after the first
    span, usage = asked(traced, app)
    assert span.attributes["farthing.cost.estimate_nano_usd"] == usage.estimate_nano == estimated


@pytest.mark.parametrize(("index", "estimated"), [(0, 3_840), (1, 6_000)])
def test_an_estimate_goes_by_tokens_where_the_choices_ran_in_several_engines(traced, index, estimated):
    """Two data-parallel ranks in one process: the steps of one say nothing of what ran in the other."""
    traced.delivery.unit_prices = {"llama-8b": WORK_AND_TOKENS}
    ranks = [traced.log, StepLog(None, 1)]
    for log in ranks:
        (before,) = traced.engine.add("chatcmpl-before", 10)
        log.record(traced.engine.state(), traced.engine.step({before: 1}))

    async def app(_scope, receive, send):
        await receive()
        first, second = traced.engine.add("chatcmpl-abc", 10, n=2)
        for number in range(2):
            for log, one in ((ranks[0], first), (ranks[index], second)):
                traced.clock.pass_(1)
                step = traced.engine.step({one: 1}, {one: "stop"} if number else None)
                log.record(traced.engine.state(), step)
        await send(start(headers=JSON))
        await send(NO_USAGE)

    _, usage = asked(traced, app)
    assert usage.estimate_nano == estimated


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/completions", "text_completion llama"),
        ("/v1/embeddings", "embeddings llama"),
        ("/v1/messages", "chat llama"),
        ("/v2/rerank", "rerank llama"),
        ("/v1/audio/transcriptions", "transcriptions llama"),
    ],
)
def test_a_span_is_named_by_operation_and_model(traced, path, name):
    """As the GenAI conventions name spans."""
    assert asked(traced, plain(start(headers=JSON), NO_USAGE), path)[0].name == name


def test_every_choice_and_every_prompt_has_its_finish_reason(traced):
    """n = 2 of two prompts; the engine's counts stand where the client asked for no usage."""

    async def app(_scope, receive, send):
        await receive()
        made = [*traced.engine.add("cmpl-abc-0", 5, n=2), *traced.engine.add("cmpl-abc-1", 7, n=2)]
        ends = dict(zip(made, ("stop", "length", "stop", "length"), strict=True))
        traced.step(dict.fromkeys(ends, 3), ends)
        await send(start(headers=JSON))
        await send(NO_USAGE)

    span, usage = asked(traced, app, "/v1/completions")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop", "length", "stop", "length")
    assert span.attributes["gen_ai.usage.output_tokens"] == 12
    assert (usage.finish_reason, len(usage.sequences)) == ("stop", 4)


def test_an_abort_is_an_event_and_no_error(traced):
    """The client hung up: what the engine has done is known, and when it was told."""

    async def app(_scope, receive, send):
        await receive()
        (sequence,) = traced.engine.add("chatcmpl-abc", 10)
        traced.step({sequence: 1})
        await send(start())
        await send(body(TEXT))
        traced.clock.pass_(1)
        await receive()
        traced.engine.abort(sequence)

    span, usage = asked(traced, app)
    assert span.attributes["farthing.outcome"] == "aborted"
    assert span.attributes["http.response.status_code"] == 499
    assert [name for name, _ in span.events] == ["first_token", "aborted"]
    assert span.events[1][1] == span.end_ns == span.start_ns + SECOND
    assert (usage.outcome, span.failed) == ("aborted", False)
    assert "gen_ai.response.finish_reasons" not in span.attributes


@pytest.mark.parametrize(
    ("app", "outcome", "status", "failed"),
    [
        (plain(start(500, JSON), body(b'{"error":{}}', more=False)), "failed", 500, True),
        (plain(error=RuntimeError("canary")), "failed", 500, True),
        (plain(start(), body(ROLE), body(b'data: {"error": {"message": "canary"}}\n\n')), "failed", 500, True),
        (plain(start(429, JSON), body(b'{"error":"canary"}', more=False)), "rejected", 429, False),
        (plain(start(400, JSON), body(b'{"error":"canary"}', more=False)), "rejected", 400, False),
    ],
)
def test_only_a_failure_is_an_error(traced, app, outcome, status, failed):
    """What a client did wrong is not the server's error (HTTP conventions, spans of servers); no text is quoted."""
    span, _ = asked(traced, app)
    assert (span.attributes["farthing.outcome"], span.attributes["http.response.status_code"]) == (outcome, status)
    assert (span.failed, span.events) == (failed, ())
    assert "canary" not in repr(span)


def test_a_refused_key_names_nobody(traced):
    """As its record."""
    app = plain(start(401, JSON), body(b"{}", more=False))
    span, _ = asked(traced, app, headers=[TENANT, (b"x-project-id", b"p")])
    assert (span.attributes["farthing.tenant"], "farthing.project" in span.attributes) == ("unknown", False)


def test_nothing_of_content_or_of_other_headers_is_in_a_span(traced):
    """Prompts, answers, credentials, vendors' trace state."""
    canary = b"canary-7f3a"
    headers = [
        TENANT, PARENT, (b"tracestate", b"v=" + canary), (b"authorization", b"Bearer " + canary), (b"cookie", canary),
        (b"baggage", b"k=" + canary),
    ]  # fmt: skip
    answer = body(b'{"choices":[{"message":{"content":"' + canary + b'"}}],"usage":{"prompt_tokens":3}}', more=False)
    asking = {"type": "http.request", "body": canary, "more_body": False}
    span, usage = asked(traced, plain(start(headers=JSON), answer), headers=headers, incoming=[asking, GONE])
    assert "canary" not in repr(span)
    assert "canary" not in repr(usage)


@pytest.mark.parametrize("room", [True, False])
def test_a_span_without_room_is_left_to_the_record(traced, room):
    """Then the service may still emit it."""
    traced.probe.spans = Spans(room)
    traced.ask(plain(start(headers=JSON), NO_USAGE))
    usage = only(traced.settle())
    assert (usage.sampled, usage.span_sent, len(traced.probe.spans.spans)) == (True, room, room)


def test_what_goes_wrong_with_a_span_costs_the_span_only(traced):
    """Counted; the record is there."""
    traced.probe.spans = None
    traced.delivery.unit_prices = None
    traced.ask(plain(start(headers=JSON), NO_USAGE), scope=traced.scope(headers=[PARENT]))
    usage = only(traced.settle())
    assert (usage.outcome, usage.trace_id, usage.sampled) == ("finished", PARENT[1].split(b"-")[1].decode(), False)
    assert traced.probe.errors == 1


def test_a_refusal_has_no_first_token():
    """Whatever left for the client was none."""
    assert edge_span({**FIELDS, "outcome": "rejected"}, [], 0).events == ()
    assert edge_span(FIELDS, [], 3).events == (("first_token", 8),)


def test_a_span_of_a_thousand_sequences_is_bounded():
    """Embeddings come by the thousand, and thousands of spans may wait."""
    fields = {**FIELDS, "sequences": [{"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 0}] * 1024}
    span = edge_span(fields, ["stop"] * 1024, 0)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",) * MOST_REASONS
    assert len(repr(span)) < 5_000


# ---- the estimate -------------------------------------------------------------------------------

FIELDS = {
    "trace_id": "1" * 32, "span_id": "2" * 16, "parent_span_id": "", "request_id": "r", "model": "m",
    "outcome": "finished", "status": 200, "arrived_ns": 1, "ended_ns": 9, "first_ns": 5, "route": "/v1/completions",
    "prompt_tokens": 10, "cached_tokens": 4, "image_tokens": 0, "output_tokens": 2, "delivered_tokens": None,
    "sequences": [],
}  # fmt: skip
COUNTS = st.integers(0, 2**31 - 1)
NANO = st.integers(0, 10**12)


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS), max_size=4), COUNTS, st.tuples(NANO, NANO, NANO))
def test_an_estimate_is_exact_to_half_a_nano_dollar(sequences, images, prices):
    """Integers only: computed prompt tokens of every sequence, output, and images, at their prices per million."""
    entries = [
        {"prompt_tokens": max(p, c), "cached_tokens": min(p, c), "output_tokens": output} for p, c, output in sequences
    ]
    fields = {**FIELDS, "sequences": entries, "image_tokens": images}
    computed = sum(max(p, c) - min(p, c) for p, c, _ in sequences) if sequences else 6
    output = sum(each for *_, each in sequences) if sequences else 2
    exact = Fraction(computed * prices[0] + output * prices[1] + images * prices[2], 1_000_000)
    found = estimate_nano(dict(zip(("prefill", "decode", "vision"), prices, strict=True)), fields)
    if computed or output:
        assert found is not None
        assert abs(found - exact) <= Fraction(1, 2)
    else:
        assert found is None


@pytest.mark.parametrize(
    ("prices", "change"),
    [
        (None, {}),
        ({}, {}),
        ([], {}),
        ({"prefill": 1}, {}),
        ({"decode": 1}, {}),
        ({"prefill": 1, "decode": 1}, {"image_tokens": 5}),
        ({"prefill": 1, "decode": 1}, {"image_tokens": None}),
        ({"prefill": 1, "decode": 1}, {"cached_tokens": None}),
        ({"prefill": 1, "decode": 1}, {"prompt_tokens": None}),
        ({"prefill": 1, "decode": 1}, {"output_tokens": None}),
        ({"prefill": 1.5, "decode": 1}, {}),
        ({"prefill": "1", "decode": 1}, {}),
        ({"prefill": -1, "decode": 1}, {}),
        ({"prefill": True, "decode": 1}, {}),
        ({"prefill": 10**30, "decode": 1}, {}),
    ],
)
def test_an_estimate_of_the_unknown_is_none(prices, change):
    """Never 0."""
    assert estimate_nano(prices, {**FIELDS, **change}) is None


@pytest.mark.parametrize(
    ("prices", "change", "nano"),
    [
        ({"prefill": 500_000}, {"output_tokens": 0}, 3),
        ({"decode": 500_000}, {"cached_tokens": 10}, 1),
        ({"prefill": 16_180_000, "decode": 121_900_000}, {}, 341),
    ],
)
def test_only_prices_that_are_needed_have_to_be_known(prices, change, nano):
    """Embeddings have no output, and a prompt may be cached whole."""
    assert estimate_nano(prices, {**FIELDS, **change}) == nano
