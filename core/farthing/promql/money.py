"""Questions about money: what an account took, what share of the whole, what a million tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.domain import conventions as names
from farthing.promql.scope import Scope, any_of, by

__all__ = [
    "BUSY_ACCOUNTS",
    "cost_in",
    "cost_share",
    "model_unit_cost",
    "tenant_tokens_before",
    "tenant_tokens_in",
    "unattributed_share",
]

BUSY_ACCOUNTS: Final = (names.CHARGED, names.ABORTED, names.UNATTRIBUTED)
"""Accounts of busy time."""
_PROMPT_AND_OUTPUT: Final = f'{names.LABEL_KIND}!="{names.TOKEN_IMAGE}"'
"""Image tokens are counted among the prompt's."""


def cost_in(scope: Scope, over: str, accounts: Sequence[str] = (), group: Sequence[str] = ()) -> str:
    """Dollars settled within ``over``, in some accounts or in all."""
    chosen = (any_of(names.LABEL_ACCOUNT, accounts),) if accounts else ()
    return f"sum{by(group)}({scope.over('increase', over, names.METRIC_COST, *chosen)})"


def cost_share(
    scope: Scope, over: str, accounts: Sequence[str], of: Sequence[str] = (), group: Sequence[str] = ()
) -> str:
    """Part (0-1) of the dollars settled within ``over`` in accounts ``of`` (all) that ``accounts`` took."""
    return f"{cost_in(scope, over, accounts, group)}\n/\n{cost_in(scope, over, of, group)}"


def unattributed_share(scope: Scope, over: str, group: Sequence[str] = (names.LABEL_ENGINE,)) -> str:
    """Part (0-1) of the busy cost settled within ``over`` that no request explained at first."""
    unexplained = f"sum{by(group)}({scope.over('increase', over, names.METRIC_UNATTRIBUTED)})"
    return f"{unexplained}\n/\n{cost_in(scope, over, BUSY_ACCOUNTS, group)}"


def tenant_tokens_in(scope: Scope, over: str, group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Tokens of prompts and answers together that were settled within ``over``."""
    return f"sum{by(group)}({scope.over('increase', over, names.METRIC_TENANT_TOKENS, _PROMPT_AND_OUTPUT)})"


def tenant_tokens_before(scope: Scope, ago: str, group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Tokens of prompts and answers together that had been settled ``ago``, since the ledger began."""
    return f"sum{by(group)}({scope.now(names.METRIC_TENANT_TOKENS, _PROMPT_AND_OUTPUT)} offset {ago})"


def model_unit_cost(scope: Scope, over: str, group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Dollars that tenants' requests cost per million tokens, prompts and answers together, within ``over``."""
    cost = f"sum{by(group)}({scope.over('increase', over, names.METRIC_TENANT_COST)})"
    return f"1e6 * {cost} / {tenant_tokens_in(scope, over, group)}"
