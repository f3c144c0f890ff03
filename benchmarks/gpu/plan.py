"""What the load asks for: the phases of the recordings, and their requests, the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PHASES", "Phase", "Planned", "load_words", "plan"]

TENANTS = ("acme", "globex", "initech", "umbrella")
TOKENS_PER_WORD = 1.355
"""Sizes of prompts are in words of English; the load's words are of one token each."""
PREFIX = 2048
"""Words of the prompt that a tenant's requests share."""
FEW_WORDS = ("every", "request", "is", "answered", "with", "tokens", "that", "cost", "a", "little")


@dataclass(frozen=True, slots=True)
class Phase:
    """How many clients ask at a time, for prompts of so many words and so many tokens of output."""

    clients: int
    prompts: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    tenants: tuple[str, ...] = TENANTS
    shared: float = 0.0
    """Share of requests whose prompt begins as the tenant's others do."""
    twice: float = 0.0
    """Share of requests that want two answers."""
    aborted: float = 0.0
    """Share of requests whose client hangs up ..."""
    patience: tuple[float, float] = (0.0, 0.0)
    """... with the first chunk after so many seconds."""


PHASES = {
    "warmup": Phase(4, (512, 128), (32,)),
    "c1": Phase(1, (128, 512, 2048), (128, 32), tenants=TENANTS[:1]),
    "c8": Phase(8, (128, 512, 2048, 8000), (32, 128, 512)),
    "c32": Phase(32, (128, 512, 2048, 8000), (32, 128, 512)),
    "c128": Phase(128, (128, 512, 2048), (64, 256, 512)),
    "prefill": Phase(16, (4000, 8000), (1, 4)),
    "shared": Phase(32, (64, 256), (64, 128), shared=0.8),
    "abort": Phase(32, (512, 2048), (256,), aborted=0.27, patience=(0.2, 2.5)),
    "pressure": Phase(96, (512, 2048, 4000), (256, 512), twice=0.3, aborted=0.08, patience=(0.5, 6.0)),
    "after": Phase(16, (128, 512), (64, 128)),
    "idle": Phase(0),
}


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to be sent."""

    tenant: str
    words: tuple[str, ...]
    output: int
    """Tokens of each answer."""
    shared: bool
    answers: int
    patience: float | None
    """Seconds until the client hangs up; None: it waits for the end."""


def load_words(model: Path) -> Sequence[str]:
    """The words that are one token each, as ``make_model.py`` lists them beside its model; else a few of English."""
    listed = model / "words.json"
    if not listed.exists():
        return FEW_WORDS
    words: list[str] = json.loads(listed.read_text(encoding="utf-8"))
    return words


def plan(name: str, seed: int, words: Sequence[str], scale: float = 1.0) -> Iterator[Planned]:
    """The endless requests of a phase in the order they are sent, whatever was sent before.

    ``scale`` makes prompts and outputs shorter for an engine that is slow. The order of the draws is part of the
    result: with it, equal seeds ask what the recordings' load asked.
    """
    phase = PHASES[name]
    rng = random.Random(f"{seed} {name}")
    while True:
        tenant = phase.tenants[0] if len(phase.tenants) == 1 else rng.choice(phase.tenants)
        size = rng.choice(phase.prompts) * scale * TOKENS_PER_WORD * rng.uniform(0.985, 1.015)
        prompt = [rng.choice(words) for _ in range(max(4, int(size)))]
        shared = phase.shared > 0 and rng.random() < phase.shared
        if shared:
            prompt = _prefix(tenant, words, scale) + prompt
        twice = phase.twice > 0 and rng.random() < phase.twice
        hangs_up = phase.aborted > 0 and rng.random() < phase.aborted
        patience = rng.uniform(*phase.patience) if hangs_up else None
        output = max(1, int(rng.choice(phase.outputs) * scale))
        yield Planned(tenant, tuple(prompt), output, shared, 2 if twice else 1, patience)


def _prefix(tenant: str, words: Sequence[str], scale: float) -> list[str]:
    """What a tenant's prompts begin with, in every run."""
    rng = random.Random(tenant)
    return [rng.choice(words) for _ in range(int(PREFIX * scale * TOKENS_PER_WORD))]
