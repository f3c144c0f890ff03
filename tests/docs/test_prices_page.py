"""Every figure of docs/prices.md is what its example costs."""

from datetime import date, datetime

import pytest
from tests.docs.pages import ROOT, blocks

from farthing.books.moments import moment_ns
from farthing.books.price_lines import price_lines
from farthing.books.prices import PriceBook
from farthing.domain.clock import HOUR
from farthing.domain.errors import PriceError
from farthing.domain.money import to_nano
from farthing.service.pricing import price_book
from farthing.settings import parse_settings

PAGE = (ROOT / "docs" / "prices.md").read_text()
EXAMPLES = [block.body for block in blocks(PAGE) if block.language == "yaml"]
CONTRACT, SPOT, EUROS, NODE, RESERVED, COMMITTED, OWNED = (
    price_book(parse_settings(body, "prices.md")) for body in EXAMPLES
)


def at(text):
    """Nanoseconds of a UTC date or time."""
    return moment_ns(datetime.fromisoformat(text))


def hour(tariff, text):
    """Nano-dollars of the hour from a moment."""
    return tariff.bill(at(text), at(text) + HOUR)


def said(*amounts):
    """Whether the page has these amounts, as nano-dollars."""
    for amount in amounts:
        assert f"${amount}" in PAGE
    return tuple(to_nano(amount.replace(",", "")) for amount in amounts)


def test_a_contract_with_a_gap():
    """June, July, August."""
    chat = CONTRACT.tariff("H100-SXM", 2, engine="chat")
    assert (hour(chat, "2026-06-15"), hour(chat, "2026-08-15")) == said("4.98", "4.58")
    with pytest.raises(PriceError, match="from 2026-07-01 until 2026-08-01"):
        hour(chat, "2026-07-15")


def test_spot_prices_of_two_hours():
    """And none for the third."""
    start, end = at("2026-11-01T12:00:00"), at("2026-11-01T14:00:00")
    bills = [SPOT.tariff("L40S", 1, engine=engine).bill(start, end) for engine in ("nightly", "chat")]
    assert tuple(bills) == said("0.98", "2.66")
    with pytest.raises(PriceError, match=r"GPU 'L40S' \(price 'spot'\) has no price from 2026-11-01T14:00:00Z on"):
        SPOT.tariff("L40S", 1, engine="nightly").nano_per_hour(end)


def test_a_price_in_euros():
    """At each month's rate."""
    tariff = EUROS.tariff("L40S", 1)
    assert (hour(tariff, "2026-10-15"), hour(tariff, "2026-11-15")) == said("1.188", "1.20395")
    assert not tariff.priced(at("2026-09-30"))


def test_a_node_is_divided_as_the_table_says():
    """Host, engines, the rest of a slice, free GPUs; and its total."""
    (node,) = NODE.holdings
    parts = {name: hour(tariff, "2026-02-01") for name, tariff in node.engines.items()}
    parts |= {f"`{pool.account}`, `{pool.reason}`": hour(pool.tariff, "2026-02-01") for pool in node.pools}
    rows = [line.split("|") for line in PAGE.splitlines() if line.count("|") == 4 and "| $" in line]
    table = {
        what.split("`")[1] if account.strip() == "its own lines" else account.strip(): to_nano(amount.strip(" $"))
        for _, what, amount, account, _ in rows
        if "`" in what + account
    }
    assert {name: abs(table[name] - nano) <= 1 for name, nano in parts.items()} == dict.fromkeys(table, True)
    assert sum(parts.values()) == 24 * 10**9 == sum(table.values())


def test_a_reservation_amortises_to_what_was_paid():
    """Of a GPU-hour $1.25 of $1.75."""
    (line,) = price_lines(RESERVED, at("2026-06-01"))[-1:]
    assert (line.nano_per_gpu_hour, line.amortised_nano_per_gpu_hour) == said("1.75", "1.25")
    (paid,) = said("87,600")
    term = RESERVED.holdings[0].tariff.bill(moment_ns(date(2026, 1, 1)), moment_ns(date(2027, 1, 1)))
    assert term == paid + 8_760 * 4 * 10**9
    assert {pool.account for pool in RESERVED.pools} == {"unused_commitment"}


def test_a_commitment_costs_its_year():
    """By the hour."""
    assert (hour(COMMITTED.holdings[0].tariff, "2026-05-01"),) == said("45.60")


def test_owned_hardware_costs_its_parts():
    """Before and after it is depreciated."""
    before, after = (price_lines(OWNED, at(day))[-1] for day in ("2027-01-01", "2030-06-01"))
    assert (before.nano_per_gpu_hour, after.nano_per_gpu_hour) == said("1.26098229", "0.362625")
    parts = said("7.186858316", "1.701", "1.20")
    assert abs(hour(OWNED.holdings[0].tariff, "2027-01-01") - sum(parts)) <= 1
    assert before.amortised_nano_per_gpu_hour is not None
    assert abs(before.amortised_nano_per_gpu_hour * 8 - parts[0]) <= 4


def test_the_version_and_content_of_the_default_h100_are_quoted():
    """As the books cite it."""
    tariff = PriceBook().tariff("H100-SXM", 1)
    assert f"`{tariff.version}`" in PAGE
    assert f"\n{tariff.content}\n" in PAGE
