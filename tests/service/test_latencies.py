"""Latencies: every request is counted once, by how it ended, and within each bound as its client timed it."""

from collections import Counter
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.books import accountant, raw_records

from farthing.collectors.wire import decode_line
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.records import EngineSequence, RecordKey, Usage
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.latency import MOST_TIERS, TTFT_BOUNDS, Latencies
from farthing.settings import Settings
from farthing.settings_slo import SloSettings

ANCHOR = Anchor(0, 0)
MODEL = "llama-8b"
STATUSES = (200, 400, 401, 404, 422, 429, 499, 500, 502, 503)


@pytest.fixture(scope="module")
def recording():
    """The 8B recording: 2,407 requests finished, 55 were aborted, 2 cut off."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture(scope="module")
def raw(recording):
    """Its records as intake stores them."""
    return raw_records(recording)


@pytest.fixture(scope="module")
def usages(raw):
    """Its requests."""
    return [record for record in (decode_line(one.line) for one in raw) if isinstance(record, Usage)]


def observed(usages, *slos):
    """Latencies that have seen all of them."""
    latencies = Latencies(slos)
    for usage in usages:
        latencies.observe(usage, ANCHOR)
    return latencies


def within(latencies, metric, bound):
    """Observations up to a bound, of all models and tiers."""
    return sum(v.counts[v.bounds.index(bound)] for v in latencies.views() if v.metric == metric)


def of_all(latencies, metric):
    return sum(view.counts[-1] for view in latencies.views() if view.metric == metric)


def usage(**fields: Any) -> Usage:
    """A request that finished after 3 s, its first token after 0.3 s, its hundredth after 2.28 s."""
    known: dict[str, Any] = {
        "key": RecordKey("b", 0, 0),
        "request_id": "r",
        "engine_index": 0,
        "model": MODEL,
        "outcome": c.FINISHED,
        "status": 200,
        "arrived_ns": 0,
        "ended_ns": 3 * SECOND,
        "first_ns": 3 * SECOND // 10,
        "last_ns": 228 * SECOND // 100,
        "output_tokens": 100,
        "tenant": "acme",
        "tier": "interactive",
    }
    return Usage(**{**known, **fields})


@pytest.mark.parametrize("bound", [0.04, 0.0623, 0.5])
def test_good_requests_are_those_that_their_clients_timed_within_the_bound(recording, usages, bound):
    """A bound that is no bucket by itself becomes one, so no request is interpolated."""
    latencies = observed(usages, SloSettings(name="x", signal="ttft", bound_seconds=bound))
    timed = [float(row["first"] - row["t0"]) for row in recording.requests if row["first"] is not None]
    assert within(latencies, c.METRIC_TTFT, bound) == sum(seconds <= bound for seconds in timed)
    assert of_all(latencies, c.METRIC_TTFT) == len(timed)
    assert within(latencies, c.METRIC_TTFT, bound) > 0


def test_every_request_of_the_recording_is_counted_once_by_how_it_ended(recording, usages):
    """As the load generator saw them end."""
    counted: Counter[str] = Counter()
    for (_, _, outcome), number in observed(usages).requests().items():
        counted[outcome] += number
    early = [row for row in recording.requests if row["err"] and row["first"] is None]
    assert counted[c.FINISHED] == 2407
    assert counted[c.ABORTED] + counted[c.ABORTED_EARLY] == 55
    assert counted[c.FAILED] + counted[c.FAILED_EARLY] == 2
    assert counted[c.ABORTED_EARLY] + counted[c.FAILED_EARLY] == len(early)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, c.FINISHED),
        ({"outcome": c.ABORTED, "status": 499}, c.ABORTED),
        ({"outcome": c.ABORTED, "status": 499, "first_ns": None, "last_ns": None}, c.ABORTED_EARLY),
        ({"outcome": c.FAILED, "status": 500}, c.FAILED),
        ({"outcome": c.FAILED, "status": 503, "first_ns": None, "last_ns": None}, c.FAILED_EARLY),
        ({"outcome": c.REJECTED, "status": 429, "first_ns": None, "last_ns": None}, c.REJECTED),
        ({"outcome": c.REJECTED, "status": 503, "first_ns": None, "last_ns": None}, c.REJECTED),
        ({"outcome": c.REJECTED, "status": 422, "first_ns": None, "last_ns": None}, c.INVALID),
    ],
)
def test_a_request_is_counted_under_what_became_of_it(fields, outcome):
    """Overload and failure count against a promise, a request that was wrong in itself does not."""
    counted = observed([usage(**fields, tier=c.UNKNOWN)]).requests()
    assert {key[2] for key, number in counted.items() if number} == {outcome}
    assert set(counted) == {(MODEL, c.UNKNOWN, each) for each in c.REQUEST_OUTCOMES}


@given(
    st.lists(
        st.builds(
            lambda outcome, status, first, queued: usage(
                outcome=outcome,
                status=status,
                first_ns=first,
                sequences=() if queued is None else (EngineSequence(0, first, SECOND, 9, 0, 100, queued),),
            ),
            st.sampled_from(c.OUTCOMES),
            st.sampled_from(STATUSES),
            st.none() | st.integers(0, 2 * SECOND),
            st.none() | st.integers(0, 3 * SECOND),
        )
    )
)
def test_no_request_is_measured_and_counted_as_never_served_too(usages):
    """What a histogram holds and what UNSERVED adds to it must not overlap, or the denominator is too large."""
    for one in usages:
        latencies = observed([one])
        (outcome,) = [key[2] for key, number in latencies.requests().items() if number]
        for metric, signal in (
            (c.METRIC_TTFT, c.SLO_TTFT),
            (c.METRIC_E2E, c.SLO_E2E),
            (c.METRIC_TPOT, c.SLO_ITL),
            (c.METRIC_QUEUE, c.SLO_QUEUE),
        ):
            assert not (of_all(latencies, metric) and outcome in c.UNSERVED[signal])


def test_everything_of_a_model_and_tier_appears_with_its_first_request():
    """A sum over series of which one comes later is wrong until then, and a rate misses its first request."""
    latencies = observed([usage(outcome=c.REJECTED, status=429, first_ns=None, last_ns=None)])
    assert {view.metric for view in latencies.views()} == {c.METRIC_TTFT, c.METRIC_TPOT, c.METRIC_E2E, c.METRIC_QUEUE}
    assert sum(of_all(latencies, view.metric) for view in latencies.views()) == 0


def test_an_answer_that_came_at_once_has_no_time_between_its_tokens():
    """It was not streamed: 0 s would count as the best of all streams."""
    assert of_all(observed([usage(last_ns=3 * SECOND // 10)]), c.METRIC_TPOT) == 0
    assert of_all(observed([usage()]), c.METRIC_TPOT) == 1


def test_only_bounds_of_requests_become_buckets():
    """An engine's histogram has its own."""
    latencies = observed([usage()], SloSettings(name="x", signal="ttft", bound_seconds=0.75, source="engine"))
    (bounds,) = [view.bounds for view in latencies.views() if view.metric == c.METRIC_TTFT]
    assert bounds == TTFT_BOUNDS


@pytest.mark.parametrize(
    ("slo", "fields", "good", "bad"),
    [
        ({"signal": "e2e", "bound_seconds": 3}, {}, 1, 0),
        ({"signal": "e2e", "bound_seconds": 2.9}, {}, 0, 1),
        ({"signal": "itl", "bound_seconds": 0.02}, {}, 1, 0),
        ({"signal": "ttft", "bound_seconds": 0.2}, {}, 0, 1),
        ({"signal": "ttft", "bound_seconds": 0.5}, {"outcome": c.FAILED, "status": 503, "first_ns": None}, 0, 1),
        ({"signal": "ttft", "bound_seconds": 0.5}, {"outcome": c.REJECTED, "status": 404, "first_ns": None}, 0, 0),
        ({"signal": "e2e", "bound_seconds": 5}, {"outcome": c.ABORTED, "status": 499}, 0, 0),
        ({"signal": "availability"}, {"outcome": c.ABORTED, "status": 499}, 1, 0),
        ({"signal": "availability"}, {"outcome": c.REJECTED, "status": 429, "first_ns": None}, 0, 1),
        ({"signal": "availability"}, {"outcome": c.REJECTED, "status": 400, "first_ns": None}, 0, 0),
        ({"signal": "e2e", "bound_seconds": 3, "tier": "batch"}, {}, 0, 0),
        ({"signal": "e2e", "bound_seconds": 3, "model": "another"}, {}, 0, 0),
    ],
)
def test_a_tenants_promise_is_counted_request_by_request(slo, fields, good, bad):
    """Histograms have no tenant, so each of a tenant's requests is judged as it ends."""
    latencies = observed([usage(**fields)], SloSettings.model_validate({"name": "x", "tenant": "acme", **slo}))
    found = latencies.slo_requests()
    assert (found.get(("x", MODEL, c.GOOD), 0), found.get(("x", MODEL, c.BAD), 0)) == (good, bad)


def test_another_tenants_requests_do_not_count():
    """Nor do those of nobody."""
    slo = SloSettings(name="x", tenant="globex", signal="ttft", bound_seconds=1)
    assert observed([usage()], slo).slo_requests() == {}


def test_a_restart_counts_no_request_a_second_time(raw, tmp_path):
    """An open boot's records are all read again: they would burn the error budget of a month within a minute."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    half = len(raw) // 2
    first = accountant(ledger, Settings())
    ledger.add(raw[:half])
    first.advance()
    before = sum(first.snapshot().requests.values())
    second = accountant(ledger, Settings())
    ledger.add(raw[half:])
    second.advance()
    after = sum(second.snapshot().requests.values())
    ledger.close()
    assert 0 < before < 2464
    assert before + after == 2464


def traces_of(*trace_ids):
    """The exemplar of the one bucket that requests with these traces, one after the other, fall into."""
    latencies = observed(
        [usage(request_id=f"r{number}", trace_id=one, sampled=True) for number, one in enumerate(trace_ids)]
    )
    (view,) = [view for view in latencies.views() if view.metric == c.METRIC_TTFT]
    (exemplar,) = [one for one in view.exemplars if one is not None]
    return exemplar[0]


def test_a_bucket_keeps_its_latest_trace_when_requests_without_one_follow():
    """Of sampled traces few requests have one: the others must not take away what can be opened."""
    first, second = "a" * 32, "b" * 32
    assert traces_of(first, "") == {"trace_id": first}
    assert traces_of(first, "", second, "", "") == {"trace_id": second}
    assert traces_of("", "") == {"request_id": "r1"}
    assert traces_of("", first) == {"trace_id": first}


@pytest.mark.parametrize(
    "fields",
    [{"trace_id": "a" * 32}, {"trace_id": "0" * 32, "sampled": True}, {"trace_id": "A" * 32, "sampled": True}],
)
def test_a_trace_that_nobody_keeps_is_not_linked(fields):
    """One that is not sampled cannot be opened, nor one whose id is none: the request's own id leads to its cost."""
    latencies = observed([usage(request_id="r1", **fields)])
    assert [one[0] for v in latencies.views() for one in v.exemplars if one] == [{"request_id": "r1"}] * 3


def test_a_tenants_counts_are_those_of_its_own_requests(usages):
    """In the buckets of everybody's histogram; all tenants' together are it, and who is not asked for is not told."""
    renamed = [replace(usage, tenant=usage.workload) for usage in usages]
    latencies = observed(renamed)
    tenants = {usage.tenant for usage in renamed}
    assert len(tenants) > 3
    counts = latencies.of_tenants(tenants)
    for metric in (c.METRIC_TTFT, c.METRIC_TPOT):
        (view,) = [view for view in latencies.views() if view.metric == metric]
        together = [sum(column) for column in zip(*(counts[tenant, metric] for tenant in tenants), strict=True)]
        assert tuple(accumulate(together)) == view.counts
    one = next(iter(tenants))
    assert latencies.of_tenants([one]) == observed([u for u in renamed if u.tenant == one]).of_tenants([one])
    assert latencies.of_tenants(["nobody"]) == {}


def test_tiers_that_clients_think_up_share_series_and_no_request_is_lost(usages):
    """A tier is a header: a new one with each request must not be new histograms with each. Promises keep theirs."""
    promised = SloSettings(name="gold", signal=c.SLO_TTFT, bound_seconds=0.5, tier="gold", objective=0.9)
    own = [f"t{number}" for number in range(MOST_TIERS)]
    tiers = [*own, *(f"x{number}" for number in range(1_000)), c.OTHER, c.UNKNOWN, "gold"]
    latencies = Latencies([promised])
    for number, tier in enumerate(tiers * 2):
        latencies.observe(replace(usages[number], tier=tier, outcome=c.FINISHED), ANCHOR)
    counted: Counter[str] = Counter()
    for (_, tier, _), count in latencies.requests().items():
        counted[tier] += count
    assert counted == {**dict.fromkeys([*own, c.UNKNOWN, "gold"], 2), c.OTHER: 2 * 1_001}
    assert {view.tier for view in latencies.views()} == counted.keys()


def test_requests_that_were_wrong_in_themselves_take_no_tier_its_series(usages):
    """Each is answered 404 and costs its sender nothing; they are counted, under the tier that they share."""
    latencies = Latencies([])
    for number in range(MOST_TIERS):
        latencies.observe(usage(tier=f"x{number}", outcome=c.REJECTED, status=404, first_ns=None), ANCHOR)
    latencies.observe(replace(usages[0], tier="gold", outcome=c.FINISHED), ANCHOR)
    counted = {(tier, outcome): count for (_, tier, outcome), count in latencies.requests().items() if count}
    assert counted == {(c.OTHER, c.INVALID): MOST_TIERS, ("gold", c.FINISHED): 1}
