"""The part of farthing.yaml that says which traces Jaeger keeps: every remarkable one, and a share of the rest."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from farthing.domain.money import to_nano

__all__ = ["SamplingSettings"]

Outcome: TypeAlias = Literal["aborted", "failed", "rejected", "finished"]


class SamplingSettings(BaseModel):
    """Which traces Jaeger keeps, decided when a trace is complete: those with an error, those that took longer than
    their tier's `e2e` objective, those that were dear, and a share of all. Explained in [traces.md](traces.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_percent: Annotated[Decimal, Field(ge=0, le=100, max_digits=9, decimal_places=6)] = Decimal(5)
    """Percent of all traces that are kept whatever they are, chosen by a hash of the trace id. 100: every trace."""
    keep_outcomes: Annotated[tuple[Outcome, ...], Field(max_length=4)] = ("aborted", "failed")
    """A trace with a request that ended like this is kept, beside every trace with an error. Rejections are many when
    there is no room; add `rejected` to keep them too."""
    costly_usd: Annotated[Decimal | None, Field(gt=0, le=1_000_000)] = Decimal("0.05")
    """A trace is kept if the estimate of one of its requests is as high, in the ledger's currency. None: whatever it
    cost."""
    slow_seconds: Annotated[float, Field(ge=0.001, le=86_400)] = 60.0
    """A trace is kept if it took as long, or as long as the longest `e2e` bound of a tier where that is more: for
    requests of tiers without one."""
    decision_wait_seconds: Annotated[int, Field(ge=1, le=3600)] = 180
    """After so long from its first span, a trace that has no root span is decided on with what there is. It should be
    longer than requests take."""
    root_wait_seconds: Annotated[int, Field(ge=1, le=3600)] = 15
    """So long after its root span, a trace is decided on: for spans that are sent later than the root."""
    pending_traces: Annotated[int, Field(ge=100, le=10_000_000)] = 40_000
    """Traces that wait for their decision, in memory at some 10 kB each. Beyond, the oldest is lost."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 7
    """Days for which Jaeger keeps a trace."""

    @field_validator("costly_usd")
    @classmethod
    def _whole_nano(cls, amount: Decimal | None) -> Decimal | None:
        if amount is not None:
            to_nano(amount)
        return amount

    @model_validator(mode="after")
    def _root_first(self) -> SamplingSettings:
        if self.root_wait_seconds > self.decision_wait_seconds:
            raise ValueError(
                f"root_wait_seconds ({self.root_wait_seconds}) is longer than decision_wait_seconds "
                f"({self.decision_wait_seconds}), after which every trace is decided on; make it shorter"
            )
        return self

    @property
    def costly_nano(self) -> int | None:
        """``costly_usd`` in nano-dollars."""
        return None if self.costly_usd is None else to_nano(self.costly_usd)
