"""The section of farthing.yaml that promises: service-level objectives by tier, model or tenant."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farthing.domain import conventions as names

__all__ = ["DEFAULT_SLOS", "ENGINE_BOUNDS", "Signal", "SloSettings", "effective_slos"]

Signal: TypeAlias = Literal["ttft", "e2e", "itl", "queue", "availability"]

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
OptionalName = Annotated[str | None, Field(min_length=1)]

_WAITING: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)

ENGINE_BOUNDS: Final[dict[str, tuple[float, ...]]] = {
    "ttft": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
        *(160.0, 640.0, 2560.0),
    ),
    "itl": (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    ),
    "e2e": _WAITING,
    "queue": _WAITING,
}
"""Upper bounds in seconds of vLLM's own histograms, as it exposes them (0.12 to 0.32)."""


class SloSettings(BaseModel):
    """Promises: so many of all requests within a bound, over a window of days. An entry that has the name of a default
    replaces it. Explained in [slo.md](slo.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    """What alerts and series call it; small letters, digits and hyphens."""
    signal: Signal
    """What is promised: time to first token, end to end, inter-token latency (a request's mean), time in the queue, or
    an answer at all."""
    tier: OptionalName = None
    """Counts requests of this tier only. None: every tier."""
    model: OptionalName = None
    """Counts requests to this model only. None: every model, each with an error budget of its own."""
    tenant: OptionalName = None
    """Counts requests of this tenant only. None: every tenant."""
    bound_seconds: Annotated[float | None, Field(ge=0.001, le=86_400)] = None
    """A request is good within it. Required, except for `availability`."""
    objective: Annotated[Decimal, Field(gt=0, le=Decimal("0.99999"), max_digits=9)] = Decimal("0.95")
    """Share of all requests that must be good."""
    window_days: Annotated[int, Field(ge=1, le=90)] = 30
    """Days over which the error budget is counted."""
    source: Literal["requests", "engine"] = "requests"
    """Farthing's record of each request, or, where no probe reports on a model, the engine's own histogram: it knows no
    tiers and tenants, and has fixed bounds."""
    enabled: bool = True
    """Switched off, nothing is counted or told; also a way to drop a default."""

    @model_validator(mode="after")
    def _bounded(self) -> SloSettings:
        if self.signal == names.SLO_AVAILABILITY and self.bound_seconds is not None:
            raise ValueError(f"SLO {self.name!r}: availability has no bound; leave out bound_seconds")
        if self.signal != names.SLO_AVAILABILITY and self.bound_seconds is None and self.enabled:
            raise ValueError(f"SLO {self.name!r}: a bound is missing; enter bound_seconds, for example 0.5")
        return self

    @model_validator(mode="after")
    def _of_one_tier(self) -> SloSettings:
        if self.tier == names.OTHER:
            raise ValueError(
                f"SLO {self.name!r}: {names.OTHER!r} is what tiers without series of their own share; give it the name "
                "of one tier"
            )
        return self

    @model_validator(mode="after")
    def _countable(self) -> SloSettings:
        if self.source != "engine":
            return self
        if self.tier is not None or self.tenant is not None:
            raise ValueError(
                f"SLO {self.name!r}: an engine's histograms know no tier and no tenant; leave both out, or use the "
                "probe and source requests"
            )
        if self.signal == names.SLO_AVAILABILITY:
            raise ValueError(f"SLO {self.name!r}: no engine counts every request; availability needs source requests")
        bounds = ENGINE_BOUNDS[self.signal]
        if self.bound_seconds is not None and self.bound_seconds not in bounds:
            raise ValueError(
                f"SLO {self.name!r}: vLLM's histogram has no bucket at {self.bound_seconds:g} s; nearest are "
                f"{' and '.join(f'{bound:g}' for bound in _nearest(self.bound_seconds, bounds))}"
            )
        return self

    @property
    def error_budget(self) -> Decimal:
        """Share of requests that may be bad, exactly."""
        return 1 - self.objective

    @property
    def labels(self) -> dict[str, str]:
        """The labels that every series of it has, beside the model's."""
        scope = {names.LABEL_TIER: self.tier, names.LABEL_TENANT: self.tenant}
        return {names.LABEL_SLO: self.name, **{label: value for label, value in scope.items() if value is not None}}


def _nearest(bound: float, bounds: Sequence[float]) -> tuple[float, ...]:
    """The bounds on either side, or the one at the end."""
    for lower, upper in pairwise(bounds):
        if lower < bound < upper:
            return lower, upper
    return (bounds[0],) if bound < bounds[0] else (bounds[-1],)


DEFAULT_SLOS: Final[tuple[SloSettings, ...]] = (
    SloSettings(name="chat-first-token", tier="interactive", signal="ttft", bound_seconds=0.5),
    SloSettings(name="chat-total", tier="interactive", signal="e2e", bound_seconds=5.0),
    SloSettings(name="chat-inter-token", tier="interactive", signal="itl", bound_seconds=0.05),
    SloSettings(name="documents-first-token", tier="documents", signal="ttft", bound_seconds=1.0),
    SloSettings(name="documents-total", tier="documents", signal="e2e", bound_seconds=10.0),
    SloSettings(name="batch-total", tier="batch", signal="e2e", bound_seconds=60.0),
)
"""What is promised where nothing else is said: 95 % of the requests of each tier within its bounds."""


def effective_slos(slos: Sequence[SloSettings], defaults: bool) -> tuple[SloSettings, ...]:
    """What is in force: the defaults that no entry replaces, if they are wanted, and the entries, less what is off."""
    own = {slo.name for slo in slos}
    kept = [slo for slo in DEFAULT_SLOS if slo.name not in own] if defaults else []
    return tuple(slo for slo in (*kept, *slos) if slo.enabled)
