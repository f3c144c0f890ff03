"""Answers by the meaning of their questions: asked again in other words, a question costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from costs import Cost
from usearch.index import Index

from farthing_probe import tracing

__all__ = ["Answer", "SemanticCache"]


@dataclass
class Answer:
    """What the model said, and what that cost."""

    text: str
    sources: tuple[str, ...]
    request_id: str
    trace_id: str
    cost: Cost | None = None
    """What is known of what it cost when it was made; None: nothing, or nothing yet."""

    @property
    def saved_nano(self) -> int | None:
        """What it cost, in nano-dollars, once that is settled."""
        return self.cost.settled_nano if self.cost is not None else None

    @property
    def saved_estimate_nano(self) -> int | None:
        """What it was thought to cost, in nano-dollars, as long as it is not settled."""
        return self.cost.estimate_nano if self.cost is not None and self.saved_nano is None else None


class SemanticCache:
    """Keeps answers in memory.

    ``threshold`` is the cosine from which two questions are the same; ``cost_of`` says what is known now of an
    answer's cost, and never raises.
    """

    def __init__(self, dimensions: int, threshold: float, cost_of: Callable[[Answer], Cost | None]) -> None:
        self._index = Index(ndim=dimensions, metric="cos", dtype="f32")
        self._answers: list[Answer] = []
        self._threshold = threshold
        self._cost_of = cost_of

    def lookup(self, vector: Any) -> Answer | None:
        """The answer to a question like it, or None; a hit says what it saves: what the answer cost once."""
        with tracing.stage("cache", source="answers", candidates=len(self._answers)) as span:
            if not self._answers:
                span.set(hit=False)
                return None
            nearest = self._index.search(vector, 1)
            similarity = max(0.0, 1.0 - float(nearest.distances[0]))
            span.set(similarity=similarity, hit=similarity >= self._threshold)
            if similarity < self._threshold:
                return None
            answer = self._answers[int(nearest.keys[0])]
            if answer.saved_nano is None:  # an estimate holds until the cost is settled
                answer.cost = self._cost_of(answer) or answer.cost
            span.cache_hit(saved_nano_usd=answer.saved_nano, saved_estimate_nano_usd=answer.saved_estimate_nano)
            return answer

    def keep(self, vector: Any, answer: Answer) -> None:
        """Remember an answer."""
        self._index.add(np.uint64(len(self._answers)), vector)
        self._answers.append(answer)
