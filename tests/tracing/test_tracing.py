"""An application's stages are spans by the conventions, connected, and without a word of content."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from farthing_probe import stage_facts, tracing

PAGE = Path(__file__).parents[2] / "docs/rag.md"
SECRET = "the patient's name is Canary"
FIRST, ABORTED = "gen_ai.response.time_to_first_chunk", "farthing.stage.aborted"


class RefusedError(ValueError):
    """An error of the application's own."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where spans go when they end."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # the API lets a process set its provider once; a test gives it back
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def spans(ended: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """What has ended, by name."""
    found = {span.name: span for span in ended.get_finished_spans()}
    assert len(found) == len(ended.get_finished_spans())
    return found


def said_by(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


def traceparent(span: ReadableSpan) -> str:
    """A span as the parent of another's, in W3C's form; of its flags the lowest says that it is sampled."""
    assert span.context.trace_flags & 1
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def parent_of(span: ReadableSpan) -> int:
    """The id of a span's parent; 0 at a root."""
    return span.parent.span_id if span.parent is not None else 0


def test_a_stage_is_named_by_the_conventions_and_belongs_to_the_stage_around_it(ended: InMemorySpanExporter):
    """Every kind: operation, name, kind of span, parent, and the facts that were given by name."""
    with tracing.stage("workflow", workflow="handbook"):
        with tracing.stage("embed", model="wordllama-256", provider="wordllama", texts=1, dimensions=256):
            pass
        with tracing.stage("search", source="docs", remote=True) as span:
            span.set(documents=8)
        with tracing.stage("rerank", model="overlap", candidates=8):
            pass
        with tracing.stage("cache", source="answers"):
            pass
        with tracing.stage("generate", model="llama-8b", provider="vllm") as span:
            span.set(finish_reason="stop", input_tokens=40, output_tokens=2, estimate_nano_usd=12_345)
    found = spans(ended)
    assert {name: span.kind for name, span in found.items()} == {
        "invoke_workflow handbook": SpanKind.INTERNAL,
        "embeddings wordllama-256": SpanKind.INTERNAL,
        "retrieval docs": SpanKind.CLIENT,
        "rerank overlap": SpanKind.INTERNAL,
        "cache answers": SpanKind.INTERNAL,
        "chat llama-8b": SpanKind.CLIENT,
    }
    root = found.pop("invoke_workflow handbook")
    assert parent_of(root) == 0
    assert {parent_of(span) for span in found.values()} == {root.context.span_id}
    assert {span.context.trace_id for span in found.values()} == {root.context.trace_id}
    assert said_by(found["retrieval docs"]) == {
        "gen_ai.operation.name": "retrieval",
        "farthing.stage": "search",
        "gen_ai.data_source.id": "docs",
        "farthing.rag.documents": 8,
    }
    assert said_by(found["chat llama-8b"]) == {
        "gen_ai.operation.name": "chat",
        "farthing.stage": "generate",
        "gen_ai.request.model": "llama-8b",
        "gen_ai.provider.name": "vllm",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 2,
        "farthing.cost.estimate_nano_usd": 12_345,
    }
    assert all(span.status.status_code is StatusCode.UNSET and span.events == () for span in found.values())


def test_decorated_functions_are_stages_and_keep_their_names(ended: InMemorySpanExporter):
    """Plain and coroutine functions: a span for each call, current inside, with nothing of arguments and results."""

    @tracing.stage("search", source="docs")
    def search(query: str) -> str:
        """Find it."""
        return f"{query} {format(trace.get_current_span().get_span_context().span_id, '016x')}"

    @tracing.stage("rerank")
    async def rerank(query: str) -> str:
        await asyncio.sleep(0)
        return f"{query} {format(trace.get_current_span().get_span_context().span_id, '016x')}"

    async def both() -> list[str]:
        async with tracing.stage("workflow"):
            return list(await asyncio.gather(rerank(SECRET), rerank(SECRET)))

    said = [search(SECRET), search(SECRET), *asyncio.run(both())]
    assert (search.__name__, search.__doc__) == ("search", "Find it.")
    made = [span for span in ended.get_finished_spans() if span.name != "invoke_workflow"]
    assert sorted(words.rpartition(" ")[2] for words in said) == sorted(f"{s.context.span_id:016x}" for s in made)
    assert all(words.startswith(SECRET) for words in said)
    assert "Canary" not in "".join(span.to_json() for span in ended.get_finished_spans())
    (root,) = (span for span in ended.get_finished_spans() if span.name == "invoke_workflow")
    assert [parent_of(span) for span in made] == [0, 0, root.context.span_id, root.context.span_id]


def test_a_stream_is_a_span_until_it_is_read_and_current_only_while_it_runs(ended: InMemorySpanExporter):
    """A generator's span says when the first token came; what its reader does meanwhile is not inside of it."""
    inside: list[int] = []

    @tracing.stage("generate", model="llama")
    def answer(count: int) -> Generator[int, None, str]:
        for number in range(count):
            inside.append(trace.get_current_span().get_span_context().span_id)
            yield number
        return "rest"

    outside = trace.get_current_span().get_span_context().span_id
    read = []
    for number in answer(3):
        assert trace.get_current_span().get_span_context().span_id == outside
        assert ended.get_finished_spans() == ()
        read.append(number)
    (span,) = ended.get_finished_spans()
    assert read == [0, 1, 2]
    assert set(inside) == {span.context.span_id}
    assert 0 < said_by(span)[FIRST] < 10
    assert span.events == ()


def test_a_stream_takes_what_is_sent_and_thrown_into_it(ended: InMemorySpanExporter):
    """A decorated generator is still a generator, with its answer at the end."""

    @tracing.stage("generate")
    def echo() -> Generator[str, str, str]:
        got = yield "ready"
        try:
            yield f"got {got}"
        except RefusedError:
            yield "refused"
        return "done"

    stream = echo()
    assert [next(stream), stream.send("this"), stream.throw(RefusedError())] == ["ready", "got this", "refused"]
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == "done"
    (span,) = ended.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_nobody_reads_to_its_end_is_aborted_and_closed(ended: InMemorySpanExporter, asynchronous: bool):
    """Its span says so, without an error, and the generator has cleaned up."""
    closed = []

    @tracing.stage("generate")
    def answer() -> Generator[int, None, None]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    @tracing.stage("generate")
    async def answer_later() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def read_one() -> None:
        stream = answer_later()
        assert await anext(stream) == 1
        await stream.aclose()

    if asynchronous:
        asyncio.run(read_one())
    else:
        stream = answer()
        assert next(stream) == 1
        stream.close()
    (span,) = ended.get_finished_spans()
    assert closed == [True]
    assert said_by(span).keys() == {"gen_ai.operation.name", "farthing.stage", FIRST, ABORTED}
    assert (said_by(span)[ABORTED], span.events) == (True, ())
    assert span.status.status_code is StatusCode.UNSET


def test_an_asynchronous_stream_that_fails_half_way_says_so(ended: InMemorySpanExporter):
    """What was read was read; the reader gets the error and the span its type."""

    @tracing.stage("generate")
    async def answer() -> AsyncGenerator[int, None]:
        yield 1
        await asyncio.sleep(0)
        raise RefusedError(SECRET)

    async def read() -> list[int]:
        stream = answer()
        got = [await anext(stream)]
        assert not trace.get_current_span().get_span_context().is_valid
        with pytest.raises(RefusedError, match="Canary"):
            await anext(stream)
        return got

    assert asyncio.run(read()) == [1]
    (span,) = ended.get_finished_spans()
    assert FIRST in said_by(span)
    assert ABORTED not in said_by(span)
    assert span.status.status_code is StatusCode.ERROR


def test_of_an_error_only_the_type_is_kept(ended: InMemorySpanExporter):
    """The message may quote a prompt; the application gets its exception as it was raised."""
    raised = RefusedError(SECRET)

    @tracing.stage("search")
    def search() -> None:
        raise raised

    with pytest.raises(RefusedError) as caught, tracing.stage("workflow"):
        search()
    assert caught.value is raised
    found = spans(ended)
    assert {name: said_by(span)["error.type"] for name, span in found.items()} == dict.fromkeys(
        ("invoke_workflow", "retrieval"), f"{RefusedError.__module__}.RefusedError"
    )
    assert {(span.status.status_code, span.status.description) for span in found.values()} == {(StatusCode.ERROR, None)}
    assert "Canary" not in "".join(span.to_json() for span in found.values())


def test_a_cancelled_stage_is_aborted_and_no_error(ended: InMemorySpanExporter):
    """A client that goes away is no fault of the stage."""

    async def cancelled() -> None:
        async with tracing.stage("generate"):
            await asyncio.Event().wait()

    async def cancel() -> None:
        task = asyncio.create_task(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    (span,) = ended.get_finished_spans()
    assert (said_by(span)[ABORTED], FIRST in said_by(span)) == (True, False)
    assert span.status.status_code is StatusCode.UNSET


def test_a_fact_without_a_name_or_of_another_kind_is_no_fact(
    ended: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
):
    """An unknown name is a mistake of whoever wrote it; a value that could be content is left out and not logged."""
    stage_facts._unusable.cache_clear()
    with pytest.raises(TypeError, match="takes no 'prompt'; it takes model,"):
        tracing.stage("search", prompt=SECRET)
    with tracing.stage("search", source=SECRET, model="x" * 257) as span:
        span.set(documents=-1, texts=1.5, candidates=True, hit=1, saved_nano_usd="5", similarity=float("nan"))
        with pytest.raises(TypeError, match="takes no 'query'"):
            span.set(query=SECRET)
        span.set(documents=3)
    (made,) = ended.get_finished_spans()
    assert said_by(made) == {
        "gen_ai.operation.name": "retrieval", "farthing.stage": "search", "farthing.rag.documents": 3,
    }  # fmt: skip
    assert made.name == "retrieval"
    assert "a value of 'source' was left out of a span: it must be an identifier" in caplog.text
    assert "Canary" not in caplog.text
    with pytest.raises(ValueError, match="there is no stage 'think'; give one of workflow, embed"):
        tracing.stage("think")


def test_every_fact_that_is_text_refuses_a_sentence():
    """No name of a fact lets one through, whoever adds the next."""
    for name, (_, kind) in stage_facts.FACTS.items():
        if kind is str:
            assert stage_facts.attributes_of({name: SECRET}) == {}
            assert stage_facts.attributes_of({name: "line\nfeed"}) == {}
            assert stage_facts.attributes_of({name: "llama-3.1@main"}) != {}
        else:
            assert stage_facts.attributes_of({name: SECRET}) == {}


def test_a_hit_of_the_cache_says_what_it_saved_and_nothing_where_that_is_unknown(ended: InMemorySpanExporter):
    """Unknown dollars are absent, and never 0."""
    with tracing.stage("cache", source="answers") as span:
        span.cache_hit(saved_nano_usd=1_250)
    with tracing.stage("cache", source="older"):
        tracing.cache_hit()
    with tracing.stage("cache", source="newest"):
        tracing.cache_hit(saved_estimate_nano_usd=1_200)
    found = spans(ended)
    newest = said_by(found["cache newest"])
    assert (newest["farthing.cache.hit"], newest["farthing.cache.saved_estimate_nano_usd"]) == (True, 1_200)
    assert "farthing.cache.saved_nano_usd" not in newest
    assert said_by(found["cache answers"])["farthing.cache.saved_nano_usd"] == 1_250
    assert said_by(found["cache older"])["farthing.cache.hit"] is True
    assert "farthing.cache.saved_nano_usd" not in said_by(found["cache older"])


def test_headers_continue_the_trace_and_say_whose_request_it_is(ended: InMemorySpanExporter):
    """The current stage is the parent of what the engine does; baggage stays where it is."""
    token = context.attach(baggage.set_baggage("question", SECRET))
    try:
        with tracing.stage("generate", model="llama") as span:
            made = tracing.headers(request_id="rag-1", tenant="acme", tier="gold")
            trace_id = span.trace_id
    finally:
        context.detach(token)
    (ended_span,) = ended.get_finished_spans()
    assert made == {
        "X-Request-Id": "rag-1",
        "X-Tenant-Id": "acme",
        "X-Tier": "gold",
        "traceparent": traceparent(ended_span),
    }
    assert trace_id in made["traceparent"]
    with pytest.raises(TypeError, match="takes no 'team'; it takes request_id, tenant"):
        tracing.headers(team="x")
    assert tracing.headers() == {}, "outside of any stage there is nothing to continue"


def test_a_client_of_httpx_can_carry_the_context_by_itself(ended: InMemorySpanExporter):
    """The hook puts it on every request."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("traceparent", ""))
        return httpx.Response(200)

    hooks = {"request": [tracing.inject]}
    with httpx.Client(transport=httpx.MockTransport(answer), event_hooks=hooks) as client:
        with tracing.stage("generate"):
            client.get("http://engine/")
        client.get("http://engine/")
    (span,) = ended.get_finished_spans()
    assert seen == [traceparent(span), ""]


def test_a_stage_is_entered_once_at_a_time(ended: InMemorySpanExporter):
    """Two of a kind at once need a stage each; one after the other may share it."""
    search = tracing.stage("search")
    with search, pytest.raises(RuntimeError, match="make another"), search:
        pass
    with search:
        pass
    assert len(ended.get_finished_spans()) == 2


def test_calls_in_several_threads_have_spans_of_their_own(ended: InMemorySpanExporter):
    """A decorator is shared by every thread of an application."""
    together = threading.Barrier(4)

    @tracing.stage("search")
    def search() -> None:
        together.wait(10)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({span.context.span_id for span in ended.get_finished_spans()}) == 4


def test_without_opentelemetry_everything_works_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """An application need not have it; its stages run as they would undecorated."""
    tracing._api.cache_clear()
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    try:

        @tracing.stage("generate")
        def answer() -> Iterator[int]:
            yield from (1, 2)

        @tracing.stage("search")
        async def search() -> int:
            return 3

        with caplog.at_level(logging.WARNING), tracing.stage("workflow") as span:
            span.set(documents=1)
            span.first_token()
            span.cache_hit(saved_nano_usd=5)
            tracing.cache_hit()
            assert [*answer(), asyncio.run(search())] == [1, 2, 3]
            assert span.trace_id == ""
            assert tracing.headers(tenant="acme") == {"X-Tenant-Id": "acme"}
            assert tracing.flush()
            assert not tracing.configure("application", endpoint="http://127.0.0.1:4318")
        assert caplog.text.count("opentelemetry-api is not installed: stages are not traced") == 1
        assert "spans are handed to nobody: opentelemetry is not installed" in caplog.text
    finally:
        tracing._api.cache_clear()


def test_the_page_names_every_stage_and_every_fact_as_the_code_has_them():
    """What an application may say is read there."""
    stages, facts = (
        dict(re.findall(r"^\| `([a-z_]+)` \| `([a-z_.]+)` \|", part, re.MULTILINE))
        for part in PAGE.read_text().split("## No content")
    )
    assert stages == {name: kind.operation for name, kind in tracing.STAGES.items()}
    assert facts == {name: attribute for name, (attribute, _) in stage_facts.FACTS.items()}
