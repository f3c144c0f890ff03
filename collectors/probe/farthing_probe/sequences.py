"""What the engine itself knows of a request: its sequences, read from vLLM's request states and statistics.

The output processor of vLLM's front end keeps one ``RequestState`` for each sequence, with the moments and counts
that its own metrics are made of. They are read where they are (``RequestStateStats``, vLLM 0.11.2 to 0.33), held
only until the request's record is sent, and never written to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farthing_probe import wire
from farthing_probe.probe import Probe, ordered
from farthing_probe.wire import MOST_ENTRIES

__all__ = ["EngineSequence", "entries", "watch"]


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


class EngineSequence:
    """One generated (or pooled) sequence."""

    engine_index = 0
    finish_reason = ""
    image_tokens = 0
    adapter = ""
    first_of_prompt = True
    """False for the second and later of several that share a prompt (n > 1)."""
    request_id = ""
    arrived_ns = 0

    def __init__(self, probe: Probe, states: dict[str, Any] | None = None, state: Any = None) -> None:
        self._probe, self._states, self._state = probe, states, state
        self._ended: tuple[int, Any] | None = None
        """The mark that reported its end, and vLLM's FinishedRequestStats."""

    @classmethod
    def of_state(cls, probe: Probe, states: dict[str, Any], state: Any, request: Any) -> EngineSequence:
        """The sequence of a state that the output processor has just taken in."""
        made = cls(probe, states, state)
        made.request_id = getattr(state, "external_req_id", None) or state.request_id
        made.adapter = getattr(state, "lora_name", None) or ""
        made.first_of_prompt = getattr(state, "parent_req", None) is None or state.request_index == 0
        for item in getattr(request, "mm_features", None) or ():
            if item.modality == "image":
                made.image_tokens += _embeddings(item.mm_position)
        probe.unreported.setdefault(made.request_id, []).append(made)
        return made

    @classmethod
    def of_finished(cls, probe: Probe, engine_index: int, at_ns: int, statistics: Any) -> EngineSequence | None:
        """Tell the sequence that these statistics are of; one of nobody's is returned."""
        identity = getattr(statistics, "request_id", None)  # from 0.20
        held = probe.unreported.get(identity, ()) if identity else ()
        ended = [each for each in held if not each.alive and each.generated == statistics.num_generation_tokens]
        if ended:
            min(ended, key=lambda each: each._unlike(statistics)).report(engine_index, at_ns, statistics)
            return None
        if identity is None and probe.metered_http:
            return None  # it cannot be told apart from those that the middleware holds
        made = cls(probe)
        made.request_id = identity or ""
        made.arrived_ns = max(0, at_ns - max(0, _ns(statistics.e2e_latency)))  # of a clock that may be set back
        made.report(engine_index, at_ns, statistics)
        return made

    def _unlike(self, statistics: Any) -> tuple[bool, float]:
        """How far statistics are from being its own: ids need not be unique, and an aborted twin has ended as well."""
        stats = getattr(self._state, "stats", None)
        inferred = stats.last_token_ts - stats.scheduled_ts if stats is not None else float("inf")
        return self.prompt_tokens != statistics.num_prompt_tokens, abs(inferred - statistics.inference_time)

    def report(self, engine_index: int, at_ns: int, statistics: Any) -> None:
        """Take vLLM's statistics of its end."""
        self.engine_index = engine_index
        self.finish_reason = str(statistics.finish_reason)
        self._ended = (at_ns, statistics)
        stats = getattr(self._state, "stats", None)
        if stats is not None and stats.last_token_ts:
            self._probe.lag_ns[engine_index] = at_ns - _ns(stats.last_token_ts)
        self.forget()

    def forget(self) -> None:
        """Nothing more will be reported of it."""
        left = [each for each in self._probe.unreported.get(self.request_id, ()) if each is not self]
        if left:
            self._probe.unreported[self.request_id] = left
        else:
            self._probe.unreported.pop(self.request_id, None)

    def is_of(self, state: Any) -> bool:
        """Whether it is this state's (a streamed input is added to its state again and again)."""
        return self._state is state

    def locate(self) -> None:
        """Find which data-parallel engine works on it, while that is still known."""
        try:
            engine = self._probe.watched.engine_core.reqs_in_flight.get(self._state.request_id)  # type: ignore[attr-defined]
        except AttributeError:
            return  # one engine, or a version that balances elsewhere
        if isinstance(engine, bytes):
            self.engine_index = int.from_bytes(engine, "little")

    @property
    def reported(self) -> bool:
        """Whether the engine has said how it ended."""
        return self._ended is not None

    @property
    def alive(self) -> bool:
        """Whether the engine still works on it."""
        return self._states is not None and self._states.get(self._state.request_id) is self._state

    @property
    def generated(self) -> int:
        """Output tokens so far."""
        stats = getattr(self._state, "stats", None)
        return stats.num_generation_tokens if stats is not None else 0

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens, cached ones included."""
        return int(getattr(self._state, "prompt_len", 0) or 0)

    def entry(self) -> wire.Wire | None:
        """Its entry in a usage record; None when it brought no output, so that nobody knows what ran of it."""
        stats = getattr(self._state, "stats", None)
        if self._ended is not None:
            last, ended = self._ended
            scheduled, first = last - _ns(ended.inference_time), last - _ns(ended.decode_time)
            prompt, output = ended.num_prompt_tokens, ended.num_generation_tokens
            queued = max(0, _ns(ended.queued_time))
            # never scheduled: the moment is 0 then, and inference_time the age of the core's clock
            if not output and not 0 < ended.inference_time <= ended.e2e_latency + 1:
                return None
        elif stats is None or not stats.scheduled_ts or not stats.last_token_ts:
            return None
        else:
            lag = self._probe.lag_ns.get(self.engine_index, 0)
            scheduled, first = _ns(stats.scheduled_ts) + lag, _ns(stats.first_token_ts) + lag
            last = _ns(stats.last_token_ts) + lag
            prompt, output = self.prompt_tokens, stats.num_generation_tokens
            queued = max(0, _ns(stats.scheduled_ts - stats.queued_ts)) if stats.queued_ts else 0
        ended_stats = self._ended[1] if self._ended is not None else None
        cached = getattr(ended_stats, "num_cached_tokens", 0) or getattr(self._state, "num_cached_tokens", 0) or 0
        scheduled_ns, first_ns, last_ns = ordered((max(0, scheduled), max(0, first), max(0, last)))
        return wire.sequence(
            scheduled_ns=scheduled_ns or 0,
            first_ns=first_ns,
            last_ns=last_ns or 0,
            prompt_tokens=prompt,
            cached_tokens=max(0, min(cached, prompt)),  # -1 before the scheduler has looked
            output_tokens=output,
            queued_ns=queued,
            preemptions=getattr(ended_stats, "num_preemptions", 0) or getattr(stats, "num_preemptions", 0) or 0,
        )


def entries(sequences: list[EngineSequence]) -> list[wire.Wire]:
    """The entries of a record; what are too many for one share some, so that the totals stay.

    Of embeddings neighbours do, which ran in the same steps or nearly. Sequences with output do not: two that had one
    token each would be taken for one that decoded. Of those the last entry is all that are too many.
    """
    made = [entry for each in sequences if (entry := each.entry()) is not None]
    count = len(made)
    if count <= MOST_ENTRIES:
        return made
    decoded = any(entry["output_tokens"] for entry in made)
    starts = [each if decoded else each * count // MOST_ENTRIES for each in range(MOST_ENTRIES)]
    return [_together(made[start:end]) for start, end in zip(starts, [*starts[1:], count], strict=True)]


def _together(made: list[wire.Wire]) -> wire.Wire:
    """One entry for several, from the first that was scheduled to the last that ended."""
    totals = {
        name: sum(entry[name] for entry in made)
        for name in ("prompt_tokens", "cached_tokens", "output_tokens", "preemptions")
    }
    moments = {name: min(entry[name] for entry in made) for name in ("scheduled_ns", "first_ns")}
    last_ns, queued_ns = (max(entry[name] for entry in made) for name in ("last_ns", "queued_ns"))
    return wire.sequence(**moments, **totals, last_ns=last_ns, queued_ns=queued_ns)


def _embeddings(position: Any) -> int:
    count = getattr(position, "get_num_embeds", None)
    return int(count() if callable(count) else position.length)


def watch(probe: Probe, client: Any, owner: Callable[[], list[EngineSequence] | None]) -> None:
    """Have the front end's output processor tell of every state it takes in; once a process.

    ``owner`` says, in the context of the call, whose list the sequence belongs in. The processor's own method
    always runs first and its result is what the engine gets.
    """
    if probe.watched is client:
        return
    probe.watched = client
    processor = client.output_processor
    add_request, states = processor.add_request, processor.request_states

    def add_and_tell(request: Any, *args: Any, **kwargs: Any) -> Any:
        result = add_request(request, *args, **kwargs)
        try:
            if probe.on and (mine := owner()) is not None:
                state = states.get(request.request_id)
                if state is not None and not any(each.is_of(state) for each in mine):
                    mine.append(EngineSequence.of_state(probe, states, state, request))
        except Exception as error:
            probe.failed("add_request", error)
        return result

    processor.add_request = add_and_tell
