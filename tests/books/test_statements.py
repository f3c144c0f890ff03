"""A period's statements: complete, addressed, explained, and together exactly the period's books."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from tests.replay.conftest import TEXT
from tests.replay.conftest import cost as costed

from farthing.books.policy import load_policy, parse_policy
from farthing.books.recompute import recompute_line
from farthing.books.statement import ADJUSTMENT, SECTIONS, decode_statement, encode_statement, sha256_of
from farthing.books.statements import SUBTOTAL_KEYS, build_statements, subtotals
from farthing.domain import conventions as c
from farthing.domain.errors import PeriodError, PolicyError
from farthing.domain.money import NANO, from_nano
from farthing.replay.recording import load_recording

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "policy.yaml"
ISSUED = 1_796_100_000_000_000_000


def build(known, rules=None):
    """Statements as they are signed off."""
    return build_statements(known, rules or policy(), signed_by="finance@example.com", issued_ns=ISSUED)


def text(statement):
    """All notes."""
    return "\n".join(statement.notes)


@pytest.fixture(scope="module")
def recorded():
    """The recorded H100's period, with an idle host beside it."""
    own = of_recording(costed(load_recording(TEXT)))
    host = cost(c.SHARED, 123_456_789, reason=c.POOL_HOST, service_period=own.period)
    return replace(
        own,
        costs=(*own.costs, host),
        bill_nano=own.bill_nano + host.nano,
        fit_errors=(("h100", c.MODELLED, 0.0234), ("l4", c.ESTIMATED, None)),
        evidence={"boot-1": "ab" * 32},
        price_versions=("H100-SXM:0123456789ab",),
        lost_records=3,
    )


# ---- footing -----------------------------------------------------------------------------------------


@unhurried
@given(random_facts(), random_policies())
def test_all_statements_together_are_the_books(known, rules):
    """Opening work in progress + bill - closing work in progress, to the nano-dollar, whatever the policy."""
    statements = build(known, rules)
    expected = known.opening_wip_nano + known.bill_nano - known.closing_wip_nano
    assert sum(one.total_nano for one in statements) == expected
    platform = statements[0]
    assert sum(nano for _, nano in platform.identity[:3]) == sum(nano for _, nano in platform.identity[3:]) == expected
    assert [name for name, _ in platform.identity[:4]] == [
        "Opening work in progress",
        "GPU allocation x price",
        "Closing work in progress",
        "Charged to tenants",
    ]


@unhurried
@given(random_facts(), random_policies())
def test_each_statement_is_the_sum_of_its_lines_and_rounds_once(known, rules):
    """Total, rounding and payable agree; every subtotal foots to the total."""
    for statement in build(known, rules):
        priced = [line.amount_nano for line in statement.lines if line.amount_nano is not None]
        assert statement.total_nano == sum(priced)
        assert statement.total_nano + statement.rounding_nano == statement.payable_nano
        assert statement.payable_nano % 10_000_000 == 0
        assert abs(statement.rounding_nano) <= 5_000_000
        assert [line.line for line in statement.lines] == list(range(1, len(statement.lines) + 1))
        sections = [SECTIONS.index(line.section) for line in statement.lines]
        assert sections == sorted(sections)
        for key in SUBTOTAL_KEYS:
            found = subtotals(statement, key)
            assert sum(one.nano for one in found) == statement.total_nano
            assert sum(one.lines for one in found) == len(statement.lines)
            assert sum(one.unpriced for one in found) == len(statement.lines) - len(priced)


@unhurried
@given(random_facts(), random_policies())
def test_statements_are_numbered_by_tenant_and_equal_for_equal_facts(known, rules):
    """The platform's is 0000; bytes are the same whoever makes them."""
    statements = build(known, rules)
    assert [one.number for one in statements] == [f"{PERIOD}-{place:04d}" for place in range(len(statements))]
    tenants = [one.recipient.tenant for one in statements]
    assert tenants[0] == ""
    assert all(one < two for one, two in pairwise(tenants[1:]))
    assert all({line.tenant for line in one.lines} <= {one.recipient.tenant} for one in statements)
    again = build(known, parse_policy(rules.content))
    assert [sha256_of(encode_statement(one)) for one in again] == [
        sha256_of(encode_statement(one)) for one in statements
    ]


@unhurried
@given(st.integers(0, 9), st.integers(-(10**12), 10**12))
def test_the_total_is_rounded_half_to_even_at_the_policys_decimals(decimals, nano):
    """0 decimals are whole dollars, 9 are exact."""
    rules = policy(f"rounding: {{decimals: {decimals}}}\n")
    statement = build(facts([cost(c.UNATTRIBUTED, nano)]), rules)[0]
    unit = 10 ** (9 - decimals)
    assert statement.payable_nano % unit == 0
    assert 2 * abs(statement.rounding_nano) <= unit
    if 2 * abs(statement.rounding_nano) == unit:
        assert statement.payable_nano // unit % 2 == 0


@pytest.mark.parametrize(("nano", "payable"), [(5_000_000, 0), (15_000_000, 20_000_000), (5_000_001, 10_000_000)])
def test_half_a_cent_goes_to_the_even_cent(nano, payable):
    """Half a cent is 0, one and a half are two."""
    assert build(facts([cost(c.IDLE, nano)]))[0].payable_nano == payable


def test_books_that_do_not_add_up_make_no_statement():
    """One nano-dollar is enough."""
    with pytest.raises(PeriodError, match=r"period 2026-11: its costs differ .* by 0\.000000001 USD"):
        build(replace(facts([cost(c.IDLE, 7)]), bill_nano=6))


def test_a_policy_that_begins_later_makes_no_statement():
    """It did not apply."""
    with pytest.raises(PolicyError, match="applies from 2026-12-01"):
        build(facts([]), parse_policy("version: v\nfrom: 2026-12-01\n"))


# ---- real recording ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRICINGS)
def test_a_recorded_period_becomes_statements_that_can_be_read_back_and_recomputed(recorded, name):
    """From the bytes that are kept, with the policy's content that is kept beside them."""
    rules = policy(
        (CARD.replace("llama-8b", '"*"') if name == "rate_card" else f"pricing: {name}\n")
        + "mode: chargeback\npools: {idle: {driver: busy}, host: {driver: tokens}}\n"
    )
    statements = build(recorded, rules)
    assert len(statements) > 2
    assert sum(one.total_nano for one in statements) == recorded.bill_nano - recorded.closing_wip_nano
    for kept in map(encode_statement, statements):
        statement = decode_statement(kept)
        assert encode_statement(statement) == kept
        assert statement.policy_version == rules.version
        for line in statement.lines:
            assert recompute_line(line, recorded, parse_policy(rules.content)) == line.amount_nano


def test_a_statement_says_how_it_came_about(recorded):
    """Methods in per cent, errors of the fits, work in progress, losses, the rounding: in sentences."""
    platform, *tenants = build(recorded)
    for statement in tenants:
        notes = text(statement)
        assert "for information, and nothing is to be paid" in notes
        assert "Amounts are actual cost" in notes
        shares = re.findall(r"([\d.]+) % (?:metered|modelled|estimated|assumed) \(", notes)
        assert round(sum(float(share) for share in shares), 6) == 100
        assert "h100 2.3 % (modelled), l4 unknown (estimated)" in notes
        assert "work in progress" in notes
        assert "Of the period's records 3 never arrived" in notes
        assert f"the total, {from_nano(statement.total_nano):f}".rstrip("0") in notes
        assert "rounded, to 2 decimals, half to even" in notes
        assert all(note.endswith((".", "…")) for note in statement.notes)
    assert "costs that no tenant is charged" in text(platform)
    assert platform.evidence == {"boot-1": "ab" * 32}
    assert platform.price_versions == ("H100-SXM:0123456789ab",)
    assert platform.settlement_policy == c.POLICY_VERSION


# ---- content -----------------------------------------------------------------------------------------


def test_the_example_policy_addresses_and_books_every_line():
    """Parties, cost centres by project and date, ledger accounts."""
    known = facts(
        [
            work("acme", 2 * NANO, project="chat"),
            work("acme", NANO, c.VISION, project="search", model="qwen2-vl-7b"),
            work("acme", 5, project="chat", service_period=EARLIER),
            work("globex", NANO),
            cost(c.SHARED, 100, reason="archive"),
            cost(c.IDLE, 9),
            cost(c.DOWN, 3),
        ],
        [
            used("acme", 100, project="chat"),
            used("globex", 100),
            used("acme", 5, project="search", model="qwen2-vl-7b", image_tokens=9),
        ],
    )
    platform, acme, globex = build(known, load_policy(EXAMPLE))
    assert (acme.kind, acme.pricing, acme.currency) == ("chargeback", "period_average", "USD")
    assert (acme.issuer.name, acme.recipient.name) == ("Example Platform Team", "Acme Ltd, Research")
    assert {(line.project, line.cost_centre) for line in acme.lines} == {
        ("chat", "4712"),
        ("search", "4711"),
        ("", "4711"),
    }
    assert {one.value: one.nano for one in subtotals(acme, "cost_centre")} == {
        "4711": NANO + 60 + 7,
        "4712": 3 * NANO // 2 + 5,
    }
    assert {line.gl_account for line in acme.lines} == {"610100", "610200", "620300", "620000"}
    assert globex.total_nano == 3 * NANO // 2 + 40 + 2
    assert {line.account: (line.gl_account, line.cost_centre) for line in platform.lines} == {
        c.DOWN: ("690000", "1000")
    }
    assert "nothing is to be paid" not in text(acme)


def test_an_adjustment_goes_to_the_cost_centre_of_its_own_period():
    """The organisation changed on the first of November."""
    moved = policy(
        "organisation: [{tenant: acme, cost_centre: old}, {tenant: acme, cost_centre: new, from: 2026-11-01}]\n"
    )
    _, acme = build(facts([work("acme", 1), work("acme", 2, service_period=EARLIER)]), moved)
    assert [(line.section, line.cost_centre) for line in acme.lines] == [("usage", "new"), (ADJUSTMENT, "old")]
    assert acme.recipient.cost_centre == "new"
    assert "Adjustments are for work of periods that were closed" in text(acme)


def test_what_is_unpriced_is_listed_and_not_in_the_total():
    """Unknown is not 0, on the tenant's statement and on the platform's."""
    known = facts(
        [work("acme", 600_000), work("acme", 50, model="new-model")],
        [used("acme", 1_000), used("acme", 3, model="new-model")],
        unpriced=("engine-7",),
    )
    platform, acme = build(known, policy(CARD))
    assert acme.unpriced == ("new-model, batch tier: 1 request, unpriced, not on the rate card",)
    assert "1 line is unpriced. Unpriced is not free" in text(acme)
    assert acme.total_nano == 600_001
    assert platform.unpriced == ("engine-7",)
    assert "cost is unknown and on no statement: engine-7." in text(platform)
    assert "Recovery is the actual cost of tenants' work less what the published rates charge" in text(platform)
    (group,) = [one for one in subtotals(acme, "model") if one.value == "new-model"]
    assert (group.nano, group.lines, group.unpriced) == (0, 1, 1)


def test_a_tenant_without_a_line_gets_no_statement_and_the_platform_always_does():
    """Nobody is sent an empty page."""
    (platform,) = build(facts([], [used("acme", 5)]))
    assert (platform.number, platform.total_nano, platform.lines) == (f"{PERIOD}-0000", 0, ())
    assert platform.identity[-1] == ("Charged to tenants", 0)


def test_the_days_of_a_statement_are_its_tenants_and_the_rest_the_platforms():
    """A pool's days are the platform's, whoever shares it."""
    days = (
        ("2026-11-02", "acme", c.CHARGED, 5),
        ("2026-11-01", "acme", c.CHARGED, 4),
        ("2026-11-01", "", c.IDLE, 3),
        ("2026-11-01", "acme", c.UNATTRIBUTED, 2),
    )
    platform, acme = build(facts([work("acme", 9), cost(c.IDLE, 3), cost(c.UNATTRIBUTED, 2)], days=days))
    assert acme.days == (("2026-11-01", c.CHARGED, 4), ("2026-11-02", c.CHARGED, 5))
    assert platform.days == (("2026-11-01", c.IDLE, 3), ("2026-11-01", c.UNATTRIBUTED, 2))


def test_a_pool_that_nobody_could_share_is_told_in_the_notes():
    """With the reason."""
    rules = policy("pools: {idle: {driver: requests}}\n")
    (platform,) = build(facts([cost(c.IDLE, 5)]), rules)
    assert "of which nobody has any): it stays with the platform." in text(platform)


def test_subtotals_are_by_known_keys_only():
    """And sections come in their reading order."""
    _, acme = build(
        facts([work("acme", 1), cost(c.IDLE, 2), work("acme", 3, service_period=EARLIER)]),
        policy("pools: {idle: {driver: busy}}\n"),
    )
    assert [one.value for one in subtotals(acme, "section")] == ["usage", "shared", "adjustment"]
    with pytest.raises(PeriodError, match="no subtotals by 'colour'; choose one of section, "):
        subtotals(acme, "colour")
