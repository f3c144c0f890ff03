"""The RAG example in its own environment: real embeddings and a real index over docs/, before an engine of the tests.

What a real vLLM makes of it is in test_rag_application.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.service.running import served
from tests.tracing.example_environment import example_python
from tests.tracing.receiver import Receiver, otlp_receiver

from farthing.domain import conventions as c
from farthing.service.trace_view import PhaseCost, TracedRequest, TraceView, trace_document

__all__ = ["example_python"]

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
ASKED = ("How do I switch the probe off?", "How can the probe be switched off?", "How are idle GPUs charged?")
ANSWER = ("Touch ", "the off ", "file.")
UNTRACED = (
    "WARNING:farthing_probe.tracing:spans are handed to nobody: give an endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT"
)
UNANSWERED = "WARNING:costs:costs are unknown: Farthing does not answer (URLError)"


@dataclass
class World:
    """An engine and a service for the example, and what they were asked."""

    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    in_progress: int = 0
    """So many answers of the service are that the request's cost is not settled yet."""

    def application(self) -> Starlette:
        """Both under one address."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/api/v1/trace/{name}", self._trace),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        self.requests.append((dict(request.headers), await request.json()))

        async def body() -> AsyncIterator[str]:
            about = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
            for place, words in enumerate(ANSWER):
                reason = "stop" if place == len(ANSWER) - 1 else None
                choice = {"index": 0, "delta": {"content": words}, "finish_reason": reason}
                yield f"data: {json.dumps({**about, 'choices': [choice]})}\n\n"
            usage = {"prompt_tokens": 50, "completion_tokens": 3, "total_tokens": 53}
            yield f"data: {json.dumps({**about, 'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    async def _trace(self, request: Request) -> Response:
        name = request.path_params["name"]
        first = name not in self.looked_up
        self.looked_up.append(name)
        if first:  # its record is on its way
            return JSONResponse({"error": "no such trace"}, 404)
        self.in_progress -= 1
        found = settled(name) if self.in_progress < 0 else replace(settled(name), state="in progress", cost_nano=300)
        return JSONResponse(trace_document(TraceView("", "USD", (found,))))


def settled(request_id: str) -> TracedRequest:
    """A request as the service shows it, of 1,200 nano-dollars by estimate and 1,300 by the books."""
    return TracedRequest(
        request_id=request_id, trace_id="", span_id="", parent_span_id="", engine="e", model="tiny", tenant="handbook",
        project="handbook", tier="unknown", outcome="finished", status=200, arrived_ns=1, ended_ns=2, steps=(),
        prompt_tokens=50, cached_tokens=0, image_tokens=0, output_tokens=3, state="settled",
        phases=(PhaseCost(c.PREFILL, 300, ()), PhaseCost(c.DECODE, 1_000, ())), cost_nano=1_300, fit_error=None,
        estimate_nano=1_200, energy_mj=0, saved_nano=0,
    )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What the example said, and what the others saw of it."""

    said: list[dict[str, Any]]
    world: World
    receiver: Receiver


@pytest.fixture(scope="module")
def run(example_python: Path) -> Iterator[Run]:
    """Three questions, of which the second is the first in other words."""
    world = World()
    with served(world.application()) as url, otlp_receiver() as receiver:
        arguments = ["--engine", f"{url}/v1", "--farthing", url, "--wait", "20", "--collector", receiver.endpoint]
        said = example(example_python, *arguments, "--json", *ASKED).stdout
        yield Run([json.loads(line) for line in said.splitlines()], world, receiver)


def example(python: Path, *arguments: str, given: str = "", complains: str = "") -> subprocess.CompletedProcess[str]:
    """The example, ended, with nothing else to say."""
    done = subprocess.run(
        [str(python), str(ROOT / "examples/rag/ask.py"), "--model", "tiny", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "collectors/probe")},
        input=given, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, complains)
    return done


def test_the_page_that_answers_is_found_among_all_pages(run: Run):
    """By meaning and by the words that are rare in the documentation, of which every page is read."""
    assert {each["sources"][0] for each in run.said[:2]} == {"probe.md#switch-it-off"}
    assert all(1 <= len(each["sources"]) <= 3 for each in run.said)
    for each in run.said:
        for source in each["sources"]:
            assert (ROOT / "docs" / source.partition("#")[0]).exists()


def test_the_engine_gets_the_passages_the_trace_and_whose_request_it_is(run: Run):
    """Two requests for three questions, each the child of its own generating stage."""
    asked = [each for each in run.said if not each["hit"]]
    assert len(run.world.requests) == len(asked) == 2
    spans = run.receiver.wait_for(15)
    for (headers, body), told in zip(run.world.requests, asked, strict=True):
        (stage,) = (s for s in spans if s.trace_id == told["trace_id"] and s.name == "chat tiny")
        assert headers["traceparent"].split("-")[1:3] == [stage.trace_id, stage.span_id]
        assert (headers["x-request-id"], headers["x-tenant-id"]) == (told["request_id"], "handbook")
        system, user = body["messages"]
        assert f"[{told['sources'][0]}]" in system["content"]
        assert user["content"] == told["question"]
        assert stage.attributes["farthing.request_id"] == told["request_id"]
        assert stage.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert stage.attributes["gen_ai.usage.output_tokens"] == told["output_tokens"] == 3
        assert 0 < stage.attributes["gen_ai.response.time_to_first_chunk"] < 60
        assert stage.events == ()


def test_each_question_is_a_trace_of_its_stages(run: Run):
    """A question that the cache answers has neither search nor generation."""
    spans = run.receiver.wait_for(15)
    stages = {
        each["question"]: {s.name.split()[0] for s in spans if s.trace_id == each["trace_id"]} for each in run.said
    }
    whole = {"invoke_workflow", "embeddings", "cache", "retrieval", "rerank", "chat"}
    assert stages == {ASKED[0]: whole, ASKED[1]: {"invoke_workflow", "embeddings", "cache"}, ASKED[2]: whole}
    assert len(spans) == 15


def test_costs_are_waited_for_until_they_are_settled(run: Run):
    """The first answer of the service is that it knows nothing yet."""
    assert [each["settled_nano_usd"] for each in run.said] == [1_300, None, 1_300]
    assert [each["estimate_nano_usd"] for each in run.said] == [1_200, None, 1_200]
    assert run.said[0]["phases_nano_usd"] == {"prefill": 300, "decode": 1_000}


def test_what_a_cached_answer_saved_is_unknown_until_its_cost_is_known(run: Run, example_python: Path):
    """Unknown is absent from the span and null in the answer; asked later, it is the cost."""
    (hit,) = (each for each in run.said if each["hit"])
    assert hit["saved_nano_usd"] is None
    (cache,) = (s for s in run.receiver.spans if s.trace_id == hit["trace_id"] and s.name == "cache answers")
    assert cache.attributes["farthing.cache.hit"] is True
    assert "farthing.cache.saved_nano_usd" not in cache.attributes
    with served(run.world.application()) as url, otlp_receiver() as receiver:
        arguments = ["--engine", f"{url}/v1", "--farthing", url, "--wait", "20", "--collector", receiver.endpoint]
        said = example(example_python, *arguments, given=f"{ASKED[0]}\n\n{ASKED[1]}\n").stdout
        (later,) = (s for s in receiver.wait_for(9) if s.attributes.get("farthing.cache.hit"))
    assert later.attributes["farthing.cache.saved_nano_usd"] == 1_300
    assert "   cost: $0.000001300 (prefill $0.000000300, decode $0.000001000), estimated $0.000001200; request" in said
    assert "   from the cache: saved $0.000001300, the cost of handbook-" in said
    assert said.count("A: Touch the off file.\n") == 2


def test_a_hit_tells_an_estimate_as_one_until_the_cost_is_settled(example_python: Path):
    """The first hit comes while the books are open, the second afterwards; the third need not ask again."""
    world = World(in_progress=1)
    with served(world.application()) as url, otlp_receiver() as receiver:
        arguments = ["--engine", f"{url}/v1", "--farthing", url, "--collector", receiver.endpoint, "--json"]
        said = example(example_python, *arguments, given="\n".join((ASKED[0], *ASKED[1:2] * 3))).stdout
        hits = [s for s in receiver.wait_for(15) if s.attributes.get("farthing.cache.hit")]
    names = ("saved_nano_usd", "saved_estimate_nano_usd")
    assert [[json.loads(line)[name] for name in names] for line in said.splitlines()] == [
        [None, None], [None, 1_200], [1_300, None], [1_300, None],
    ]  # fmt: skip
    assert [[s.attributes.get(f"farthing.cache.{name}") for name in names] for s in hits] == [
        [None, 1_200], [1_300, None], [1_300, None],
    ]  # fmt: skip
    assert len(world.looked_up) == 3


def test_without_farthing_every_answer_is_given_and_its_cost_is_unknown(example_python: Path):
    """Nobody listens there: one word about it, and no question is lost."""
    with served(World().application()) as url:
        arguments = ["--engine", f"{url}/v1", "--farthing", "http://127.0.0.1:9"]
        said = example(example_python, *arguments, *ASKED[:2], complains=f"{UNTRACED}\n{UNANSWERED}\n").stdout
    assert said.count("A: Touch the off file.\n") == 2
    assert "   cost: unknown; request handbook-" in said
    assert "   from the cache: saved unknown, the cost of handbook-" in said


def test_nothing_of_a_question_or_a_page_is_in_a_span(run: Run):
    """Embedded, searched, put into a prompt and answered, but never sent to a collector."""
    bodies = b"".join(request.body for request in run.receiver.requests)
    assert b"handbook" in bodies
    for words in (*ASKED, *ANSWER, "kill switch", "Answer from the passages"):
        assert words.strip().encode() not in bodies
