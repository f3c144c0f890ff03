"""Whatever the policy, a period's statements add up to its books, and each line can be computed again."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from tests.books.policies import (
    CARD,
    EARLIER,
    PERIOD,
    PRICINGS,
    cost,
    facts,
    of_recording,
    policy,
    random_facts,
    random_policies,
    unhurried,
    used,
    work,
)
from tests.replay.conftest import TEXT, VISION
from tests.replay.conftest import cost as cost_recording_of

from farthing.books.allocation import allocate
from farthing.books.recompute import amount_of_basis, recompute_line
from farthing.books.statement import ADJUSTMENT, PLATFORM, RECOVERY, USAGE
from farthing.domain import conventions as c
from farthing.domain.errors import PeriodError
from farthing.replay.recording import load_recording


@pytest.fixture(scope="module", params=[TEXT, VISION])
def recorded(request):
    """The facts of each recorded H100."""
    return of_recording(cost_recording_of(load_recording(request.param)))


def pricing(name):
    """A policy of a pricing; the card prices every model."""
    return policy(CARD.replace("llama-8b", '"*"') if name == "rate_card" else f"pricing: {name}\n")


def total(lines):
    """What is priced."""
    return sum(line.amount_nano for line in lines if line.amount_nano is not None)


def only(lines, **wanted):
    """Lines with some fields as wanted."""
    return [line for line in lines if all(getattr(line, name) == value for name, value in wanted.items())]


# ---- real recordings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRICINGS)
def test_a_recorded_h100_is_divided_without_a_remainder(recorded, name):
    """Real requests, tokens and costs: every nano-dollar of the bill is on a line, once."""
    lines = allocate(recorded, pricing(name))
    assert total(lines) == recorded.bill_nano - recorded.closing_wip_nano == sum(x.nano for x in recorded.costs)
    assert len({line.tenant for line in lines}) > 2
    for line in lines:
        assert recompute_line(line, recorded, pricing(name)) == line.amount_nano == amount_of_basis(line)


def test_a_recorded_tenant_pays_its_own_lines_at_actual_cost(recorded):
    """Nothing but the journal's own sums."""
    lines = allocate(recorded, pricing("actual"))
    for tenant in {line.tenant for line in lines} - {""}:
        own = [x for x in recorded.costs if x.tenant == tenant and x.account in {c.CHARGED, c.ABORTED}]
        assert total(only(lines, tenant=tenant)) == sum(x.nano for x in own)


def test_recorded_tenants_pay_one_price_for_a_token_at_the_average(recorded):
    """Company no longer matters: amount over tokens is the same for all, to the rounding of one nano-dollar."""
    lines = allocate(recorded, pricing("period_average"))
    averaged = [line for line in lines if line.basis["rule"] == "period_average" and line.phase == c.DECODE]
    assert len({line.tenant for line in averaged}) > 1
    price = Fraction(int(averaged[0].basis["pool_nano"]), int(averaged[0].basis["total_units"]))
    assert all(abs((line.amount_nano or 0) - price * (line.quantity or 0)) < 1 for line in averaged)


# ---- any facts, any policy ---------------------------------------------------------------------------


@unhurried
@given(random_facts(), random_policies())
def test_lines_are_all_of_the_costs(known, rules):
    """No policy makes or loses a nano-dollar."""
    assert total(allocate(known, rules)) == sum(x.nano for x in known.costs)


@unhurried
@given(random_facts(), random_policies())
def test_every_line_is_computed_again_from_facts_and_policy_alone(known, rules):
    """By other arithmetic, and from its own basis."""
    for line in allocate(known, rules):
        assert recompute_line(line, known, rules) == line.amount_nano
        assert amount_of_basis(line) == line.amount_nano


@unhurried
@given(random_facts(), random_policies())
def test_lines_do_not_depend_on_the_order_of_facts(known, rules):
    """A database may return rows in any order."""
    turned = facts(
        known.costs[::-1],
        known.usage[::-1],
        opening=known.opening_wip_nano,
        closing=known.closing_wip_nano,
        unpriced=known.unpriced,
    )
    assert allocate(turned, rules) == allocate(known, rules)


# ---- pricings ----------------------------------------------------------------------------------------


def test_an_average_is_over_all_tenants_of_a_model_and_phase():
    """1,001 nano over 300 tokens: 100 pay 334 by the larger remainder, 200 pay 667."""
    known = facts(
        [work("acme", 1_000), work("globex", 1), work("globex", 50, model="qwen-vl")],
        [used("acme", 100), used("globex", 200), used("globex", 5, model="qwen-vl")],
    )
    lines = allocate(known, pricing("period_average"))
    assert [(x.tenant, x.model, x.amount_nano) for x in lines] == [
        ("acme", "llama-8b", 334),
        ("globex", "llama-8b", 667),
        ("globex", "qwen-vl", 50),
    ]
    assert lines[0].unit_price_nano == round(Fraction(1_001 * 10**6, 300))
    assert {lines[i].basis["left"] for i in (0, 1)} == {1}


def test_work_without_counted_tokens_is_at_actual_cost_and_not_in_the_average():
    """Nobody rides free because nobody counted, and nobody pays for another's unknown tokens."""
    known = facts(
        [work("acme", 900), work("globex", 100), work("unknown", 77)],
        [used("acme", 10), used("globex", 10), used("unknown", uncounted=1)],
    )
    amounts = {x.tenant: x.amount_nano for x in allocate(known, pricing("period_average"))}
    assert amounts == {"acme": 500, "globex": 500, "unknown": 77}


def test_a_card_charges_quantities_and_the_platform_recovers_the_rest():
    """Each component rounded once; the difference is a line of the platform's, by model."""
    known = facts(
        [work("acme", 500_000, c.PREFILL), work("acme", 700_000)], [used("acme", 1_000, 2_000, prompt_cached=10)]
    )
    lines = allocate(known, policy(CARD))
    amounts = {x.basis["component"]: x.amount_nano for x in only(lines, tenant="acme")}
    # 2,000 x 123.456789 nano = 246,913.578
    assert amounts == {"computed": 246_914, "cached": 500, "output": 600_000, "requests": 1}
    (recovery,) = only(lines, section=RECOVERY)
    assert recovery.amount_nano == 1_200_000 - 847_415
    assert recovery.description.startswith("Under-recovery")
    dear = allocate(facts([work("acme", 1)], [used("acme", 1_000)]), policy(CARD))
    assert only(dear, section=RECOVERY)[0].description.startswith("Over-recovery")


def test_half_a_nano_dollar_is_rounded_to_the_even_one():
    """Once for each line: 0.5 and 1.5 nano become 0 and 2."""
    card = CARD.replace("0.6", "0.0005")
    for tokens, nano in ((1, 0), (3, 2), (5, 2), (7, 4)):
        lines = only(allocate(facts([], [used("acme", tokens)]), policy(card)), phase=c.DECODE)
        assert [(x.quantity, x.amount_nano) for x in lines] == [(tokens, nano)]


def test_a_model_that_is_not_on_the_card_is_unpriced_and_its_cost_stays_visible():
    """Never 0, and never nobody's."""
    known = facts([work("acme", 4_200, model="new-model")], [used("acme", 10, model="new-model")])
    lines = allocate(known, policy(CARD))
    (line,) = only(lines, tenant="acme")
    assert (line.amount_nano, line.quantity, line.unit) == (None, 1, "requests")
    (kept,) = only(lines, tenant="")
    assert (kept.section, kept.amount_nano) == (RECOVERY, 4_200)
    assert kept.description == "Unrecovered actual cost of new-model, which the rate card does not price"
    assert recompute_line(line, known, policy(CARD)) is None


def test_tokens_that_nobody_counted_are_unpriced_by_a_card():
    """What was counted is charged; the rest is said to be unknown."""
    known = facts([work("acme", 100)], [used("acme", 1_000, requests=5, uncounted=2)])
    unknown = only(allocate(known, policy(CARD)), tenant="acme", amount_nano=None)
    assert [(x.quantity, x.basis["why"]) for x in unknown] == [(2, "not all of their tokens were counted")]


def test_work_without_any_request_is_unpriced_by_a_card():
    """An engine that is costed from its counters tells no request."""
    known = facts([work("unknown", 100)])
    lines = allocate(known, policy(CARD))
    assert [x.amount_nano for x in only(lines, tenant="unknown")] == [None]
    assert only(lines, section=RECOVERY)[0].amount_nano == 100


@pytest.mark.parametrize("name", ["actual", "period_average"])
def test_requests_of_an_engine_without_a_price_are_unpriced(name):
    """Their cost is in no book, and it is not 0."""
    known = facts([work("acme", 5)], [used("acme", 1), used("globex", 9, model="x")], unpriced=("engine-7",))
    (line,) = only(allocate(known, pricing(name)), tenant="globex")
    assert (line.amount_nano, line.basis["why"]) == (None, "no cost of theirs is known, and an engine had no price")


def test_recomputed_work_is_a_line_of_its_own():
    """Who held memory pays, whoever was preempted: finance should see it apart."""
    known = facts([work("acme", 5), work("acme", 3, reason=c.REASON_PREEMPTION)], [used("acme", 10)])
    assert [(x.reason, x.amount_nano, x.quantity) for x in allocate(known, pricing("actual"))] == [
        ("", 5, 10),
        (c.REASON_PREEMPTION, 3, None),
    ]


def test_several_methods_of_one_line_are_all_named():
    """In their order."""
    known = facts([work("acme", 5, method=c.ASSUMED), work("acme", 3)], [used("acme", 10)])
    (line,) = allocate(known, pricing("actual"))
    assert (line.amount_nano, line.method) == (8, "modelled,assumed")


def test_tokens_that_nobody_counted_are_no_quantity():
    """Unknown is not 0; an engine's cached prompt is."""
    known = facts(
        [work("acme", 5, c.PREFILL), work("globex", 3, c.PREFILL)],
        [used("acme", 10, uncounted=1), used("globex", 10, prompt_cached=100)],
    )
    assert {x.tenant: x.quantity for x in allocate(known, pricing("actual"))} == {"acme": None, "globex": 0}


# ---- responsibility ----------------------------------------------------------------------------------


def test_aborted_work_is_its_tenants_unless_the_policy_says_otherwise():
    """The platform then has one line of it."""
    known = facts(
        [cost(c.ABORTED, 5, tenant="acme", phase=c.DECODE), cost(c.ABORTED, 7, tenant="globex", phase=c.PREFILL)],
        [used("acme", 1, outcome=c.ABORTED)],
    )
    assert {x.tenant: x.amount_nano for x in allocate(known, policy())} == {"acme": 5, "globex": 7}
    (line,) = allocate(known, policy("responsibility: {aborted: platform}\n"))
    assert (line.tenant, line.section, line.account, line.amount_nano) == ("", PLATFORM, c.ABORTED, 12)


def test_failed_work_is_the_platforms_even_where_unattributed_work_is_shared():
    """A server error is nobody else's doing."""
    known = facts(
        [
            work("acme", 10),
            cost(c.UNATTRIBUTED, 3, reason=c.REASON_FAILED, tenant="acme"),
            cost(c.UNATTRIBUTED, 4, reason=c.REASON_LOST),
        ],
        [used("acme", 1)],
    )
    lines = allocate(known, policy("pools: {unattributed: {driver: busy}}\n"))
    assert {(x.tenant, x.reason): x.amount_nano for x in only(lines, account=c.UNATTRIBUTED)} == {
        ("", c.REASON_FAILED): 3,
        ("acme", c.REASON_LOST): 4,
    }


# ---- adjustments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["actual", "period_average"])
def test_late_work_is_an_adjustment_at_actual_cost_of_its_own_period(name):
    """October is closed: what became known in November names October."""
    known = facts(
        [
            work("acme", 10),
            work("acme", 6, service_period=EARLIER),
            cost(c.UNATTRIBUTED, -6, reason=c.REASON_LOST, service_period=EARLIER),
        ],
        [used("acme", 10), used("acme", 3, service_period=EARLIER)],
    )
    lines = allocate(known, pricing(name))
    late = only(lines, section=ADJUSTMENT)
    assert [(x.tenant, x.service_period, x.amount_nano, x.quantity) for x in late] == [
        ("acme", EARLIER, 6, 3),
        ("", EARLIER, -6, None),
    ]
    assert total(only(lines, section=USAGE)) == 10


def test_late_work_is_priced_by_the_card_and_recovered_in_its_own_period():
    """A late request costs what it would have cost in time."""
    known = facts(
        [work("acme", 900_000), work("acme", 2_000, service_period=EARLIER)],
        [used("acme", 1_000), used("acme", 5, service_period=EARLIER)],
    )
    lines = allocate(known, policy(CARD))
    late = only(lines, section=ADJUSTMENT)
    assert {x.basis["component"]: x.amount_nano for x in late} == {"output": 3_000, "requests": 1}
    assert {x.service_period: x.amount_nano for x in only(lines, section=RECOVERY)} == {
        EARLIER: 2_000 - 3_001,
        PERIOD: 900_000 - 600_001,
    }


def test_late_work_is_priced_by_the_card_of_its_own_time():
    """November's rates are not October's."""
    rate = "{{from: 2026-{}-01, usd_per_million_prompt_tokens: 0, usd_per_million_output_tokens: {}}}"
    dated = policy(f"pricing: rate_card\nrate_card: [{rate.format('01', 2)}, {rate.format('11', 3)}]\n")
    known = facts([], [used("acme", 10), used("acme", 10, service_period=EARLIER)])
    own = only(allocate(known, dated), tenant="acme")
    assert [(x.service_period, x.amount_nano) for x in own] == [(EARLIER, 20_000), (PERIOD, 30_000)]


def test_a_correction_of_a_shared_pool_is_shared_as_the_pool_is():
    """Who bore the unexplained time gets it back once it is explained."""
    known = facts(
        [
            work("acme", 30),
            work("globex", 10),
            work("acme", 8, service_period=EARLIER),
            cost(c.UNATTRIBUTED, -8, reason=c.REASON_LOST, service_period=EARLIER),
        ],
        [used("acme", 1), used("globex", 1)],
    )
    lines = allocate(known, policy("pools: {unattributed: {driver: busy}}\n"))
    back = only(lines, account=c.UNATTRIBUTED)
    assert {x.tenant: (x.section, x.amount_nano) for x in back} == {
        "acme": (ADJUSTMENT, -6),
        "globex": (ADJUSTMENT, -2),
    }


def test_a_rule_that_is_not_known_is_an_error():
    """A line of a later version is not silently wrong."""
    (line,) = allocate(facts([work("acme", 5)]), policy())
    line.basis["rule"] = "magic"
    with pytest.raises(PeriodError, match="rule 'magic'"):
        recompute_line(line, facts([work("acme", 5)]), policy())


@pytest.mark.parametrize("text", ["", "pricing: period_average\n", CARD], ids=PRICINGS)
def test_a_line_that_was_altered_is_found_or_refused(text):
    """Its amount is computed anew; a line of work that never was is an error, and never a number."""
    known = facts([work("acme", 1_000_000), work("globex", 5), cost(c.IDLE, 9)], [used("acme", 30), used("globex", 40)])
    rules = policy(f"{text}pools: {{idle: {{driver: busy}}}}\n")
    kinds = set()
    for line in allocate(known, rules):
        kinds.add(line.basis["rule"])
        altered = replace(line, amount_nano=(line.amount_nano or 0) + 1)
        assert recompute_line(altered, known, rules) == line.amount_nano
        if line.basis["rule"] in {"period_average", "rate_card", "pool"}:
            with pytest.raises(PeriodError, match="the line was altered"):
                recompute_line(replace(line, tenant="nobody", basis={**line.basis, "component": "x"}), known, rules)
            with pytest.raises(PeriodError, match="its basis lacks"):
                amount_of_basis(replace(line, basis={"rule": line.basis["rule"]}))
    assert "pool" in kinds
