"""The quantiles that our rules record of real engines are those that the clients of the recordings timed."""

import math

import pytest
from tests.alerts.recorded_clients import quantile, timings

from farthing.domain import conventions as names

pytestmark = pytest.mark.real

PHASES = [
    *[("8b", phase) for phase in ("c1", "c8", "c32", "c128", "prefill", "shared", "abort")],
    *[("7b", phase) for phase in ("text", "one-image", "mixed", "encoder", "repeat", "abort")],
]
ON_THE_WAY = (0.02, 0.0)
"""Seconds that an engine counts less than its client waits: HTTP and the event loop at both ends."""
BETWEEN_CLOCKS = (0.002, 0.002)
"""Seconds between the engine's note of a step, or a client's of a token, and the engine's observation of the token."""


def mean_rates(world, phase, record):
    """Upper bound -> mean rate over whole laps, so that each part of the phase weighs alike."""
    window = 600 // phase.lap_seconds * phase.lap_seconds
    expr = f"avg_over_time({record}[{window}s])"
    found = world.server.get("query", query=expr, time=str(phase.end_seconds))["result"]
    return sorted((float(one["metric"]["le"]), float(one["value"][1])) for one in found)


def recorded_quantile(world, phase, record, share):
    """Prometheus' own interpolation within the buckets."""
    window = 600 // phase.lap_seconds * phase.lap_seconds
    expr = f"histogram_quantile({share}, avg_over_time({record}[{window}s]))"
    return world.value(expr, phase.end_seconds)


def assert_in_the_bucket(world, phase, record, timed, slack):
    """p50 and p95 lie in the bucket that the timed one is in, as Prometheus can know no better.

    ``slack`` are the seconds by which the engine may have seen less than was timed, and more.
    """
    less, more = slack
    bounds = [bound for bound, _ in mean_rates(world, phase, record)]
    for share in (0.5, 0.95):
        exact = quantile(timed, share)
        low = max((bound for bound in bounds if bound < exact - less), default=0.0)
        high = min(bound for bound in bounds if bound >= exact + more)
        assert low <= recorded_quantile(world, phase, record, share) <= high, (phase.name, record, share, exact)


@pytest.mark.parametrize(("recording", "name"), PHASES)
def test_quantiles_are_those_of_the_clients(recorded, recording, name):
    """First token, time per token and whole answer, in every phase; and as many requests as the clients counted."""
    phase = recorded.phase(recording, name)
    timed = timings(phase)
    for record, values, slack in (
        (names.REC_TTFT_BUCKET, timed.first_token, ON_THE_WAY),
        (names.REC_TPOT_BUCKET, timed.per_token, BETWEEN_CLOCKS),
        (names.REC_E2E_BUCKET, timed.total, ON_THE_WAY),
    ):
        assert_in_the_bucket(recorded, phase, record, values, slack)
        _, rate = mean_rates(recorded, phase, record)[-1]
        assert rate * phase.lap_seconds == pytest.approx(len(values), rel=0.01), record


@pytest.mark.parametrize(("recording", "name"), [one for one in PHASES if one[1] != "encoder"])
def test_inter_token_latency_is_that_of_the_steps_and_of_the_clients(recorded, recording, name):
    """Its quantiles are those of the engine's own steps; its mean, as far as buckets tell, is what clients saw."""
    phase = recorded.phase(recording, name)
    timed = timings(phase)
    assert_in_the_bucket(recorded, phase, names.REC_ITL_BUCKET, timed.steps, BETWEEN_CLOCKS)
    least = most = below_bound = below = 0.0
    for bound, rate in mean_rates(recorded, phase, names.REC_ITL_BUCKET):
        least += (rate - below) * below_bound
        most += (rate - below) * (bound if rate > below else 0.0) if math.isfinite(bound) else 0.0
        below_bound, below = bound, rate
    assert least <= timed.mean_gap * below <= most


def test_one_token_answers_have_no_latency_between_tokens(recorded):
    """The encoder phase asks for one token each: unknown is not 0."""
    phase = recorded.phase("7b", "encoder")
    assert math.isnan(recorded_quantile(recorded, phase, names.REC_ITL_BUCKET, 0.95))


@pytest.mark.parametrize("recording", ["8b", "7b"])
def test_an_idle_engine_has_no_latency(recorded, recording):
    """Its quantiles are unknown, its rates are 0."""
    phase = recorded.phase(recording, "idle")
    for record in (names.REC_TTFT_BUCKET, names.REC_ITL_BUCKET, names.REC_TPOT_BUCKET, names.REC_E2E_BUCKET):
        assert math.isnan(recorded_quantile(recorded, phase, record, 0.95))
    assert recorded.value(names.REC_GENERATION_RATE, phase.end_seconds) == 0
