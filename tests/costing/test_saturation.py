"""What tokens would cost in a full engine: held to what recorded engines cost at every concurrency they ran at."""

from functools import cache

import pytest
from benchmarks.gpu.h100_figures import Phase, Run, load_run
from hypothesis import given
from hypothesis import strategies as st

from farthing.costing.fit import DEFAULT_COEFFICIENTS
from farthing.costing.saturation import unit_costs_at
from farthing.domain import conventions as c
from farthing.replay.recording import PACKAGED

TEXT, VISION = "h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"
WORK = {"decode_tokens": 1e6, "attended_context": 1.4e9, "prefill_tokens": 5e6, "prefill_context": 4e9}
NANO_PER_SECOND = 3.348e9 / 3600


@cache
def recorded(name: str) -> Run:
    """A packaged recording, costed once."""
    return load_run(PACKAGED / name)


def at(run: Run, phase: Phase, sequences: int) -> dict[str, float]:
    """Dollars per million tokens of the phase's work with so many sequences in a step, by the run's fit."""
    fit = run.costed.account.fit()
    assert fit is not None
    costs = unit_costs_at(fit.coefficients, phase.features, run.nano_per_hour / 3600, sequences)
    return {kind: nano / 1e9 for kind, nano in costs.items()}


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        *((TEXT, phase) for phase in ("c1", "c8", "c32", "c128", "shared", "abort")),
        *((VISION, phase) for phase in ("text", "one-image", "mixed", "abort")),
    ],
)
def test_at_the_concurrency_that_was_the_formula_gives_the_price_that_was(name, phase):
    """Within 12 % of what decoding was settled at, from one client to 128; the settled price is scaled to metered time
    window by window, and prompts computed in the same steps share their fixed part."""
    run = recorded(name)
    found = run.phase(phase)
    assert found is not None
    assert found.windows >= 3
    assert found.sequences is not None
    settled = found.usd_per_million(c.DECODE, found.output)
    assert at(run, found, max(1, round(found.sequences)))[c.DECODE] == pytest.approx(settled, rel=0.12)


@pytest.mark.parametrize("phase", ["c8", "c32", "c128", "abort"])
def test_prompts_cost_what_they_cost_in_company(phase):
    """Within 5 %: prompts fill the matrix units whoever else is there."""
    run = recorded(TEXT)
    found = run.phase(phase)
    assert found is not None
    settled = found.usd_per_million(c.PREFILL, found.prompt)
    assert at(run, found, 128)[c.PREFILL] == pytest.approx(settled, rel=0.05)


def test_one_client_pays_fifty_times_what_a_full_engine_would_cost_it():
    """$6.04 per million now. 128 such clients would pay a fiftieth or less, and those that did run paid 0.114."""
    run = recorded(TEXT)
    alone, full = run.phase("c1"), run.phase("c128")
    assert alone is not None
    assert full is not None
    now, then = alone.usd_per_million(c.DECODE, alone.output), at(run, alone, 128)[c.DECODE]
    paid = full.usd_per_million(c.DECODE, full.output)
    assert now is not None
    assert paid is not None
    assert now == pytest.approx(6.04, abs=0.1)
    assert 45 < now / then < 75
    # its prompts are shorter than those of the 128, so it attends to less
    assert then < paid < 1.3 * then


def test_a_full_engine_has_nothing_to_gain():
    """Of the 128 clients' own work: settled at what it costs at saturation, within 10 %."""
    run = recorded(TEXT)
    full = run.phase("c128")
    assert full is not None
    assert at(run, full, 128)[c.DECODE] == pytest.approx(full.usd_per_million(c.DECODE, full.output), rel=0.1)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_company_never_makes_a_token_dearer(few, more):
    """And never cheaper than the token's own time, however many there are; prompts do not change."""
    few, more = sorted((few, few + more))
    dear, cheap = (unit_costs_at(DEFAULT_COEFFICIENTS, WORK, NANO_PER_SECOND, n) for n in (few, more))
    own = DEFAULT_COEFFICIENTS["decode_tokens"] + DEFAULT_COEFFICIENTS["attended_context"] * 1_400
    assert dear[c.DECODE] >= cheap[c.DECODE] >= round(NANO_PER_SECOND * own * 1e6)
    assert dear[c.PREFILL] == cheap[c.PREFILL]


def test_the_price_is_the_formula():
    """3.348 $/h x (6 ms / 128 + 20 us + 39 ns x 1,400) = 0.113 $ per million; prompts with a context of 800."""
    costs = unit_costs_at(DEFAULT_COEFFICIENTS, WORK, NANO_PER_SECOND, 128)
    decode = 6e-3 / 128 + 2e-5 + 3.9e-8 * 1_400
    assert costs == {
        c.DECODE: round(NANO_PER_SECOND * decode * 1e6),
        c.PREFILL: round(NANO_PER_SECOND * (1.6e-5 + 1.1e-9 * 800) * 1e6),
    }
    assert costs[c.DECODE] == pytest.approx(0.113e9, rel=0.01)


@pytest.mark.parametrize(
    ("work", "nano", "known"),
    [
        ({}, NANO_PER_SECOND, set()),
        ({"prefill_tokens": 5.0}, NANO_PER_SECOND, {c.PREFILL}),
        ({"decode_tokens": 5.0}, NANO_PER_SECOND, {c.DECODE}),
        (WORK, 0.0, set()),
    ],
)
def test_what_is_unknown_is_left_out(work, nano, known):
    """No work of a kind, or no price: never 0."""
    assert set(unit_costs_at(DEFAULT_COEFFICIENTS, work, nano, 128)) == known


def test_an_engine_for_nobody_is_refused():
    """Of 0 sequences nothing can be divided."""
    with pytest.raises(ValueError, match="sequences must be at least 1, not 0"):
        unit_costs_at(DEFAULT_COEFFICIENTS, WORK, NANO_PER_SECOND, 0)
