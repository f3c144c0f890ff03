"""Price depends on company: one stream alone against 128 at once, at actual cost, period average and on a rate card."""

from collections import Counter
from fractions import Fraction

import pytest
from tests.books.policies import policy
from tests.service.books import accountant
from tests.service.closings import SETTINGS, close, identity, moved, tenants_by_workload

from farthing.domain import conventions as c
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

CARD = """
mode: chargeback
pricing: rate_card
rate_card:
  - model: m
    usd_per_million_prompt_tokens: 0.05
    usd_per_million_cached_prompt_tokens: 0.01
    usd_per_million_output_tokens: 0.6
"""
ALONE, CROWD = "c1", "c128"


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """November of the 8B recording, each of the load's phases a tenant, closed under each pricing."""
    raw = tenants_by_workload(moved(load_recording("h100-llama8b-vllm0.26"), "2026-11", 3_600))
    found = {}
    for name, text in (
        ("actual", ""),
        ("period_average", "mode: chargeback\npricing: period_average\n"),
        ("rate_card", CARD),
    ):
        ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('pricing')}/{name}.db")
        ledger.add(raw)
        accountant(ledger, SETTINGS).advance()
        found[name] = close(ledger, "2026-11", policy=policy(text))
        ledger.close()
    return found


def _decode(closed, tenant):
    """What a tenant pays for a million output tokens, in nano-dollars."""
    (statement,) = [one for one in closed.statements if one.recipient.tenant == tenant]
    lines = [one for one in statement.lines if one.phase == c.DECODE and one.account == c.CHARGED]
    return Fraction(sum(one.amount_nano for one in lines) * 1_000_000, sum(one.quantity for one in lines))


def test_at_actual_cost_a_token_alone_costs_many_times_one_in_company(closed):
    """A step of decoding took 6.6 ms for one request and 15.2 ms for 128 of them, whatever they were."""
    alone, crowd = _decode(closed["actual"], ALONE), _decode(closed["actual"], CROWD)
    second = 3.348 / 3_600
    assert float(alone) / 1_000 == pytest.approx(0.0066 * second * 1e12, rel=0.05)
    assert float(crowd) / 1_000 == pytest.approx(0.0152 / 128 * second * 1e12, rel=0.25)
    assert alone / crowd > 30


def test_at_the_periods_average_everybody_pays_the_same_for_a_token(closed):
    """Nobody is punished for being alone at night."""
    alone, crowd = _decode(closed["period_average"], ALONE), _decode(closed["period_average"], CROWD)
    assert float(alone / crowd) == pytest.approx(1, rel=1e-6)
    actual = closed["actual"]
    assert _decode(actual, CROWD) < alone < _decode(actual, ALONE)


def test_on_a_rate_card_the_price_is_the_published_one_and_the_rest_is_a_line(closed):
    """What the card does not recover, or recovers too much of, is the platform's, by model."""
    card = closed["rate_card"]
    assert _decode(card, ALONE) == _decode(card, CROWD) == 600_000_000
    platform = card.statements[0]
    recovery = [line for line in platform.lines if line.section == "recovery"]
    assert recovery
    charged = sum(one.total_nano for one in card.statements[1:])
    cost: Counter[str] = Counter()
    for one in card.document.facts.costs:
        cost[one.account] += one.nano
    assert sum(line.amount_nano for line in recovery) == cost[c.CHARGED] + cost[c.ABORTED] - charged
    assert all("recovery" in line.description.lower() for line in recovery)


@pytest.mark.parametrize("pricing", ["actual", "period_average", "rate_card"])
def test_each_of_them_foots_to_the_bill(closed, pricing):
    """To the nano-dollar."""
    identity(closed[pricing])
    facts = closed[pricing].document.facts
    assert sum(one.total_nano for one in closed[pricing].statements) == facts.bill_nano
    assert facts.bill_nano == pytest.approx(235_458_181, abs=1)
