"""Hypothesis strategies: a record as the probe builds it, beside the domain record that it must decode to."""

from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

from hypothesis import strategies as st

from farthing.domain.clock import Anchor
from farthing.domain.conventions import OUTCOMES
from farthing.domain.records import (
    Counters,
    EngineSequence,
    GpuSamples,
    Lifecycle,
    Record,
    RecordKey,
    Started,
    StepBatch,
    StepMarks,
    Usage,
)
from farthing_probe import wire

__all__ = ["Pair", "pairs"]

COUNTS = st.integers(0, 2**31 - 1)
TIMES = st.integers(0, 2**60)
GAPS = st.integers(0, 2**40)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=32)
TEXTS = st.just("") | NAMES
SPANS = st.integers(1, 2**64 - 1)


@dataclass(frozen=True)
class Pair:
    """One record, both ways."""

    wire: dict[str, Any]
    record: Record


def _keys() -> st.SearchStrategy[RecordKey]:
    return st.builds(RecordKey, NAMES, COUNTS, st.integers(0, 2**62))


def _head(key: RecordKey) -> tuple[str, int, int]:
    return key.boot, key.process, key.sequence


def _column(size: int) -> st.SearchStrategy[list[int]]:
    return st.just([0] * size) | st.lists(COUNTS, min_size=size, max_size=size)


def _moments(draw: st.DrawFn, size: int) -> list[int]:
    return list(accumulate(draw(st.lists(GAPS, min_size=size, max_size=size)), initial=draw(TIMES)))[1:]


@st.composite
def _started(draw: st.DrawFn) -> Pair:
    key, at_ns, wall_ns = draw(_keys()), draw(TIMES), draw(TIMES)
    shared: dict[str, Any] = {
        "at_ns": at_ns,
        "engine": draw(NAMES),
        "version": draw(TEXTS),
        "model": draw(NAMES),
        "gpu": draw(TEXTS),
        "gpu_count": draw(st.integers(1, 16)),
        "gpu_uuids": tuple(draw(st.lists(NAMES, max_size=3))),
        "details": draw(st.booleans()),
        "processes": draw(st.integers(1, 8)),
        "ranks": draw(st.integers(1, 8)),
    }
    kind = draw(NAMES)
    return Pair(
        wire.started(*_head(key), wall_ns=wall_ns, engine_kind=kind, **shared),
        Started(key=key, anchor=Anchor(wall_ns, at_ns), kind=kind, **shared),
    )


@st.composite
def _lifecycle(draw: st.DrawFn) -> Pair:
    key, at_ns, event = draw(_keys()), draw(TIMES), draw(st.sampled_from(wire.EVENTS))
    return Pair(wire.lifecycle(*_head(key), at_ns=at_ns, event=event), Lifecycle(key, at_ns, event))


@st.composite
def _steps(draw: st.DrawFn) -> Pair:
    key, size = draw(_keys()), draw(st.integers(0, 6))
    columns = {field.name: draw(_column(size)) for field in fields(StepMarks)}
    columns["at_ns"] = _moments(draw, size)
    until_ns = (columns["at_ns"] or [draw(TIMES)])[-1] + draw(GAPS)
    shared: dict[str, Any] = {
        "engine_index": draw(COUNTS),
        "until_ns": until_ns,
        "open_ns": draw(st.integers(0, until_ns)),
    }
    marks = StepMarks(**{name: tuple(values) for name, values in columns.items()})
    return Pair(wire.steps(*_head(key), columns=columns, **shared), StepBatch(key=key, marks=marks, **shared))


@st.composite
def _sequence(draw: st.DrawFn) -> EngineSequence:
    scheduled, first, last = _moments(draw, 3)
    prompt = draw(COUNTS)
    return EngineSequence(
        scheduled_ns=scheduled,
        first_ns=draw(st.sampled_from([None, first])),
        last_ns=last,
        prompt_tokens=prompt,
        cached_tokens=draw(st.integers(0, prompt)),
        output_tokens=draw(COUNTS),
        queued_ns=draw(GAPS),
        preemptions=draw(COUNTS),
    )


@st.composite
def _traced(draw: st.DrawFn) -> dict[str, Any]:
    """The fields of a request within a trace."""
    return {
        "trace_id": f"{draw(st.integers(1, 2**128 - 1)):032x}",
        "span_id": f"{draw(SPANS):016x}",
        "parent_span_id": draw(st.just("") | SPANS.map("{:016x}".format)),
        "sampled": draw(st.booleans()),
        "span_sent": draw(st.booleans()),
        "estimate_nano": draw(st.none() | TIMES),
        "key_pseudonym": draw(st.just("") | SPANS.map("{:016x}".format)),
    }


@st.composite
def _usage(draw: st.DrawFn) -> Pair:
    key = draw(_keys())
    arrived, first, last, ended = _moments(draw, 4)
    prompt = draw(st.none() | COUNTS)
    part = st.none() | st.integers(0, 2**31 - 1 if prompt is None else prompt)
    sequences = draw(st.lists(_sequence(), max_size=3))
    optional: dict[str, Any] = {
        "first_ns": draw(st.sampled_from([None, first])),
        "last_ns": draw(st.sampled_from([None, last])),
        "prompt_tokens": prompt,
        "cached_tokens": draw(part),
        "image_tokens": draw(part),
        "output_tokens": draw(st.none() | COUNTS),
        "delivered_tokens": draw(st.none() | COUNTS),
    }
    texts: dict[str, Any] = {
        name: draw(TEXTS) for name in ("route", "finish_reason", "project", "workload", "user", "trace_id")
    }
    traced: dict[str, Any] = draw(st.just({}) | _traced())
    named: dict[str, Any] = {name: draw(TEXTS) for name in ("model", "tenant", "tier")}
    shared: dict[str, Any] = {
        "request_id": draw(TEXTS),
        "engine_index": draw(COUNTS),
        "outcome": draw(st.sampled_from(OUTCOMES)),
        "status": draw(st.sampled_from([200, 401, 429, 499, 500])),
        "arrived_ns": arrived,
        "ended_ns": ended,
        "seen_by": draw(st.sampled_from(["both", "client", "engine"])),
    }
    entries = [
        wire.sequence(**{field.name: getattr(sequence, field.name) for field in fields(sequence)})
        for sequence in sequences
    ]
    return Pair(
        wire.usage(
            key.boot, key.process, key.sequence, sequences=entries, **{**shared, **optional, **texts, **named, **traced}
        ),
        Usage(
            key=key,
            sequences=tuple(sequences),
            **shared,
            **optional,
            **{**texts, **traced},
            # What names none is work of the unknown, never of an empty name.
            **dict[str, Any]({name: value or "unknown" for name, value in named.items()}),
        ),
    )


@st.composite
def _gpu(draw: st.DrawFn) -> Pair:
    key, index, size = draw(_keys()), draw(COUNTS), draw(st.integers(1, 5))
    columns = {name: draw(_column(size)) for name in wire.GPU_COLUMNS}
    columns["at_ns"] = _moments(draw, size)
    return Pair(
        wire.gpu_samples(*_head(key), gpu_index=index, columns=columns),
        GpuSamples(key=key, gpu_index=index, **{name: tuple(values) for name, values in columns.items()}),
    )


@st.composite
def _counters(draw: st.DrawFn) -> Pair:
    key, at_ns = draw(_keys()), draw(TIMES)
    values = draw(st.dictionaries(NAMES, TIMES, max_size=4))
    gauges = draw(st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=4))
    return Pair(
        wire.counters(*_head(key), at_ns=at_ns, values=values, gauges=gauges), Counters(key, at_ns, values, gauges)
    )


def pairs() -> st.SearchStrategy[Pair]:
    """Any valid record of any kind."""
    return st.one_of(_started(), _lifecycle(), _steps(), _usage(), _gpu(), _counters())
