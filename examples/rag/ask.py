"""Questions about a folder of Markdown pages, answered by a vLLM, each with its trace and its cost.

    python ask.py --model MODEL "How do I switch the probe off?" "How can the probe be switched off?"

The second question is the first in other words: the semantic cache answers it, and says what that saved.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from costs import Cost, Farthing
from openai import OpenAI
from passages import Passage, passages_of
from retrieval import DIMENSIONS, Retriever
from semantic_cache import Answer, SemanticCache

from farthing_probe import tracing

WORKFLOW = "handbook"
SEARCHED, CITED = 20, 3
SAME_QUESTION = 0.8
"""Cosine: questions in other words are at 0.82 to 0.91 with this model, others about the same thing at 0.54."""
INSTRUCTIONS = "Answer from the passages below, in two sentences, and name the passage."


@dataclass
class Told:
    """What one question came to."""

    question: str
    answer: Answer
    hit: bool
    trace_id: str
    seconds: float
    usage: dict[str, int] = field(default_factory=dict)


class Handbook:
    """The application: a question goes through embedding, cache, search, reranking and the model."""

    def __init__(self, arguments: argparse.Namespace, farthing: Farthing | None) -> None:
        self._model: str = arguments.model
        self._max_tokens: int = arguments.max_tokens
        self._attribution = {"tenant": arguments.tenant, "project": WORKFLOW}
        self._client = OpenAI(base_url=arguments.engine, api_key=os.environ.get("OPENAI_API_KEY", "none"))
        self._retriever = Retriever(passages_of(arguments.documents))
        self._cache = SemanticCache(
            DIMENSIONS, SAME_QUESTION, lambda answer: farthing.cost(answer.request_id) if farthing else None
        )

    def ask(self, question: str) -> Told:
        """The answer; every stage is a span of one trace."""
        began = time.monotonic()
        with tracing.stage("workflow", workflow=WORKFLOW) as span:
            vector = self._retriever.embed(question)
            answer = self._cache.lookup(vector)
            usage: dict[str, int] = {}
            if hit := answer is not None:
                told = answer
            else:
                found = self._retriever.search(vector, SEARCHED)
                told, usage = self._generate(question, self._retriever.rerank(question, vector, found, CITED))
                told.trace_id = span.trace_id
                self._cache.keep(vector, told)
            return Told(question, told, hit, span.trace_id, time.monotonic() - began, usage)

    def _generate(self, question: str, passages: Sequence[Passage]) -> tuple[Answer, dict[str, int]]:
        request_id = f"{WORKFLOW}-{uuid.uuid4().hex[:12]}"
        context = "\n\n".join(f"[{passage.source}] {passage.text}" for passage in passages)
        with tracing.stage("generate", model=self._model, provider="vllm", request_id=request_id) as span:
            stream = self._client.chat.completions.create(
                model=self._model,
                messages=[
                    {"role": "system", "content": f"{INSTRUCTIONS}\n\n{context}"},
                    {"role": "user", "content": question},
                ],
                max_tokens=self._max_tokens,
                stream=True,
                stream_options={"include_usage": True},
                # of the stage that is under way: the engine's spans become its children
                extra_headers=tracing.headers(request_id=request_id, **self._attribution),
            )
            words, usage = [], {}
            for chunk in stream:
                if chunk.usage is not None:
                    usage = {"input_tokens": chunk.usage.prompt_tokens, "output_tokens": chunk.usage.completion_tokens}
                for choice in chunk.choices:
                    if choice.delta.content:
                        span.first_token()
                        words.append(choice.delta.content)
                    if choice.finish_reason:
                        span.set(finish_reason=choice.finish_reason)
            span.set(**usage)
        sources = tuple(dict.fromkeys(passage.source for passage in passages))
        return Answer("".join(words), sources, request_id, ""), usage


def shown(told: Told, cost: Cost | None) -> str:
    """A question, its answer and its cost, for people."""
    lines = [f"Q: {told.question}", f"A: {told.answer.text.strip()}", f"   sources: {', '.join(told.answer.sources)}"]
    if told.hit:
        lines.append(f"   from the cache: saved {saved(told.answer)}, the cost of {told.answer.request_id}")
    else:
        lines.append(f"   cost: {describe(cost)}; request {told.answer.request_id}")
    return "\n".join([*lines, f"   trace: {told.trace_id or 'not traced'}, {told.seconds:.2f} s"])


def saved(answer: Answer) -> str:
    """What an answer cost when it was made, in words."""
    estimate = answer.saved_estimate_nano
    return dollars(answer.saved_nano) if estimate is None else f"{dollars(estimate)} by estimate"


def describe(cost: Cost | None) -> str:
    """A cost in words."""
    if cost is None:
        return "unknown"
    phases = ", ".join(f"{phase} {dollars(nano)}" for phase, nano in cost.phases.items())
    settled = f"{dollars(cost.settled_nano)} ({phases})" if cost.settled_nano is not None else "not settled yet"
    return f"{settled}, estimated {dollars(cost.estimate_nano)}"


def dollars(nano: int | None) -> str:
    """Nano-dollars as dollars, all nine places, without a float; unknown is not 0."""
    return "unknown" if nano is None else f"${nano // 10**9}.{nano % 10**9:09d}"


def as_record(told: Told, cost: Cost | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "question": told.question,
        "hit": told.hit,
        "sources": told.answer.sources,
        "request_id": told.answer.request_id,
        "trace_id": told.trace_id,
        "saved_nano_usd": told.answer.saved_nano if told.hit else None,
        "saved_estimate_nano_usd": told.answer.saved_estimate_nano if told.hit else None,
        "estimate_nano_usd": cost.estimate_nano if cost else None,
        "settled_nano_usd": cost.settled_nano if cost else None,
        "phases_nano_usd": cost.phases if cost else {},
        **told.usage,
    }


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help="without one they are read from standard input"
    )
    parser.add_argument("--documents", type=Path, default=Path(__file__).parents[2] / "docs", help="folder of pages")
    parser.add_argument("--engine", default="http://127.0.0.1:8000/v1", help="vLLM's API (its key: OPENAI_API_KEY)")
    parser.add_argument("--model", required=True, help="the name that vLLM serves it under")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--tenant", default="handbook", help="who is booked")
    parser.add_argument("--collector", default="", help="OTLP over HTTP; default: OTEL_EXPORTER_OTLP_ENDPOINT")
    parser.add_argument("--farthing", default="", metavar="URL", help="farthing serve, which is asked for costs")
    parser.add_argument("--token-file", type=Path, help="a token of farthing serve")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for costs to be settled")
    parser.add_argument("--json", action="store_true", help="one object a question")
    return parser.parse_args(words)


def batches(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """The questions of the command line together, or those of standard input one by one, as they come."""
    if arguments.questions:
        yield arguments.questions
        return
    for line in sys.stdin:
        if line.strip():
            yield [line.strip()]


def main() -> None:
    """Answer questions, and say what each cost."""
    arguments = parse()
    logging.getLogger().setLevel(logging.WARNING)  # wordllama's import makes every client's requests be logged
    tracing.configure(WORKFLOW, endpoint=arguments.collector)
    token = arguments.token_file.read_text().strip() if arguments.token_file else ""
    farthing = Farthing(arguments.farthing, token) if arguments.farthing else None
    handbook = Handbook(arguments, farthing)
    for questions in batches(arguments):
        answered = [handbook.ask(question) for question in questions]
        deadline = time.monotonic() + arguments.wait
        for told in answered:
            cost = farthing.settled(told.answer.request_id, deadline) if farthing and not told.hit else None
            words = json.dumps(as_record(told, cost)) if arguments.json else shown(told, cost) + "\n"
            sys.stdout.write(f"{words}\n")
            sys.stdout.flush()
    tracing.flush()


if __name__ == "__main__":
    main()
