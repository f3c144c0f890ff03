"""Whatever is lost or tampered with turns a named check red, while the lines still add up to the bill."""

import random
from dataclasses import replace

import pytest
from tests.replay.conftest import TEXT, VISION, cost
from tests.replay.losses import without_aborted, without_client_rows, without_requests

from farthing.costing.checks import FIT_GAP_LIMIT, reconcile
from farthing.domain import conventions as c
from farthing.replay import offline
from farthing.replay.offline import to_json
from farthing.replay.wire_records import wire_records


def red(run):
    """Names of the checks that are red."""
    return {check.name for check in run.checks if not check.ok}


def assert_conserved(run):
    """Residual 0 and no negative line, whatever is missing."""
    result = to_json(run)
    assert result["residual_nano_usd"] == 0
    assert all(nano >= 0 for nano in result["unattributed_nano_usd"].values())
    assert {c.CHECK_RESIDUAL, c.CHECK_NOT_NEGATIVE}.isdisjoint(red(run))


@pytest.mark.parametrize("seed", range(40))
def test_any_25_client_rows_less_are_missed(recording, seed):
    """The engine finished requests of which no client is known."""
    run = cost(without_client_rows(recording, seed))
    assert c.CHECK_ONE_SIDED in red(run)
    assert_conserved(run)


@pytest.mark.parametrize("seed", range(15))
def test_any_25_requests_less_on_both_sides_are_missed(recording, seed):
    """Only the engine's own counters still know of them."""
    run = cost(without_requests(recording, seed))
    assert {c.CHECK_REQUESTS, c.CHECK_OUTPUT} <= red(run)
    assert_conserved(run)


@pytest.mark.parametrize("seed", range(8))
def test_any_25_aborted_requests_less_are_missed(recording, seed):
    """Requests without engine statistics are no easier to lose."""
    run = cost(without_aborted(recording, seed))
    assert {c.CHECK_REQUESTS, c.CHECK_OUTPUT} <= red(run)
    assert_conserved(run)


@pytest.mark.parametrize("seed", range(8))
def test_any_one_percent_of_the_records_less_is_missed(recording, seed, monkeypatch):
    """Records of any kind but the start, without which there is nothing to cost at all."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret

    def lossy(*args, **kwargs):
        timed = wire_records(*args, **kwargs)
        lost = set(draw.sample(range(1, len(timed)), round(len(timed) / 100)))
        return [record for number, record in enumerate(timed) if number not in lost]

    monkeypatch.setattr(offline, "wire_records", lossy)
    run = cost(recording)
    assert c.CHECK_ARRIVED in red(run)
    result = to_json(run)
    assert all(nano >= 0 for nano in result["unattributed_nano_usd"].values())
    # a lost end is not made up for: the tail that nobody reported is the residual, and it is red
    assert (result["residual_nano_usd"] == 0) == (c.CHECK_RESIDUAL not in red(run))


@pytest.mark.parametrize("last", [1, 2, 30])
def test_a_recording_whose_end_is_lost_has_a_red_residual(recording, last, monkeypatch):
    """The bill is of the whole span; what the records do not cover must not vanish."""
    monkeypatch.setattr(offline, "wire_records", lambda *args, **kwargs: wire_records(*args, **kwargs)[:-last])
    run = cost(recording)
    assert to_json(run)["residual_nano_usd"] >= 0
    if last > 2:
        assert c.CHECK_RESIDUAL in red(run)


@pytest.mark.parametrize(
    ("name", "coefficient"),
    [
        *((TEXT, name) for name in ("steps", "prefill_tokens", "prefill_context", "decode_tokens", "attended_context")),
        *(
            (VISION, name)
            for name in ("steps", "prefill_tokens", "attended_context", "encoder_steps", "encoder_tokens")
        ),
    ],
)
def test_zeroing_any_coefficient_of_the_fit_is_seen(runs, name, coefficient):
    """The books carry the coefficients; that they are the optimum can be recomputed from the windows."""
    run = runs[name]
    fit = run.account.fit()
    assert fit.coefficients[coefficient] > 0
    assert run.account.stream.fit_gap(fit.coefficients) <= FIT_GAP_LIMIT
    gap = run.account.stream.fit_gap({**fit.coefficients, coefficient: 0.0})
    evidence = replace(run.account.evidence({}), fit_gap=gap)
    assert c.CHECK_FIT in {check.name for check in reconcile(evidence) if not check.ok}


def test_every_coefficient_that_is_not_zero_is_among_those_that_are_zeroed(runs):
    """A new feature must come with its own trial; what the engine never did keeps its default and splits nothing."""
    trials = test_zeroing_any_coefficient_of_the_fit_is_seen.pytestmark[0].args[1]
    for name, run in runs.items():
        seen = {feature for window in run.entry.windows for feature, value in window.features.items() if value}
        nonzero = {feature for feature, value in run.account.fit().coefficients.items() if value > 0}
        assert seen & nonzero == {coefficient for trial, coefficient in trials if trial == name}


@pytest.mark.parametrize("seed", range(6))
def test_a_tampered_posting_turns_the_residual_red(run, seed):
    """One nano-dollar more on one line of one window."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    lines = [posting.nano for window in run.entry.windows for posting in window.postings]
    lines[draw.randrange(len(lines))] += 1
    evidence = replace(run.account.evidence({}), bill_nano=run.bill_nano, lines_nano=tuple(lines))
    assert c.CHECK_RESIDUAL in {check.name for check in reconcile(evidence) if not check.ok}
