"""The promise, for anything that can be sent: every line >= 0, and all of them add up to the bill."""

import os
from collections import Counter
from datetime import date

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.costing.boots import START, WALL, boots

from farthing.books.prices import GpuPrice, PriceBook
from farthing.costing.stream import CostStream, Options
from farthing.domain.clock import SECOND
from farthing.domain.records import StepBatch, Usage

EXAMPLES = settings(
    max_examples=2_000 if os.environ.get("CI") else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
OPTIONS = Options(window_ns=5 * SECOND, grace_ns=20 * SECOND, horizon=50)


def _bill_of(prices):
    tariff = PriceBook([GpuPrice("X", nano, date(2026, 11, day), "t") for day, nano in prices]).tariff("X", 1)
    return lambda a, b: tariff.bill(WALL + a - START, WALL + b - START)


def _windows(started, streams, bill):
    """Windows of records merged by event time between processes, as the service orders them."""
    stream = CostStream(started, bill, OPTIONS)
    found = []
    for record in streams:
        found += stream.feed(record)
    return stream, found + stream.finish()


def _merged(streams):
    def moment(record):
        return getattr(record, "until_ns", None) or getattr(record, "ended_ns", None) or record.at_ns

    order = [(moment(r), r.key.process, r.key.sequence, r) for records in streams for r in records]
    # the order of a process is that of its sequences, whatever its clock said
    highest: dict[int, int] = {}
    keyed = []
    for at, process, sequence, record in sorted(order, key=lambda item: (item[1], item[2])):
        highest[process] = max(highest.get(process, 0), at)
        keyed.append((highest[process], process, sequence, record))
    return [record for *_, record in sorted(keyed, key=lambda item: item[:3])]


prices = st.lists(
    st.tuples(st.integers(1, 28), st.integers(1, 10**13)), min_size=1, max_size=3, unique_by=lambda p: p[0]
)


@EXAMPLES
@given(boots(), prices)
def test_every_window_splits_into_lines_that_add_up_and_none_is_negative(boot, price):
    """Bill = charged + aborted + starting + idle + asleep + down + unattributed, window by window."""
    started, streams, end = boot
    bill = _bill_of([(1, 1), *((day, nano) for day, nano in price if day > 1)])
    stream, windows = _windows(started, _merged(streams), bill)
    assert sum(stream.provisional().values()) == 0
    assert sum(window.bill_nano for window in windows) == bill(START, end)
    for index in range(started.ranks):
        mine = [window for window in windows if window.engine_index == index]
        assert [w.start_ns for w in mine] == [START, *(w.end_ns for w in mine[:-1])]
        assert mine[-1].end_ns == end
        assert all(w.bill_nano >= 0 for w in mine)
    for window in windows:
        assert sum(posting.nano for posting in window.postings) == window.bill_nano
        assert all(posting.nano >= 0 for posting in window.postings)
        assert 0 <= window.busy_ns <= window.end_ns - window.start_ns
        assert sum(window.phase_ns.values()) in (0, window.busy_ns)
        shares: Counter[str] = Counter()
        for request in window.requests:
            shares.update(request.cost_nano)
        for phase, nano in shares.items():
            assert nano == sum(
                p.nano
                for p in window.postings
                if p.phase == phase and p.reason != "lost_record" and p.account != "idle"
            )


@EXAMPLES
@given(boots(), st.integers(0, 2**12 - 1))
def test_a_lost_record_changes_who_pays_but_not_the_sum(boot, lost):
    """Without some usage records the windows' bills stay, and every line stays >= 0."""
    started, streams, _ = boot
    bill = _bill_of([(1, 3_348_000_000)])
    records = _merged(streams)
    requests = [record.key for record in records if isinstance(record, Usage)]
    assert len(requests) <= 12
    gone = {key for number, key in enumerate(requests) if lost >> number & 1}
    kept = [record for record in records if record.key not in gone]
    _, whole = _windows(started, records, bill)
    _, less = _windows(started, kept, bill)
    assert sum(w.bill_nano for w in less) <= sum(w.bill_nano for w in whole)
    assert all(p.nano >= 0 for w in less for p in w.postings)
    assert all(sum(p.nano for p in w.postings) == w.bill_nano for w in less)


@EXAMPLES
@given(boots())
def test_the_engines_tokens_are_counted_once_whatever_the_windows(boot):
    """Tokens of all windows are the tokens of all marks, per kind."""
    started, streams, _ = boot
    records = _merged(streams)
    _, windows = _windows(started, records, _bill_of([(1, 1)]))
    for kind, column in (("prompt_computed",) * 2, ("prompt_cached",) * 2, ("engine_output", "generated")):
        expected = sum(sum(getattr(r.marks, column)) for r in records if isinstance(r, StepBatch))
        assert sum(w.tokens[kind] for w in windows) == expected
