"""The past of watched tenants: rates and quantiles of their own work, together or alone."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exporters.snapshots import CHARGES, START_NS, snapshot, tenant_views

from farthing.domain.clock import HOUR, SECOND
from farthing.domain.conventions import METRIC_TPOT, METRIC_TTFT
from farthing.exporters.web.tenant_history import TenantHistory

BOUNDS = {METRIC_TTFT: (0.1, 0.2, 0.4), METRIC_TPOT: (0.01, 0.02)}
PER_STEP = {name: sum(cost.values()) for name, cost in CHARGES.items()}
PER_STEP["acme-search"] += 12_000_000
PER_STEP["globex"] += 31_000_000


class Latencies:
    """Counts by bucket that a test sets."""

    def __init__(self):
        self.counts = {}

    def __call__(self, tenants):
        return {key: counts for key, counts in self.counts.items() if key[0] in tenants}


def history_of(*tenants, steps=range(1, 14), latencies=None, **options):
    """The history of tenants that are watched from the first of some snapshots, five seconds apart, on."""
    history = TenantHistory(BOUNDS.__getitem__, latencies or Latencies(), **options)
    history.watch(tenants)
    for step in steps:
        history.observe(snapshot(step))
    return history


def test_a_tenants_rates_are_those_of_its_own_work():
    """Cost by the hour, charged and aborted, and its settled tokens and requests by the second."""
    points, recent = history_of("globex").read(["globex"])
    assert [point.at_ns for point in points] == [START_NS + step * 5 * SECOND for step in range(1, 14)]
    assert points[0].spend_nano_per_hour is None
    last = points[-1]
    assert last.spend_nano_per_hour == PER_STEP["globex"] * HOUR // (5 * SECOND)
    assert (last.output_tokens_per_second, last.prompt_tokens_per_second) == (280_000 / 5, 1_100_000 / 5)
    assert last.requests_per_second == 96 / 5
    assert recent.seconds == 60


def test_points_of_several_tenants_are_the_sums_of_theirs():
    """And a point of the first of them alone is not."""
    history = history_of("globex", "initech")
    both, _ = history.read(["globex", "initech"])
    one, _ = history.read(["globex"])
    other, _ = history.read(["initech"])
    for together, *parts in zip(both[1:], one[1:], other[1:], strict=True):
        assert together.output_tokens_per_second == sum(part.output_tokens_per_second for part in parts)
        assert abs(together.spend_nano_per_hour - sum(part.spend_nano_per_hour for part in parts)) <= 1
    assert both[-1].spend_nano_per_hour > one[-1].spend_nano_per_hour


def test_quantiles_are_of_the_last_minutes_requests_of_all_of_them():
    """What was counted more than a minute ago is in none; several tenants' requests are one population."""
    latencies = Latencies()
    history = history_of("globex", "initech", steps=(), latencies=latencies)
    for step in range(1, 20):
        slow = 10 if step >= 15 else 0
        latencies.counts = {
            ("globex", METRIC_TTFT): (100 if step >= 2 else 0, 0, 0, 0),
            ("initech", METRIC_TTFT): (0, 0, slow, 0),
            ("initech", METRIC_TPOT): (0, step, 0),
        }
        history.observe(snapshot(step))
    _, recent = history.read(["globex"])
    assert recent.ttft.p50 is None
    _, recent = history.read(["initech"])
    assert (recent.ttft.p50, recent.ttft.count) == (pytest.approx(0.3), 10)
    assert (recent.tpot.p50, recent.tpot.count) == (pytest.approx(0.015), 12)
    points, _ = history.read(["globex", "initech"])
    assert points[2].ttft.count == 100
    assert points[-1].ttft.count == 10


def test_only_who_is_watched_has_a_past():
    """One that is asked for the first time is watched from then on; together they begin with the last of them."""
    history = history_of("globex", steps=(1, 2, 3))
    assert history.read(["initech"])[0] == []
    for step in (4, 5):
        history.observe(snapshot(step))
    assert len(history.read(["initech"])[0]) == 2
    assert len(history.read(["globex"])[0]) == 5
    assert len(history.read(["globex", "initech"])[0]) == 2
    assert history.read([])[0] == []


def test_a_snapshot_too_close_or_older_changes_nothing_and_the_ring_is_bounded():
    """Points are five seconds apart, and no more than the capacity."""
    history = history_of("globex", steps=(1, 2), capacity=3)
    history.observe(replace(snapshot(2), taken_ns=START_NS + 12 * SECOND))
    history.observe(snapshot(1))
    assert len(history.read(["globex"])[0]) == 2
    for step in (3, 4, 5):
        history.observe(snapshot(step))
    assert [point.at_ns for point in history.read(["globex"])[0]] == [START_NS + s * 5 * SECOND for s in (3, 4, 5)]
    with pytest.raises(ValueError, match="at least 2"):
        TenantHistory(BOUNDS.__getitem__, Latencies(), capacity=1)


def test_what_is_new_since_a_moment_is_the_same_as_in_the_whole():
    """A poll computes only new points; the last one is there in any case, as the newest known."""
    history = history_of("globex")
    whole, recent = history.read(["globex"])
    for since, expected in ((whole[9].at_ns, whole[10:]), (whole[-1].at_ns, whole[-1:]), (0, whole)):
        assert history.read(["globex"], since) == (expected, recent)


def test_no_more_than_a_thousand_tenants_are_watched():
    """A file of tokens may name as many as it likes; memory stays bounded."""
    history = history_of(*(f"t{number}" for number in range(1_001)), steps=(1,))
    assert len(history.read(["t999"])[0]) == 1
    assert history.read(["t1000"]) == history.read(["nobody"])


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(CHARGES)), min_size=1), st.integers(0, 10**12))
def test_what_others_do_changes_nothing_in_a_tenants_past(tenants, more):
    """Whatever other tenants cost in the meantime, every point is the same."""
    seen = []
    for extra in (0, more):
        history = TenantHistory(BOUNDS.__getitem__, Latencies())
        history.watch(CHARGES)
        for step in (1, 2, 3):
            views = [
                view if view.tenant in tenants else replace(view, cost_nano={"decode": extra * step})
                for view in tenant_views(step)
            ]
            history.observe(replace(snapshot(step), tenants=tuple(views)))
        seen.append(history.read(sorted(tenants)))
    assert seen[0] == seen[1]
