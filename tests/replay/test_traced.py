"""Replayed requests have traces and estimates, as a probe in that engine would have given them."""

import json
from bisect import bisect_right
from itertools import pairwise

from tests.tracing.test_estimates import TEXT, costed

from farthing.collectors.wire import decode_line
from farthing.domain import conventions as c
from farthing.domain.records import Usage
from farthing.replay.recording import load_recording
from farthing.replay.traced import TracedRequests
from farthing.replay.wire_records import wire_records


def rows(recording):
    return [timed.record for timed in wire_records(recording, boot="b", engine="e")]


def test_each_request_has_a_trace_of_its_own_and_the_same_one_when_sent_again(recording):
    """Whatever else is sent stays as it was; intake takes what is added."""
    sent = rows(recording)
    first, second = TracedRequests(sent, "e"), TracedRequests(sent, "e")
    made, again = ([traced.of(row, {}) for row in sent] for traced in (first, second))
    assert made == again
    usages = [record for row in made if isinstance(record := decode_line(json.dumps(row).encode()), Usage)]
    assert len({usage.trace_id for usage in usages}) == len({usage.span_id for usage in usages}) == len(usages) > 800
    assert all(usage.sampled and not usage.span_sent and usage.estimate_nano is None for usage in usages)
    assert [row for row in made if row["kind"] != "usage"] == [row for row in sent if row["kind"] != "usage"]


def test_a_trace_that_was_recorded_stays(recordings):
    """Of a probe's own record."""
    (row, *_) = (row for row in rows(recordings[TEXT]) if row["kind"] == "usage")
    traced = {**row, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert TracedRequests([], "e").of(traced, {}) is traced


def test_estimates_are_those_of_a_probe_in_that_engine():
    """At the prices that intake has answered by then, by the steps that each request shared."""
    found, recording = costed(TEXT), load_recording(TEXT)
    assert all(before <= after for before, after in pairwise(found.told_ns))
    traced, estimates = TracedRequests(rows(recording), "e"), []
    for row in rows(recording):
        known = bisect_right(found.told_ns, row.get("ended_ns", 0) + found.to_mono_ns) - 1
        if row.get("outcome") == c.FINISHED and known >= 0 and found.prices[known]:
            estimates.append(traced.of(row, {"e": found.prices[known]})["estimate_nano"])
    assert len(estimates) > 800
    assert estimates == [estimate for estimate, _ in found.estimates()]
