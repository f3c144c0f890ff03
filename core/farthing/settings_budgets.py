"""The section of farthing.yaml that says what may be spent in a month."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from farthing.books.budgets import DEFAULT_THRESHOLDS, Budget, budget

__all__ = ["BudgetSettings"]

OptionalName = Annotated[str | None, Field(min_length=1)]


class BudgetSettings(BaseModel):
    """What a tenant, a project, a model or any combination of them may spend in a calendar month (UTC); without any of
    them, the whole bill. Budgets never block a request: thresholds that are passed are told, see [spend.md](spend.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: OptionalName = None
    """Counts what this tenant bears: charged and aborted work. None: every tenant."""
    project: OptionalName = None
    """Counts the work of this project only. None: every project."""
    model: OptionalName = None
    """Counts the work on this model only. None: every model."""
    monthly_usd: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=9)]
    """The budget of each month, in the ledger's currency."""
    thresholds: Annotated[tuple[Decimal, ...], Field(min_length=1)] = DEFAULT_THRESHOLDS
    """Shares of the budget at which to tell, once a month each: 0.8 is 80 %."""

    @field_validator("thresholds")
    @classmethod
    def _shares(cls, thresholds: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
        for share in thresholds:
            if not share.is_finite() or not 0 < share <= 100 or share * 1_000_000 % 1:
                raise ValueError(f"threshold {share} is not a share; enter for example 0.8 for 80 %")
        return tuple(sorted(set(thresholds)))

    @property
    def budget(self) -> Budget:
        """The budget as the books know it."""
        return budget(self.tenant, self.project, self.model, self.monthly_usd, self.thresholds)
