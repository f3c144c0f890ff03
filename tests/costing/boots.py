"""Hypothesis strategies of whole boots: any marks, any requests, any states; nothing has to make sense."""

import itertools

from hypothesis import strategies as st

from farthing.costing.marks import COLUMNS
from farthing.domain.clock import Anchor
from farthing.domain.records import (
    EngineSequence,
    Lifecycle,
    Record,
    RecordKey,
    Started,
    StepBatch,
    StepMarks,
    Usage,
)

MS = 1_000_000
START = 17_000_000_000
WALL = 1_795_000_000_000_000_000

SMALL = 40
_COLUMNS = COLUMNS[1:]
"""All but the times."""
_LEAST, _HALF, _MOST = 2**38, 2**38 + 2**37, 2**39 - 1
"""Half of what is between them is more than the longest boot, in ns; numbers of one size are drawn evenly."""
_LENGTH_MS = 60_000

# Every strategy is made once, and bytes are one draw for many small numbers: to make strategies whose bounds hang on
# what was drawn before, and to draw each number by itself, took four fifths of the tests' time.
_moment = st.integers(_LEAST, _MOST)
_moments = st.lists(_moment, max_size=8)
_few_moments = st.lists(_moment, max_size=4)
_columns = [st.binary(min_size=count, max_size=count) for count in range(0, 8 * len(_COLUMNS) + 1, len(_COLUMNS))]
_prompt = st.integers(0, 10**6)
_sequence = st.tuples(_prompt, st.binary(min_size=3, max_size=3))
_usages = st.lists(
    st.tuples(_moment, _moment, _moment, _moment, st.binary(min_size=8, max_size=8), st.lists(_sequence, max_size=2)),
    max_size=6,
)
_events = st.lists(st.tuples(_moment, st.sampled_from(["ready", "asleep", "awake", "draining", "down"])), max_size=3)
_index = st.integers(0, 1)
_processes = st.integers(1, 2)
_length = st.integers(1, _LENGTH_MS)


def _within(moment, low, high):
    """The time within [low, high] that a drawn number stands for: the least is low, the largest is high."""
    span = high - low + 1
    return low + (moment - _LEAST) % span if moment <= _HALF else high - (_MOST - moment) % span


def _small(byte):
    return byte % (SMALL + 1)


def _small_or_none(byte):
    return None if byte < 128 else _small(byte)


def _marks(draw, begin_ns, end_ns):
    """Step marks within (begin, end], in order of time."""
    at = sorted(_within(moment, begin_ns + 1, end_ns) for moment in draw(_moments))
    drawn = [_small(byte) for byte in draw(_columns[len(at)])]
    columns = {name: tuple(drawn[i * len(at) : (i + 1) * len(at)]) for i, name in enumerate(_COLUMNS)}
    return StepMarks(at_ns=tuple(at), **columns)


def _usage(drawn, end_ns, process):
    """A request of any outcome, with any counts, whose times are in order; its sequence number is set later."""
    arrived, ended, first, last, rest, sequences = drawn
    arrived = _within(arrived, START, end_ns)
    ended = _within(ended, arrived, end_ns)
    index, outcome, tenant, started, *counts = rest
    first = _within(first, arrived, ended) if started % 2 else None
    last = None if first is None else _within(last, first, ended)
    prompt, image, output, delivered = (_small_or_none(byte) for byte in counts)
    return Usage(
        key=RecordKey("boot", process, 0),
        request_id="r",
        engine_index=index % 2,
        model="m",
        outcome=("finished", "aborted", "failed", "rejected")[outcome % 4],
        status=200,
        arrived_ns=arrived,
        ended_ns=ended,
        first_ns=first,
        last_ns=last,
        tenant=("a", "b", "unknown")[tenant % 3],
        prompt_tokens=prompt,
        image_tokens=image,
        output_tokens=output,
        delivered_tokens=delivered,
        sequences=tuple(
            EngineSequence(
                scheduled_ns=arrived,
                first_ns=first,
                last_ns=ended if last is None else last,
                prompt_tokens=tokens,
                cached_tokens=_small(cached),
                output_tokens=_small(produced),
                preemptions=preempted % 2,
            )
            for tokens, (cached, produced, preempted) in sequences
        ),
    )


@st.composite
def boots(draw):
    """The records of one boot, by process in the order of their sequences: (Started, [[records of process 0], …])."""
    processes = draw(_processes)
    end = START + draw(_length) * MS
    started = Started(
        key=RecordKey("boot", 0, 0),
        at_ns=START,
        anchor=Anchor(WALL, START),
        engine="e",
        kind="vllm",
        version="",
        model="m",
        gpu="X",
        gpu_count=1,
        processes=processes,
        ranks=2,
    )
    streams = []
    for process in range(processes):
        bounds = sorted({START, end, *(_within(moment, START, end) for moment in draw(_few_moments))})
        events: list[tuple[int, int, Record]] = []
        for begin, until in itertools.pairwise(bounds):
            opened = _within(draw(_moment), START, until)
            batch = _marks(draw, begin, until)
            key = RecordKey("boot", process, 0)
            events.append((until, 2, StepBatch(key, draw(_index), until, opened, batch)))
        usages = [_usage(drawn, end, process) for drawn in draw(_usages)]
        events += [(usage.ended_ns, 1, usage) for usage in usages]
        if process == 0:
            for moment, event in draw(_events):
                at = _within(moment, START, end)
                events.append((at, 0, Lifecycle(RecordKey("boot", 0, 0), at, event)))
        events.sort(key=lambda event: (event[0], event[1]))
        records: list[Record] = [record for _, _, record in events]
        records.append(Lifecycle(RecordKey("boot", process, 0), end, "stop"))
        if process == 0:
            records.insert(0, started)
        streams.append([_numbered(record, process, number) for number, record in enumerate(records)])
    return started, streams, end


def _numbered(record, process, number):
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return type(record)(**{**values, "key": RecordKey("boot", process, number)})
