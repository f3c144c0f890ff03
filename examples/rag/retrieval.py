"""Finding passages: an embedding model, a vector index, and a second look at what the index found."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wordllama
from passages import Passage
from usearch.index import Index
from wordllama import WordLlama

from farthing_probe import tracing

__all__ = ["EMBEDDING_MODEL", "RERANKER", "Retriever"]

EMBEDDING_MODEL = "l2_supercat_256"
"""Static token embeddings, 16 MB, in wordllama's wheel."""
DIMENSIONS = 256
RERANKER = "rare-words"
TERM = re.compile(r"[a-z0-9_]{2,}")
STEM = 5


class Retriever:
    """Passages in an HNSW index of their embeddings."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        # the wheel has both files; in its own folder WordLlama looks for the tokenizer under another name
        self._model = WordLlama.load(dim=DIMENSIONS, disable_download=True, cache_dir=Path(wordllama.__file__).parent)
        self._index = Index(ndim=DIMENSIONS, metric="cos", dtype="f32")
        self._index.add(np.arange(len(passages)), self._embedded([passage.searched for passage in passages]))
        self._terms = [_terms(passage.searched) for passage in passages]
        seen = Counter(term for terms in self._terms for term in terms)
        self._rarity = {term: math.log(1 + len(passages) / count) for term, count in seen.items()}

    def embed(self, question: str) -> Any:
        """The embedding of a question, of length 1."""
        with tracing.stage(
            "embed", model=EMBEDDING_MODEL, provider="wordllama", texts=1, dimensions=DIMENSIONS,
            size_bytes=len(question.encode()),
        ):  # fmt: skip
            return self._embedded([question])[0]

    def search(self, vector: Any, count: int) -> list[int]:
        """Numbers of the passages nearest to an embedding, the nearest first."""
        with tracing.stage("search", source="documents", candidates=len(self._passages)) as span:
            found = [int(key) for key in self._index.search(vector, count).keys]
            span.set(documents=len(found))
            return found

    def rerank(self, question: str, vector: Any, found: Sequence[int], count: int) -> list[Passage]:
        """The best passages: an embedding knows what a passage is about, its rare words whether it names the thing."""
        with tracing.stage("rerank", model=RERANKER, candidates=len(found), documents=min(count, len(found))):
            wanted = {term: self._rarity[term] for term in _terms(question) if term in self._rarity}
            whole = sum(wanted.values()) or 1.0
            near = self._embedded([self._passages[number].searched for number in found]) @ vector

            def score(place: int) -> float:
                terms = self._terms[found[place]]
                return float(near[place]) + sum(weight for term, weight in wanted.items() if term in terms) / whole

            best = sorted(range(len(found)), key=score, reverse=True)[:count]
            return [self._passages[found[place]] for place in best]

    def _embedded(self, texts: list[str]) -> Any:
        return np.asarray(self._model.embed(texts, norm=True), dtype=np.float32)


def _terms(text: str) -> frozenset[str]:
    """Words by how they begin: erase, erased and erasing are one."""
    return frozenset(term[:STEM] for term in TERM.findall(text.lower()))
