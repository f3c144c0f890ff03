"""Statements of the tests: of a recording's real costs, and a small one to vary."""

from dataclasses import replace
from typing import Any

from tests.books.policies import of_recording
from tests.replay.conftest import cost

from farthing.books.facts import PeriodFacts
from farthing.books.policy import Policy
from farthing.books.statement import USAGE, Party, Statement, StatementLine
from farthing.books.statements import build_statements
from farthing.domain import conventions as c
from farthing.domain.money import NANO
from farthing.replay.recording import load_recording

START_NS = 1_793_491_200 * NANO
"""2026-11-01T00:00:00Z."""
END_NS = START_NS + 30 * 86_400 * NANO
ISSUER = Party("Platform", contact="billing@platform.example", cost_centre="CC-1")


def line(**changes: Any) -> StatementLine:
    """A line of usage with a price."""
    ours = StatementLine(
        line=1,
        section=USAGE,
        description="Output tokens",
        service_period="2026-11",
        account=c.CHARGED,
        phase=c.DECODE,
        tenant="acme",
        project="search",
        model="llama",
        method=c.MODELLED,
        quantity=1_000_000,
        unit="tokens",
        unit_price_nano=340_000_000,
        unit_size=1_000_000,
        amount_nano=340_000_000,
    )
    return replace(ours, **changes)


def statement(*lines: StatementLine, **changes: Any) -> Statement:
    """A showback of the lines, numbered in their order; its total is their sum and its rounding to cents."""
    numbered = tuple(replace(one, line=number) for number, one in enumerate(lines, start=1))
    total = sum(one.amount_nano or 0 for one in lines)
    payable = round(total, -7)
    ours = Statement(
        number="2026-11-0001",
        period="2026-11",
        start_ns=START_NS,
        end_ns=END_NS,
        kind="showback",
        pricing="actual",
        currency="USD",
        issuer=ISSUER,
        recipient=Party("Acme", tenant="acme"),
        issued_ns=END_NS + NANO,
        signed_by="Dana",
        lines=numbered,
        total_nano=total,
        rounding_nano=payable - total,
        payable_nano=payable,
        decimals=2,
        policy_version="default",
        settlement_policy=c.POLICY_VERSION,
    )
    return replace(ours, **changes)


def recorded(name: str) -> tuple[PeriodFacts, tuple[Statement, ...]]:
    """What a recorded H100 cost, and the statements of it under the default policy."""
    facts = of_recording(cost(load_recording(name)))
    return facts, build_statements(facts, Policy.default(), signed_by="Dana", issued_ns=facts.end_ns)
