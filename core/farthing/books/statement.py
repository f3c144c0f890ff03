"""The statement: an immutable document for one tenant, or for the platform, of one closed period.

Its canonical form is JSON with sorted keys; every other form is rendered from it. Amounts are integer nano-units of
the statement's currency, quantities are integers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from farthing.domain.errors import PeriodError

__all__ = [
    "ADJUSTMENT",
    "PLATFORM",
    "PLATFORM_TENANT",
    "RECOVERY",
    "SECTIONS",
    "SHARED_COST",
    "USAGE",
    "Party",
    "Statement",
    "StatementLine",
    "decode_statement",
    "encode_statement",
    "sha256_of",
]

SCHEMA_VERSION = 1
PLATFORM_TENANT = ""
"""Who bears what no tenant is charged: idle time, pools that are kept, over- and under-recovery."""

USAGE = "usage"
"""Work of the period itself."""
SHARED_COST = "shared"
"""A share of a pool: idle time, hosts, storage, commitments that were not used …"""
PLATFORM = "platform"
"""What stays with the platform."""
RECOVERY = "recovery"
"""Rate card or showback against actual cost."""
ADJUSTMENT = "adjustment"
"""Work of an earlier period that was closed when it became known."""
SECTIONS = (USAGE, SHARED_COST, PLATFORM, RECOVERY, ADJUSTMENT)


@dataclass(frozen=True, slots=True)
class Party:
    """Who issues or receives a statement."""

    name: str
    tenant: str = ""
    address: tuple[str, ...] = ()
    contact: str = ""
    cost_centre: str = ""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One line; ``basis`` holds the integers and names that its amount is computed from."""

    line: int
    """1-based, in reading order."""
    section: str
    description: str
    service_period: str
    account: str
    phase: str = ""
    tenant: str = ""
    project: str = ""
    cost_centre: str = ""
    model: str = ""
    tier: str = ""
    reason: str = ""
    method: str = ""
    """metered, modelled, estimated or assumed; several joined by a comma."""
    quantity: int | None = None
    """None: nobody counted it, or the line has no quantity."""
    unit: str = ""
    """tokens, requests, GPU-seconds …"""
    unit_price_nano: int | None = None
    """Nano-units per ``unit_size`` units, rounded for reading; the amount is what counts."""
    unit_size: int = 1
    amount_nano: int | None = 0
    """None: unpriced. It is then not in the total, which says so."""
    gl_account: str = ""
    basis: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as it is issued. ``total_nano + rounding_nano = payable_nano``."""

    number: str
    """For example ``2026-11-0003``: the period, and the place in its order of tenants."""
    period: str
    start_ns: int
    end_ns: int
    kind: str
    """``showback`` (for information) or ``chargeback`` (to be paid)."""
    pricing: str
    """``actual``, ``period_average`` or ``rate_card``."""
    currency: str
    issuer: Party
    recipient: Party
    issued_ns: int
    """UTC nanoseconds of the sign-off."""
    signed_by: str
    lines: tuple[StatementLine, ...]
    total_nano: int
    """The exact sum of the lines that are priced."""
    rounding_nano: int
    """What the one rounding of the total adds or takes."""
    payable_nano: int
    decimals: int
    """Of the currency's smallest unit that is paid: 2 for cents."""
    policy_version: str
    settlement_policy: str
    price_versions: tuple[str, ...] = ()
    fit_errors: tuple[tuple[str, str, float | None], ...] = ()
    notes: tuple[str, ...] = ()
    """Method notes in full sentences."""
    unpriced: tuple[str, ...] = ()
    days: tuple[tuple[str, str, int], ...] = ()
    """(UTC date, account, nano) for the plot of the period."""
    identity: tuple[tuple[str, int], ...] = ()
    """Of the platform's statement: the period's bill on one side, everything it became on the other."""
    evidence: dict[str, str] = field(default_factory=dict)
    """boot -> SHA-256 of its input records, and that of the period's closing."""
    schema_version: int = SCHEMA_VERSION

    def line(self, number: int) -> StatementLine:
        """A line by its number; PeriodError when there is none."""
        for line in self.lines:
            if line.line == number:
                return line
        raise PeriodError(f"statement {self.number} has no line {number}; it has {len(self.lines)}")


def encode_statement(statement: Statement) -> bytes:
    """The canonical bytes: equal statements have equal bytes."""
    return msgspec.json.encode(statement, order="sorted")


def decode_statement(document: bytes) -> Statement:
    """The statement of its canonical bytes; PeriodError when they are none."""
    try:
        return msgspec.json.decode(document, type=Statement)
    except msgspec.MsgspecError as error:
        raise PeriodError(f"not a statement of this version: {error}") from error


def sha256_of(document: bytes) -> str:
    """The hexadecimal digest that names a document's content."""
    return hashlib.sha256(document).hexdigest()
