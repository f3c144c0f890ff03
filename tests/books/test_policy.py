"""A policy file says what it means, is cited by version and content, and is refused with line and key."""

import itertools
import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.books.policies import HEAD, facts, policy, unhurried
from tests.docs.pages import blocks, rows, sections

from farthing.books.exchange import ExchangeRate, ExchangeTable
from farthing.books.periods import bounds
from farthing.books.policy import Policy, last_day, load_policy, parse_policy
from farthing.books.policy_rules import POOL_ACCOUNTS, PolicyRules, PoolRule, SharedCost
from farthing.books.pools import parts, weights_of
from farthing.books.shared_costs import shared_cost_nano
from farthing.books.statement import SECTIONS, USAGE, StatementLine
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.domain.errors import PolicyError, PriceError
from farthing.domain.money import NANO

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "policy.yaml"
NOVEMBER = {"version": "x", "from": date(2026, 11, 1)}
PAGE = (DOCS / "policy.md").read_text()


@pytest.fixture
def example():
    """The documented example."""
    return load_policy(EXAMPLE)


def line(account=c.CHARGED, phase="", reason="", section=USAGE):
    """A line as far as its ledger account depends on it."""
    return StatementLine(1, section, "", "2026-11", account, phase=phase, reason=reason)


# ---- content and version -----------------------------------------------------------------------------


def test_the_example_uses_every_section_and_round_trips(example):
    """What is documented can be loaded, and made again from what a closing keeps."""
    assert example.rules.model_fields_set == set(PolicyRules.model_fields)
    again = parse_policy(example.content)
    assert again == example
    assert again.version == example.version
    assert example.version.startswith("2026-11-chargeback+")
    assert len(example.version.partition("+")[2]) == 12


def test_the_version_follows_what_is_meant_and_not_how_it_is_written(example):
    """Comments, order and 0.20 for 0.2 change nothing; a rate of a billionth more does."""
    text = EXAMPLE.read_text()
    parts = text.split("\n\n")
    turned = "\n\n".join([parts[0], *parts[:0:-1]])
    assert parse_policy(turned.replace(" 0.20", " 0.2") + "\n# more\n").version == example.version
    assert parse_policy(text.replace(" 0.20", " 0.200000001")).version != example.version


def test_text_that_yaml_cannot_hold_survives_in_the_content():
    """The content is JSON, and is read back as such."""
    odd = parse_policy(HEAD + 'organisation: [{tenant: "tab\\there \\x7f \\U0001F600", name: "a: b #c"}]\n')
    assert parse_policy(odd.content) == odd
    assert odd.rules.organisation[0].tenant == "tab\there \x7f 😀"


def test_without_a_file_everything_is_for_information_and_nothing_is_shared():
    """The default decides nothing that somebody has to pay for."""
    default = load_policy(None)
    assert default == Policy.default() == parse_policy(default.content)
    assert (default.mode, default.pricing) == ("showback", "actual")
    assert {default.pool(account, "").driver for account in c.BOOK_ACCOUNTS} == {"none"}
    default.require("1970-01")


def test_rules_made_in_code_are_held_to_the_same_contradictions():
    """There is no way around them."""
    with pytest.raises(PolicyError, match="pricing: rate_card needs a section"):
        Policy.of(PolicyRules.model_validate({**NOVEMBER, "pricing": "rate_card"}))
    assert Policy.of(PolicyRules.model_validate(NOVEMBER)).rules.version == "x"


def test_a_policy_does_not_reach_back():
    """A period before it had another one."""
    december = parse_policy("version: v\nfrom: 2026-12-01\n")
    december.require("2026-12")
    with pytest.raises(PolicyError, match="applies from 2026-12-01, and period 2026-11 begins before"):
        december.require("2026-11")


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "p.yaml:1: the top level must be a mapping"),
        ("- a\n", "p.yaml:1: the top level must be a mapping"),
        ("version: [\n", "p.yaml:2: not valid YAML"),
        ("version: v\n", "p.yaml:1: from: Field required"),
        ("version: 2026\nfrom: 2026-11-01\n", "p.yaml:1: version: enter text; put it in quotes, YAML read a int"),
        ("version: v\nfrom: 2026-11-02\n", "p.yaml:2: from: 2026-11-02 is not the first day of a month"),
        ("version: v\nfrom: 2026-13-01\n", "p.yaml: not valid YAML"),
        ("version: v\nfrom: soon\n", "p.yaml:2: from: enter a date"),
        ("version: v\nfrom: 2026-11-01\nstart: 2026-11-01\n", "p.yaml:3: start: unknown key"),
        ("version: v\nfrom: 2026-11-01\npools: {idle: }\n", "p.yaml:3: pools.idle: Input should be a valid mapping"),
        ("version: v\nfrom: 2026-11-01\nrate_card: &r [*r]\n", "p.yaml: not valid YAML: the alias in line 3 contains"),
        ("version: v\nfrom: 2026-11-01\nmode: free\n", "p.yaml:3: mode: Input should be 'showback' or 'chargeback'"),
        ("version: v\nfrom: 2026-11-01\nmdoe: x\n", "p.yaml:3: mdoe: unknown key; known here: version, from, mode"),
        ("version: v\nfrom: 2026-11-01\nmode: showback\nmode: chargeback\n", "p.yaml:4: mode: entered twice"),
    ],
)
def test_a_mistake_is_refused_with_its_line_and_key(text, says):
    """Whoever wrote it should find it at once."""
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "p.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("pricing: rate_card\n", "3: pricing: rate_card needs a section rate_card:"),
        ("pools:\n  idle: {driver: busy}\n  lunch: {}\n", "5: pools.lunch: no such pool; known: idle, "),
        ("pools:\n  idle: {driver: reserved}\n", "4: pools.idle: driver: reserved needs reserved:"),
        ("pools:\n  idle: {driver: busy, fixed: {a: 100}}\n", "4: pools.idle: driver: busy needs no fixed; remove it"),
        (
            "pools:\n  idle: {driver: fixed, fixed: {a: 60, b: 39.9}}\n",
            "4: pools.idle: fixed: adds up to 99.9 per cent",
        ),
        (
            "pools:\n  idle: {driver: fixed, fixed: {a: 60, b: 40}, exclude: [b]}\n",
            "4: pools.idle: tenant 'b' is in fixed: and in exclude:",
        ),
        (
            "pools:\n  idle:\n    driver: reserved\n    reserved:\n    - weights: {a: 1}\n    - weights: {b: 1}\n",
            "4: pools.idle: reserved: every entry but the first needs from:",
        ),
        (
            "pools:\n  idle:\n    driver: reserved\n    reserved:\n    - {from: 2026-11-02, weights: {a: 1}}\n"
            "    - {from: 2026-11-01, weights: {b: 1}}\n",
            "4: pools.idle: reserved: 2026-11-01 does not come after 2026-11-02",
        ),
        ("pools: {idle: {driver: reserved, reserved: {a: -1}}}\n", "3: pools.idle.reserved.0.weights.a: Input should"),
        ("pools: {idle: {driver: busy, exclude: [NO]}}\n", "3: pools.idle.exclude.0: enter text; put it in quotes"),
        ("gl:\n  charged: 610100\n", "4: gl.charged: enter text; put it in quotes, YAML read a int"),
        ("gl:\n  charges: '1'\n", "4: gl.charges: enter an account"),
        ("gl:\n  charged.prefil: '1'\n", "4: gl.charged.prefil: enter an account"),
        ("rounding: {decimals: 10}\n", "3: rounding.decimals: Input should be less than or equal to 9"),
        ("responsibility: {failed: tenant}\n", "3: responsibility.failed: Input should be 'platform'"),
        (
            "rate_card:\n- &r {model: m, usd_per_million_prompt_tokens: 1, usd_per_million_output_tokens: 1}\n- *r\n",
            "rate_card.1: there is an entry for 'm' '*' from the same day already",
        ),
        ("rate_card:\n- {model: m}\n", "4: rate_card.0.usd_per_million_prompt_tokens: Field required"),
        (
            "rate_card:\n- {usd_per_million_prompt_token: 1}\n",
            "4: rate_card.0.usd_per_million_prompt_token: unknown key; known here: model, tier, from, usd_per",
        ),
        ("organisation:\n- {tenant: a}\n- {tenant: a}\n", "5: organisation.1: there is an entry for 'a' ''"),
        (
            "shared_costs:\n- {name: x, from: 2026-11-01}\n",
            "4: shared_costs.0: shared cost 'x': enter one of usd_per_hour and usd_per_month",
        ),
        (
            "shared_costs:\n- {name: idle, usd_per_hour: 1, from: 2026-11-01}\n",
            "4: shared_costs.0.name: 'idle' is the name of an account or section",
        ),
        (
            "shared_costs:\n- {name: x, usd_per_hour: 1, from: 2026-11-01, to: 2026-10-01}\n",
            "4: shared_costs.0: shared cost 'x': to:",
        ),
        (
            "shared_costs:\n- {name: x, usd_per_hour: 1, from: 2026-11-01}\n"
            "- {name: x, usd_per_hour: 2, from: 2026-12-01}\n",
            "5: shared_costs.1: 'x' is bought already from 2026-11-01 on; end that entry with to:",
        ),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused_with_its_line_and_key(section, says):
    """Before a period is closed with it."""
    with pytest.raises(PolicyError) as caught:
        parse_policy("version: v\nfrom: 2026-11-01\n" + section, "p.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_told_with_those_that_its_section_has():
    """Of the section, and not of the file."""
    with pytest.raises(PolicyError, match=r"idle.drivr: unknown key; known here: driver, exclude, reserved, fixed"):
        policy("pools: {idle: {drivr: busy}}\n")


def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path):
    """And never the default."""
    with pytest.raises(PolicyError, match=r"nowhere\.yaml: cannot be read"):
        load_policy(tmp_path / "nowhere.yaml")


# ---- documentation -----------------------------------------------------------------------------------


def test_every_section_that_the_page_shows_is_a_policy():
    """People copy it."""
    shown = [block.body for block in blocks(PAGE) if block.language == "yml"]
    assert len(shown) >= 6
    assert {name for text in shown for name in policy(text).rules.model_fields_set} - {"version", "start"} == {
        "pools",
        "shared_costs",
        "pricing",
        "rate_card",
        "organisation",
        "gl",
    }


def test_the_page_names_every_section_driver_and_pool():
    """A new one needs its sentence."""
    named = set(re.findall(r"`([^`\n]+)`", PAGE))
    keys = {field.alias or name for name, field in PolicyRules.model_fields.items()}
    drivers = set(get_args(PoolRule.model_fields["driver"].annotation))
    assert keys <= named
    assert {*drivers, *POOL_ACCOUNTS, *SECTIONS} <= named


def test_the_worked_example_of_the_page_is_what_is_computed():
    """1,000 nano-dollars over 100, 200 and 400 tokens."""
    table = [row for row in rows(sections(PAGE)["Pricing"]) if row[0].isdigit()]
    found = parts(1_000, [int(row[0]) for row in table])
    assert [int(row[-1]) for row in table] == [part.nano for part in found] == [143, 286, 571]
    assert [int(row[-2]) for row in table] == [part.basis["rank"] for part in found]
    assert found[0].basis["left"] == 2


def test_the_pages_reservation_weighs_what_it_says():
    """Four against three."""
    (text,) = [block.body for block in blocks(PAGE) if "2026-11-16" in block.body]
    assert weights_of(policy(text).pool(c.UNUSED_COMMITMENT, ""), facts([]), "2026-11") == {"acme": 4, "globex": 3}
    assert "`acme` weighs 4 and `globex` 3" in PAGE


# ---- lookups -----------------------------------------------------------------------------------------


def test_the_most_specific_rate_holds(example):
    """Model and tier, then the model, then everybody."""
    assert example.rate("llama-8b", "batch", "2026-11").output == Decimal("0.3")
    assert example.rate("llama-8b", "interactive", "2026-11").output == Decimal("0.8")
    assert example.rate("qwen2-vl-7b", "batch", "2026-11").image == Decimal("0.1")
    only = policy(
        "rate_card:\n- {model: m, tier: gold, from: 2026-10-15, "
        "usd_per_million_prompt_tokens: 1, usd_per_million_output_tokens: 1}\n"
    )
    assert only.rate("m", "silver", "2026-11") is None
    assert only.rate("m", "gold", "2026-09") is None
    assert only.rate("m", "gold", "2026-10") is not None


def test_a_cost_centre_is_that_of_the_service_periods_last_day(example):
    """An adjustment of November goes to November's, also when it is made in December."""
    assert example.cost_centre("acme", "chat", "2026-11") == "4712"
    assert example.cost_centre("acme", "chat", "2026-12") == "4720"
    assert example.cost_centre("acme", "", "2026-12") == "4711"
    assert example.cost_centre("acme", "search", "2026-12") == "4711"
    assert example.cost_centre("initech", "", "2026-11") == ""
    assert example.cost_centre("", "", "2026-11") == "1000"
    assert last_day("2028-02") == date(2028, 2, 29)


def test_a_statement_is_addressed_to_whom_the_organisation_names(example):
    """A tenant that it does not know keeps its own name."""
    acme = example.recipient("acme", "2026-11")
    assert (acme.name, acme.tenant, acme.cost_centre) == ("Acme Ltd, Research", "acme", "4711")
    assert acme.address == ("1 Penny Lane", "Liverpool")
    assert example.recipient("initech", "2026-11").name == "initech"
    assert example.recipient("", "2026-11") == example.issuer()
    assert example.issuer().address == ("2 Farthing Street", "London")


def test_a_ledger_account_is_found_from_the_most_specific_key(example):
    """Phase, reason, account, section, nothing."""
    assert example.gl_account(line(phase=c.VISION)) == "610200"
    assert example.gl_account(line(phase=c.DECODE)) == "610100"
    assert example.gl_account(line(c.SHARED, reason="archive", section="shared")) == "620300"
    assert example.gl_account(line(c.SHARED, reason="gateway", section="shared")) == "620000"
    assert example.gl_account(line(c.IDLE, section="platform")) == "690000"
    assert example.gl_account(line(c.IDLE, section="adjustment")) == ""


def test_every_shared_cost_without_a_rule_follows_the_rule_of_all(example):
    """One line is enough for what nobody thought of."""
    assert example.pool(c.SHARED, "gateway").driver == "requests"
    assert example.pool(c.SHARED, "new").driver == "none"
    assert policy("pools: {shared: {driver: busy}}\n").pool(c.SHARED, "new").driver == "busy"


# ---- shared costs ------------------------------------------------------------------------------------


def bought(text):
    """A shared cost from 2026-01-15."""
    return policy(f"shared_costs:\n- {{name: x, from: 2026-01-15, {text}}}\n").shared_costs[0]


@unhurried
@given(st.lists(st.integers(0, 100 * 24 * HOUR), min_size=2), st.sampled_from(["hour: 0.123456789", "month: 9.99"]))
def test_a_shared_cost_adds_up_however_it_is_cut(offsets, price):
    """Integers that telescope, across months and before the beginning."""
    start = bounds("2026-01")[0]
    cuts = sorted(start + offset for offset in offsets)
    cost = bought(f"usd_per_{price}")
    parts = [shared_cost_nano(cost, one, two) for one, two in itertools.pairwise(cuts)]
    assert sum(parts) == shared_cost_nano(cost, cuts[0], cuts[-1])
    assert all(part >= 0 for part in parts)


@pytest.mark.parametrize("period", ["2026-02", "2026-03", "2026-04"])
def test_a_monthly_cost_is_exactly_that_in_each_month(period):
    """February's days are dearer."""
    assert shared_cost_nano(bought("usd_per_month: 9.999999999"), *bounds(period)) == 9_999_999_999


def test_a_cost_that_begins_or_ends_within_a_month_is_its_part():
    """17 of January's 31 days; nothing before, nothing after."""
    cost = bought("usd_per_month: 31, to: 2026-02-15")
    assert shared_cost_nano(cost, *bounds("2026-01")) == 17 * NANO
    assert shared_cost_nano(cost, *bounds("2026-02")) == 31 * NANO // 2
    assert shared_cost_nano(cost, *bounds("2026-03")) == 0
    assert shared_cost_nano(cost, *bounds("2025-12")) == 0


def test_a_cost_in_another_currency_is_converted_or_refused():
    """By the dated table, and never at a guessed rate."""
    cost = bought("usd_per_month: 100, currency: EUR")
    known = ExchangeTable([ExchangeRate("EUR", Decimal("1.25"), date(2026, 1, 1), "test")])
    assert isinstance(cost, SharedCost)
    assert shared_cost_nano(cost, *bounds("2026-03"), known) == 125 * NANO
    with pytest.raises(PriceError, match="shared cost 'x' in EUR has no price at any time; add an exchange rate"):
        shared_cost_nano(cost, *bounds("2026-03"))
