"""Statements of the tests: of a recording's real costs, and a small one to vary."""

from dataclasses import replace
from typing import Any

from farthing.books.statement import PLATFORM, USAGE, Party, Statement, StatementLine
from farthing.domain import conventions as c
from farthing.domain.money import NANO

START_NS = 1_793_491_200 * NANO
"""2026-11-01T00:00:00Z."""
END_NS = START_NS + 30 * 86_400 * NANO
TOKENS = {c.PREFILL: "prompt_computed", c.DECODE: "output", c.VISION: "image"}
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


def of_recording(costs: dict[str, Any]) -> tuple[Statement, ...]:
    """A statement for each tenant of a costed recording (the JSON of a replay) and one of what stays."""
    made = []
    for tenant, own in costs["tenants"].items():
        lines = [
            line(
                description=f"{phase}, finished requests",
                phase=phase,
                tenant=tenant,
                quantity=own["tokens"][TOKENS[phase]],
                unit_price_nano=nano * 1_000_000 // own["tokens"][TOKENS[phase]],
                amount_nano=nano,
            )
            for phase, nano in own["by_phase"].items()
            if nano
        ]
        lines.append(line(account=c.ABORTED, phase="", amount_nano=own["aborted_nano_usd"], tenant=tenant))
        made.append(statement(*lines, recipient=Party(tenant, tenant=tenant)))
    kept = {account: costs[f"{account}_nano_usd"] for account in (c.STARTING, c.IDLE, c.ASLEEP, c.DOWN)}
    kept |= {f"{c.UNATTRIBUTED} {reason}": nano for reason, nano in costs["unattributed_nano_usd"].items()}
    lines = [
        line(section=PLATFORM, description=name, account=name.split()[0], phase="", project="", amount_nano=nano)
        for name, nano in kept.items()
    ]
    made.append(statement(*lines, recipient=Party("Platform")))
    return tuple(made)
