"""The recent past: differences of cumulative snapshots, None where nothing can be known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exporters.snapshots import (
    ABORTS,
    PHASE_COST,
    START_NS,
    TOKENS,
    empty_snapshot,
    engine_view,
    histogram_view,
    snapshot,
)

from farthing.domain.clock import SECOND
from farthing.domain.conventions import METRIC_E2E
from farthing.domain.model import EngineGauges, Snapshot
from farthing.exporters.web.history import History, Latency, quantile


def observed(*snapshots: Snapshot, capacity: int = 10) -> History:
    history = History(capacity)
    for picture in snapshots:
        history.observe(picture)
    return history


@pytest.mark.parametrize(
    ("bounds", "counts", "q", "expected"),
    [
        ((1.0, 2.0, 4.0), (0, 10, 10, 10), 0.5, 1.5),
        ((1.0, 2.0, 4.0), (10, 10, 10, 10), 0.5, 0.5),
        ((1.0, 2.0, 4.0), (4, 8, 10, 10), 0.95, 3.5),
        ((1.0, 2.0, 4.0), (0, 0, 0, 10), 0.5, 4.0),
        ((0.0, 1.0), (5, 5, 5), 0.5, 0.0),
        ((1.0,), (0, 0), 0.5, None),
        ((), (3,), 0.5, None),
        ((), (), 0.5, None),
    ],
)
def test_quantiles_are_those_of_prometheus(bounds, counts, q, expected):
    """Linear within a bucket, from 0 in the first, the last bound beyond it, nothing of nothing."""
    assert quantile(bounds, counts, q) == expected


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0, 1))
def test_quantiles_lie_within_the_bounds_and_never_decrease(inside, q):
    """A quantile is between 0 and the last bound, and a higher one is not lower."""
    counts = [sum(inside[: i + 1]) for i in range(4)]
    value = quantile((0.1, 1.0, 5.0), counts, q)
    if sum(inside) == 0:
        assert value is None
        return
    top = quantile((0.1, 1.0, 5.0), counts, 1.0)
    assert value is not None
    assert top is not None
    assert 0 <= value <= top <= 5.0


def test_the_first_point_knows_gauges_but_no_rates_and_no_latency():
    """A single snapshot has no interval."""
    (point,) = observed(snapshot(1)).points()
    assert point.spend_nano_per_hour == 2_490_000_000
    assert (point.waiting, point.running, point.kv_usage) == (4, 37, 0.62)
    assert point.generation_tokens_per_second == 1_840.0
    assert point.ttft == point.tpot == Latency()
    assert point.unit_cost_nano_per_million == {"prefill": None, "decode": None, "vision": None}


def test_latency_covers_only_the_interval_between_points():
    """What came before the previous snapshot does not count."""
    history = observed(snapshot(1), snapshot(2), snapshot(4))
    _, second, third = history.points()
    assert second.ttft.count == 20
    assert second.ttft.p50 == pytest.approx(0.1 + 0.15 * 6 / 10)
    assert second.ttft.p95 == pytest.approx(1.0 + 1.5 * 1 / 2)
    assert third.tpot.count == 40


def test_tiers_and_models_are_added_up():
    """The fleet's quantile is that of all its requests, also where two histograms have different bounds."""
    coarse = replace(
        histogram_view(0, tier="batch"), bounds=(0.25, 2.5), counts=(0, 0, 0), exemplars=(None, None, None)
    )
    before = replace(snapshot(1), histograms=(histogram_view(0), coarse))
    after = replace(snapshot(2), histograms=(histogram_view(1), replace(coarse, counts=(20, 20, 20), sum_seconds=1.0)))
    point = observed(before, after).points()[-1]
    assert point.ttft.count == 40
    assert point.ttft.p50 == pytest.approx(0.25 * 20 / 34)


def test_an_interval_without_requests_has_no_latency():
    """No traffic is unknown latency, not 0 seconds."""
    quiet = replace(snapshot(2), histograms=snapshot(1).histograms)
    assert observed(snapshot(1), quiet).points()[-1].ttft == Latency()


def test_a_histogram_that_shrank_is_not_trusted():
    """Counts that went down, or bounds that changed, give no latency instead of a wrong one."""
    shrunk = replace(snapshot(3), histograms=snapshot(1).histograms)
    assert observed(snapshot(2), shrunk).points()[-1].ttft == Latency()
    other = replace(histogram_view(9), bounds=(0.06, 0.1, 0.25, 0.5, 1.0, 2.5))
    assert observed(snapshot(2), replace(snapshot(3), histograms=(other,))).points()[-1].ttft == Latency()


def test_a_histogram_that_appears_counts_from_zero():
    """The first requests of a model are the interval's requests."""
    first = replace(snapshot(1), histograms=())
    assert observed(first, replace(snapshot(2), histograms=(histogram_view(3),))).points()[-1].ttft.count == 60


def test_unit_costs_are_of_what_settled_in_the_last_minute():
    """Dollars and tokens are both differences, so an expensive night does not hide in the average."""
    late = snapshot(30)
    (engine,) = late.engines
    dearer = {key: nano + (10**12 if "decode" in key else 0) for key, nano in engine.accounts_nano.items()}
    late = replace(late, engines=(replace(engine, accounts_nano=dearer),))
    costs = observed(snapshot(1), snapshot(18), late).points()[-1].unit_cost_nano_per_million
    # Snapshot 18 is a minute before. The engine's tokens include aborted work, so its dollars count too.
    grown = 12 * (PHASE_COST["decode"] + sum(ABORTS.values())) + 2 * 10**12
    assert costs["decode"] == round(grown * 1_000_000 / (12 * TOKENS["output"]))
    assert costs["prefill"] == round(PHASE_COST["prefill"] * 1_000_000 / TOKENS["prompt_computed"])


def test_a_minute_without_settled_tokens_has_no_unit_cost():
    """Dollars over no tokens are not a price."""
    first = snapshot(1)
    later = replace(snapshot(2), engines=first.engines)
    assert set(observed(first, later).points()[-1].unit_cost_nano_per_million.values()) == {None}


def test_recent_latency_covers_the_last_minute():
    """Older snapshots leave the interval; before there are two, nothing is known."""
    history = History(100)
    assert history.recent().ttft == Latency()
    for step in range(1, 41):
        history.observe(snapshot(step))
    recent = history.recent()
    assert recent.seconds == 60.0
    assert recent.ttft.count == 12 * 20
    assert recent.tpot.p50 == pytest.approx(0.19)


def test_gauges_are_added_over_engines_and_unknown_ones_left_out():
    """Queues add up, the fullest cache counts, NaN and None are unknown."""
    silent = replace(engine_view(1, "silent"), gauges=EngineGauges(kv_usage=float("nan")), price_nano_per_hour=None)
    busy = replace(engine_view(1, "busy"), gauges=EngineGauges(waiting=2, running=3, kv_usage=0.9))
    (point,) = observed(replace(snapshot(1), engines=(engine_view(1), silent, busy))).points()
    assert (point.waiting, point.running, point.kv_usage) == (6, 40, 0.9)
    assert point.spend_nano_per_hour == 2 * 2_490_000_000
    (nothing,) = observed(empty_snapshot()).points()
    assert (nothing.waiting, nothing.kv_usage, nothing.spend_nano_per_hour) == (None, None, None)


def test_the_ring_forgets_the_oldest_and_ignores_the_same_moment():
    """Capacity bounds the points; a snapshot seen twice is one point."""
    history = observed(*(snapshot(step) for step in (1, 2, 2, 3, 4)), capacity=3)
    assert [point.at_ns for point in history.points()] == [START_NS + step * 5 * SECOND for step in (2, 3, 4)]
    assert [point.at_ns for point in history.points(START_NS + 15 * SECOND)] == [START_NS + 20 * SECOND]
    assert history.newest_ns == START_NS + 20 * SECOND


def test_points_keep_their_distance():
    """However often the ledger is costed, a point covers an interval with enough requests to speak of."""
    close = [replace(snapshot(step), taken_ns=START_NS + step * SECOND // 2) for step in range(9)]
    points = observed(*close).points()
    assert [(point.at_ns - START_NS) / SECOND for point in points] == [0, 2, 4]
    assert [point.ttft.count for point in points] == [0, 80, 80]


def test_a_ring_without_room_is_refused():
    """Capacity is at least one point."""
    with pytest.raises(ValueError, match="capacity"):
        History(0)


def test_only_latency_histograms_are_read():
    """Other metrics of the same snapshot do not leak into a quantile."""
    noise = replace(histogram_view(50), metric=METRIC_E2E)
    history = observed(snapshot(1), replace(snapshot(2), histograms=(*snapshot(2).histograms, noise)))
    assert history.points()[-1].ttft.count == history.points()[-1].tpot.count == 20
