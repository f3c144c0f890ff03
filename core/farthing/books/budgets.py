"""Monthly budgets: what is spent of them, what is left, and the moments at which a share of one was passed.

Budgets are soft: they tell, and never stop anything. A budget's month is a calendar month in UTC and its spend what is
settled of that month, by time of service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from farthing.domain.errors import ConfigError
from farthing.domain.money import to_nano

__all__ = ["DEFAULT_THRESHOLDS", "Budget", "BudgetEvent", "BudgetState", "Who", "budget", "events_due", "spent_of"]

DEFAULT_THRESHOLDS = (Decimal("0.5"), Decimal("0.8"), Decimal(1))
_MILLION = 1_000_000

Who = tuple[str, str, str]
"""Tenant, project and model that bear a cost."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant, a project, a model or any combination of them may spend in a month; of none: the whole bill."""

    tenant: str | None
    project: str | None
    model: str | None
    monthly_nano: int
    thresholds_ppm: tuple[int, ...]
    """Shares of the budget, in millionths, ascending."""

    @property
    def name(self) -> str:
        """Whose it is, for people and as a key: ``tenant=acme project=search``; ``everything`` for the whole bill."""
        parts = (("tenant", self.tenant), ("project", self.project), ("model", self.model))
        return " ".join(f"{key}={value}" for key, value in parts if value is not None) or "everything"

    @property
    def whole(self) -> bool:
        """Whether it is a budget of the whole bill: idle time and all."""
        return self.tenant is None and self.project is None and self.model is None

    def covers(self, who: Who) -> bool:
        """Whether a cost that they bear counts against it."""
        wanted = (self.tenant, self.project, self.model)
        return all(name is None or name == found for name, found in zip(wanted, who, strict=True))

    def passed(self, spent_nano: int) -> tuple[int, ...]:
        """The thresholds, in millionths, that a spend has reached. Exact: no share is divided."""
        return tuple(ppm for ppm in self.thresholds_ppm if spent_nano * _MILLION >= self.monthly_nano * ppm)


@dataclass(frozen=True, slots=True)
class BudgetEvent:
    """A threshold of a budget was passed. A budget is its scope and its amount: a raised one tells once more."""

    budget: str
    monthly_nano: int
    month: str
    threshold_ppm: int
    spent_nano: int
    """Settled spend when it was seen."""
    at_ns: int
    """UTC nanoseconds when it was seen."""

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What is written once."""
        return self.budget, self.monthly_nano, self.month, self.threshold_ppm

    @property
    def threshold(self) -> Decimal:
        """The threshold as a share of the budget."""
        return Decimal(self.threshold_ppm) / _MILLION


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget and what is spent of it in a month."""

    budget: Budget
    spent_nano: int

    @property
    def left_nano(self) -> int:
        """What is left of it; negative when it is overspent."""
        return self.budget.monthly_nano - self.spent_nano

    @property
    def ratio(self) -> float:
        """Spend by budget, 1 when it is used up."""
        return self.spent_nano / self.budget.monthly_nano


def budget(
    tenant: str | None,
    project: str | None,
    model: str | None,
    monthly_usd: Decimal,
    thresholds: Sequence[Decimal] = DEFAULT_THRESHOLDS,
) -> Budget:
    """A budget from settings. Raises ConfigError when a threshold is finer than a millionth."""
    ppm = sorted({threshold * _MILLION for threshold in thresholds})
    made = Budget(tenant, project, model, to_nano(monthly_usd), tuple(int(value) for value in ppm))
    if any(value != int(value) for value in ppm):
        raise ConfigError(f"budget {made.name}: thresholds are shares such as 0.8, with six decimals at most")
    return made


def spent_of(budgets: Iterable[Budget], borne: Mapping[Who, int], bill_nano: int) -> tuple[BudgetState, ...]:
    """Each budget's state, from what everyone bore in the month and the whole bill of it, in nano-dollars."""
    return tuple(
        BudgetState(one, bill_nano if one.whole else sum(nano for who, nano in borne.items() if one.covers(who)))
        for one in budgets
    )


def events_due(states: Iterable[BudgetState], month: str, at_ns: int) -> tuple[BudgetEvent, ...]:
    """An event for every threshold that is passed, whether it was written before or not."""
    return tuple(
        BudgetEvent(state.budget.name, state.budget.monthly_nano, month, ppm, state.spent_nano, at_ns)
        for state in states
        for ppm in state.budget.passed(state.spent_nano)
    )
