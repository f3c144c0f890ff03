"""What a replayed schedule consists of: steps, what each request did in them, and the requests themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Chunk", "Details", "Schedule", "ScheduleError", "Served", "Share", "Step"]


class ScheduleError(ValueError):
    """The recording cannot be explained by the scheduler's rules."""


@dataclass(slots=True)
class Served:
    """A request as the engine served it. Steps are positions among the recording's engine steps."""

    identity: str
    tenant: str
    load_phase: str
    prompt: int
    computed: int
    """Prompt tokens not taken from the prefix cache."""
    first_step: int
    last_step: int
    scheduled_s: float
    """Monotonic seconds at which the engine first scheduled it."""
    finished: bool
    arrived_s: float
    """Monotonic seconds at which the client sent it."""
    images: tuple[int, ...] = ()
    """Placeholder tokens of each image, in the prompt's order."""


class Share(NamedTuple):
    """What one request did in one step."""

    request: str
    prefill_tokens: int = 0
    prefill_context: float = 0.0
    """Sum over its prefill tokens of their position in the prompt: the work of causal attention."""
    decode_tokens: int = 0
    attended: int = 0
    """Tokens its decode attended: prompt and output so far."""
    encoder_inputs: float = 0.0
    encoder_tokens: float = 0.0
    """Fractions where several images of one size could be the ones that were encoded."""


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step."""

    start_s: float
    """Monotonic seconds: the mark before, or after idleness the earliest scheduling of its requests."""
    at_s: float
    """Monotonic seconds of the step's own mark."""
    shares: tuple[Share, ...]

    @property
    def busy_s(self) -> float:
        """The measured interval that the step ends."""
        return self.at_s - self.start_s


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every step of a recording, and every request by its client's id."""

    steps: tuple[Step, ...]
    requests: dict[str, Served]

    @property
    def busy_s(self) -> float:
        """Seconds in which anything ran."""
        return sum(step.busy_s for step in self.steps)


class Details(NamedTuple):
    """The scheduler's own counts of a step, as recorded."""

    iteration: int
    prefill_requests: int
    prefill_tokens: int
    decode_requests: int
    decode_tokens: int
    elapsed_ms: Any
    encoder_inputs: int
    encoder_tokens: int


Chunk = tuple[Served, int, int]
"""A request's prefill in one step: from a position of its prompt up to another."""
