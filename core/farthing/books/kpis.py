"""Unit economics of a period: what one request, document, image or million tokens cost, and where the bill went.

Sources: FinOps Foundation, "FinOps for AI Overview" (finops.org/wg/finops-for-ai-overview), for *Cost Per Inference*
(total inference cost / number of inference requests), *Token Consumption Metrics* (cost / tokens) and *Resource
Utilization Efficiency*; its KPI library (finops.org/finops-kpis) for the percentages of cost that are allocated and
unallocated. Every quotient is exact until it is rounded once, half to even, to the nano-dollar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from farthing.domain import conventions as c

__all__ = ["Measures", "Share", "UnitCost", "shares", "unit_costs"]

MILLION = 1_000_000
_WORK = (c.CHARGED, c.ABORTED)

Amount: TypeAlias = int | str | None
"""Nano-dollars; ``unpriced`` when no price applied to any of it; None when nobody counted what it is divided by."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What the books say of a period: nano-dollars, requests and tokens."""

    accounts_nano: Mapping[str, int]
    """The whole bill by account."""
    phases_nano: Mapping[str, int]
    """Charged and aborted work by phase."""
    named_nano: int
    """Of that, the part of tenants that have a name."""
    requests: Mapping[str, int]
    """By outcome."""
    tokens: Mapping[str, int]
    """By kind: prompt_computed, prompt_cached, image, output."""
    uncounted: int
    """Requests whose tokens nobody told."""
    saved_nano: int
    """What caches saved; not a part of the bill."""
    documents: tuple[int, int] | None = None
    """How many documents (named workloads) were worked on, and their nano-dollars; None: not counted."""
    image_requests: tuple[int, int] | None = None
    """How many finished requests brought images, and their nano-dollars; None: not counted."""
    unpriced: tuple[str, ...] = field(default=())
    """Engines that no price applied to: neither their cost nor their requests are in any number."""

    @property
    def bill_nano(self) -> int:
        """All accounts together."""
        return sum(self.accounts_nano.values())

    @property
    def work_nano(self) -> int:
        """What requests cost: charged and aborted."""
        return sum(self.accounts_nano.get(account, 0) for account in _WORK)


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What one unit cost: its own work, and its part of the whole bill, idle time and all."""

    key: str
    title: str
    units: int | None
    """How many; None when nobody counted."""
    direct_nano: Amount
    loaded_nano: Amount
    formula: str


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the bill; ``value`` is 0-1, ``unpriced`` or, without a bill, None."""

    key: str
    title: str
    nano: Amount
    value: float | str | None
    formula: str


def unit_costs(measures: Measures) -> tuple[UnitCost, ...]:
    """Cost per unit, for every unit that the books may know.

    Direct is the cost of the work itself (charged and aborted: whoever hung up was served as well), loaded the whole
    bill. A token's direct cost is that of its phase: computed prompt tokens of prefill, output tokens of decode, image
    tokens of vision; blended is all work by computed prompt and output tokens.
    """
    finished = measures.requests.get(c.FINISHED, 0)
    prompt, output, image = (measures.tokens.get(kind, 0) for kind in _TOKENS)
    documents, document_nano = measures.documents or (None, None)
    images, image_nano = measures.image_requests or (None, None)
    bill, work, phases = measures.bill_nano, measures.work_nano, measures.phases_nano
    rows = (
        ("request", "Request", finished, work, bill, 1, "charged + aborted, or the bill, / finished requests"),
        ("document", "Document (named workload)", documents, document_nano, None, 1, "its requests' cost / workloads"),
        ("image_request", "Request with images", images, image_nano, None, 1, "their cost / finished requests"),
        ("image", "Image", None, None, None, 1, "the books count image tokens, not images"),
        ("prompt_tokens", "Million prompt tokens computed", prompt, phases.get(c.PREFILL, 0), None, MILLION, "prefill"),
        ("output_tokens", "Million output tokens", output, phases.get(c.DECODE, 0), None, MILLION, "decode"),
        ("image_tokens", "Million image tokens", image, phases.get(c.VISION, 0), None, MILLION, "vision"),
        ("tokens", "Million tokens, blended", prompt + output, work, bill, MILLION, "as a request, / prompt + output"),
    )
    return tuple(
        UnitCost(
            key,
            title,
            units,
            _quotient(measures, direct, units, per),
            _quotient(measures, loaded, units, per),
            formula,
        )
        for key, title, units, direct, loaded, per, formula in rows
    )


def shares(measures: Measures) -> tuple[Share, ...]:
    """Where the bill went, and beside it what caches saved of what the work would have cost without them."""
    work, bill = measures.work_nano, measures.bill_nano
    without = work + measures.saved_nano
    rows = [
        ("allocated", "Allocated to tenants", measures.named_nano, bill, "charged + aborted of named tenants / bill"),
        ("unnamed", "Work without a tenant", work - measures.named_nano, bill, "charged + aborted of unknown / bill"),
        *(
            (account, account.replace("_", " ").capitalize(), measures.accounts_nano.get(account, 0), bill, "/ bill")
            for account in c.BOOK_ACCOUNTS
            if account != c.CHARGED and (account in _ALWAYS or measures.accounts_nano.get(account, 0))
        ),
        ("saved", "Saved by caches", measures.saved_nano, without, "saved / (charged + aborted + saved)"),
    ]
    return tuple(
        Share(key, title, _known(measures, nano), _ratio(measures, nano, whole), formula)
        for key, title, nano, whole, formula in rows
    )


_TOKENS = (c.TOKEN_PROMPT_COMPUTED, c.TOKEN_OUTPUT, c.TOKEN_IMAGE)
_ALWAYS = (c.IDLE, c.UNATTRIBUTED, c.ABORTED)
"""Accounts whose share is told even when it is 0."""


def _nothing_priced(measures: Measures) -> bool:
    return bool(measures.unpriced) and measures.bill_nano == 0


def _known(measures: Measures, nano: int) -> Amount:
    return c.UNPRICED if _nothing_priced(measures) else nano


def _quotient(measures: Measures, nano: int | None, units: int | None, per: int) -> Amount:
    if _nothing_priced(measures):
        return c.UNPRICED
    if nano is None or not units:
        return None
    return round(Fraction(nano * per, units))


def _ratio(measures: Measures, nano: int, whole: int) -> float | str | None:
    if _nothing_priced(measures):
        return c.UNPRICED
    return nano / whole if whole else None
