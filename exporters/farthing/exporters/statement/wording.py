"""What a statement calls things: the books' names in finance's words.

A name that is not here is shown as it is, so a new account never disappears.
"""

from __future__ import annotations

from typing import Final

from farthing.books.statement import ADJUSTMENT, PLATFORM, RECOVERY, SHARED_COST, USAGE
from farthing.domain import conventions as c

__all__ = [
    "ACCOUNTS",
    "METHODS",
    "PHASES",
    "PRICINGS",
    "SECTIONS",
    "SECTION_INTRODUCTIONS",
    "SHOWBACK",
    "cost_type",
]

SHOWBACK: Final = "showback"

SECTIONS: Final = {
    USAGE: "Usage",
    SHARED_COST: "Shared costs",
    PLATFORM: "Borne by the platform",
    RECOVERY: "Over- and under-recovery",
    ADJUSTMENT: "Adjustments to earlier periods",
}
SECTION_INTRODUCTIONS: Final = {
    USAGE: "Work that was done for requests in this period.",
    SHARED_COST: "The recipient's share of costs that no single request caused.",
    PLATFORM: "Costs that no tenant is charged.",
    RECOVERY: "The difference between actual cost and what tenants were charged.",
    ADJUSTMENT: (
        "Work of periods that were closed before it became known. The service period says when it was done; "
        "statements that were issued stay as they are."
    ),
}
PRICINGS: Final = {
    "actual": "Actual cost",
    "period_average": "Average rate of the period",
    "rate_card": "Rate card",
}
PHASES: Final = {
    c.PREFILL: "Prompts (prefill)",
    c.DECODE: "Answers (decode)",
    c.VISION: "Images (vision)",
}
ACCOUNTS: Final = {
    c.CHARGED: "Finished requests",
    c.ABORTED: "Aborted requests",
    c.STARTING: "Starting engines",
    c.IDLE: "Idle time",
    c.ASLEEP: "Asleep",
    c.DRAINING: "Draining engines",
    c.DOWN: "Down",
    c.UNATTRIBUTED: "Unattributed",
    c.WIP: "Work in progress",
    c.UNALLOCATED: "Unallocated GPUs",
    c.UNUSED_COMMITMENT: "Unused commitments",
    c.SHARED: "Shared pools",
}
METHODS: Final = {
    c.METERED: "read from a clock or a counter",
    c.MODELLED: "metered busy time, divided by a fit whose error on unseen windows is at most 10 %",
    c.ESTIMATED: "divided by a fit with a larger error, or taken from counters alone",
    c.ASSUMED: "divided by documented defaults, before there was a fit",
}


def cost_type(section: str, account: str, phase: str) -> str:
    """What a line paid for, in the words of the plots: a phase for finished work, else the account or section."""
    if section in (ADJUSTMENT, RECOVERY):
        return SECTIONS[section]
    if account == c.CHARGED and phase:
        return PHASES.get(phase, phase)
    return ACCOUNTS.get(account, account) or SECTIONS.get(section, section)
