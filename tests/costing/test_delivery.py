"""The identity under bad delivery: duplicated, reordered, missing and late records, restarts, replicas, clock steps."""

import os
import random
from collections import Counter
from dataclasses import fields, replace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.costing.boots import START, boots
from tests.costing.test_identity import _bill_of

from farthing.costing.stream import CostStream, Options
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.records import Lifecycle, RawRecord, RecordKey, Started, StepBatch, StepMarks, Usage, event_ns
from farthing.service.ordering import BootOrder

EXAMPLES = settings(
    max_examples=2_000 if os.environ.get("CI") else 200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
OPTIONS = Options(window_ns=5 * SECOND, grace_ns=5 * SECOND, horizon=50, warm_up=2, warm_up_ns=20 * SECOND)


def _raw(records):
    return [RawRecord(r.key, _kind(r), event_ns(r), str(i).encode()) for i, r in enumerate(records)]


def _kind(record):
    if isinstance(record, Usage):
        return "usage"
    return "lifecycle" if hasattr(record, "event") else "other"


def _deliver(records, arrivals):
    """The books of records that arrive in some order: the stream, its windows, its adjustments, what was fed."""
    started = records[0]
    order = BootOrder(OPTIONS.grace_ns)
    stream = CostStream(started, _bill_of([(1, 3_348_000_007)]), OPTIONS)
    windows, fed = [], []
    with patch("farthing.service.ordering.decode_line", lambda line: records[int(line)]):
        for raw in arrivals:
            order.add(raw)
            for record in order.ready():
                fed.append(record)
                windows += stream.feed(record)
        for record in order.ready(final=True):
            fed.append(record)
            windows += stream.feed(record)
    windows += stream.finish()
    return stream, windows, stream.adjustments, fed


def _book(windows, adjustments):
    lines: Counter[tuple[str, str, str]] = Counter()
    for source in (*windows, *adjustments):
        for posting in source.postings:
            lines[posting.account, posting.phase, posting.tenant] += posting.nano
    return lines


@EXAMPLES
@given(boots(), st.integers(0, 2**32), st.integers(0, 3), st.floats(0, 0.3))
def test_the_identity_holds_however_badly_records_are_delivered(boot, seed, twice, missing):
    """Every line stays >= 0 and their sum is the bill of what is known; tokens are those of the marks that came."""
    _, streams, _ = boot
    records = [record for stream in streams for record in stream]
    rng = random.Random(seed)  # noqa: S311 - seeded trials
    raw = _raw(records)
    kept = [raw[0]] + [r for r in raw[1:] if rng.random() >= missing]
    arrivals = kept + rng.choices(kept, k=twice)
    rng.shuffle(arrivals)
    stream, windows, adjustments, fed = _deliver(records, arrivals)
    lines = _book(windows, adjustments)
    assert min(lines.values(), default=0) >= 0
    assert sum(lines.values()) == sum(window.bill_nano for window in windows) == stream.billed_nano
    assert all(sum(posting.nano for posting in adjustment.postings) == 0 for adjustment in adjustments)
    for window in windows:
        assert all(posting.nano >= 0 for posting in window.postings)
        assert sum(posting.nano for posting in window.postings) == window.bill_nano
    assert len(fed) == len({record.key for record in fed})
    batches = [record for record in fed if isinstance(record, StepBatch)]
    for kind, column in (("prompt_computed",) * 2, ("prompt_cached",) * 2, ("engine_output", "generated")):
        assert sum(w.tokens[kind] for w in windows) == sum(sum(getattr(b.marks, column)) for b in batches)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2]])
def test_what_is_told_at_the_very_end_of_a_boot_is_counted(order):
    """Also where the end lies on a line between windows, which marks lie after."""
    end = 15 * SECOND
    started = Started(RecordKey("b", 0, 0), 0, Anchor(0, 0), "e", "vllm", "", "m", "X", 1)
    columns = [field.name for field in fields(StepMarks)]
    nothing = StepMarks(**dict.fromkeys(columns, ()))
    token = StepMarks(**{**dict.fromkeys(columns, (0,)), "at_ns": (end,), "prompt_cached": (1,)})
    records = [
        started,
        StepBatch(RecordKey("b", 0, 1), engine_index=0, until_ns=end - 1, open_ns=0, marks=nothing),
        StepBatch(RecordKey("b", 0, 2), engine_index=0, until_ns=end, open_ns=0, marks=token),
        Lifecycle(RecordKey("b", 0, 3), end, "stop"),
    ]
    raw = _raw(records)
    _, windows, _, _ = _deliver(records, [raw[number] for number in order])
    assert sum(window.tokens["prompt_cached"] for window in windows) == 1
    assert windows[-1].end_ns == end


@EXAMPLES
@given(boots(), st.integers(0, 2**32))
def test_the_order_of_arrival_changes_nothing_while_nothing_is_given_up(boot, seed):
    """Reordered and duplicated within the grace period, the same records give the same windows."""
    _, streams, _ = boot
    records = [record for stream in streams for record in stream]
    raw = _raw(records)
    # a record that is given up for lost after five seconds cannot be waited for: here nothing is
    with patch("tests.costing.test_delivery.OPTIONS", replace(OPTIONS, grace_ns=10**15)):
        _, plain, moved, _ = _deliver(records, raw)
        # with its last record a process says that no other is still to come
        last = {r.key.process: r for r in raw}
        others = [r for r in raw if r is not last[r.key.process]]
        shuffled = others + others[: len(others) // 2]
        random.Random(seed).shuffle(shuffled)  # noqa: S311 - seeded trials
        shuffled += last.values()
        _, again, adjustments, _ = _deliver(records, shuffled)
    assert plain == again
    # a sender that breaks its promise of ``open_ns`` makes records late, in every order alike
    assert moved == adjustments


@EXAMPLES
@given(boots(), st.integers(-(10**18), 10**17))
def test_a_step_of_the_wall_clock_moves_the_bill_and_nothing_else(boot, step):
    """The anchor alone knows the wall clock: who pays which share of the time does not depend on it."""
    started, streams, _ = boot
    records = [record for stream in streams for record in stream]
    _, windows, _, _ = _deliver(records, _raw(records))
    moved = replace(started, anchor=Anchor(started.anchor.wall_ns + step, START))
    _, again, _, _ = _deliver([moved, *records[1:]], _raw([moved, *records[1:]]))
    assert [(w.start_ns, w.end_ns, w.busy_ns, w.phase_ns) for w in windows] == [
        (w.start_ns, w.end_ns, w.busy_ns, w.phase_ns) for w in again
    ]


@EXAMPLES
@given(st.lists(boots(), min_size=2, max_size=3), st.integers(0, 2**32))
def test_replicas_and_restarts_are_books_of_their_own(several, seed):
    """Each boot's lines add up to its bill; together they are the fleet's, whatever order their records mix in."""
    total, bills = 0, 0
    for number, (_, streams, _) in enumerate(several):
        records = [record for stream in streams for record in stream]
        arrivals = _raw(records)
        random.Random(seed + number).shuffle(arrivals)  # noqa: S311 - seeded trials
        stream, windows, adjustments, _ = _deliver(records, arrivals)
        total += sum(_book(windows, adjustments).values())
        bills += stream.billed_nano
    assert total == bills
