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
small = st.integers(0, SMALL)
_COLUMNS = COLUMNS[1:]
"""All but the times."""


@st.composite
def marks(draw, begin_ns, end_ns):
    """Step marks within (begin, end], in order of time."""
    at = sorted(draw(st.lists(st.integers(begin_ns + 1, end_ns), max_size=8)))
    # bytes are one draw for all columns: a draw for each number took half of the tests' time
    count = len(at) * len(_COLUMNS)
    drawn = [byte % (SMALL + 1) for byte in draw(st.binary(min_size=count, max_size=count))]
    columns = {name: tuple(drawn[i * len(at) : (i + 1) * len(at)]) for i, name in enumerate(_COLUMNS)}
    return StepMarks(at_ns=tuple(at), **columns)


@st.composite
def usages(draw, end_ns, process):
    """A request of any outcome, with any counts, whose times are in order; its sequence number is set later."""
    arrived = draw(st.integers(START, end_ns))
    ended = draw(st.integers(arrived, end_ns))
    first = draw(st.none() | st.integers(arrived, ended))
    last = None if first is None else draw(st.integers(first, ended))
    sequences = tuple(
        EngineSequence(
            scheduled_ns=arrived,
            first_ns=first,
            last_ns=ended if last is None else last,
            prompt_tokens=draw(st.integers(0, 10**6)),
            cached_tokens=draw(small),
            output_tokens=draw(small),
            preemptions=draw(st.integers(0, 1)),
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    return Usage(
        key=RecordKey("boot", process, 0),
        request_id="r",
        engine_index=draw(st.integers(0, 1)),
        model="m",
        outcome=draw(st.sampled_from(["finished", "aborted", "failed", "rejected"])),
        status=200,
        arrived_ns=arrived,
        ended_ns=ended,
        first_ns=first,
        last_ns=last,
        tenant=draw(st.sampled_from(["a", "b", "unknown"])),
        prompt_tokens=draw(st.none() | small),
        image_tokens=draw(st.none() | small),
        output_tokens=draw(st.none() | small),
        delivered_tokens=draw(st.none() | small),
        sequences=sequences,
    )


@st.composite
def boots(draw):
    """The records of one boot, by process in the order of their sequences: (Started, [[records of process 0], …])."""
    processes = draw(st.integers(1, 2))
    length = draw(st.integers(1, 60_000)) * MS
    end = START + length
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
        bounds = sorted({START, end, *draw(st.lists(st.integers(START, end), max_size=4))})
        events: list[tuple[int, int, Record]] = []
        for begin, until in itertools.pairwise(bounds):
            opened = draw(st.integers(START, until))
            batch = draw(marks(begin, until))
            key = RecordKey("boot", process, 0)
            events.append((until, 2, StepBatch(key, draw(st.integers(0, 1)), until, opened, batch)))
        events += [(usage.ended_ns, 1, usage) for usage in draw(st.lists(usages(end, process), max_size=6))]
        if process == 0:
            for at in draw(st.lists(st.integers(START, end), max_size=3)):
                event = draw(st.sampled_from(["ready", "asleep", "awake", "draining", "down"]))
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
