"""Sections of farthing.yaml that say what GPUs cost: prices, capacity and exchange rates."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from farthing.books.capacity import COMMITMENTS, Kind
from farthing.domain.yaml_places import utc_moment

__all__ = ["CapacitySettings", "Currency", "ExchangeSettings", "OwnedSettings", "PriceSettings"]


Moment = Annotated[datetime, BeforeValidator(utc_moment)]
OptionalMoment = Annotated[datetime | None, BeforeValidator(lambda value: None if value is None else utc_moment(value))]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
OptionalCurrency = Annotated[str, Field(pattern=r"^([A-Z]{3})?$")]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Amount = Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=9)]
ZeroAmount = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9)]
OptionalAmount = Annotated[Decimal | None, Field(gt=0, max_digits=18, decimal_places=9)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _refuse_backwards(start: datetime, end: datetime | None) -> None:
    if end is not None and end <= start:
        raise ValueError(f"to: {end:%Y-%m-%dT%H:%M:%SZ} is not after from: {start:%Y-%m-%dT%H:%M:%SZ}")


class PriceSettings(_Strict):
    """What one GPU costs per hour for a time. Two entries of one GPU and name must not apply at once; where none does,
    work is unpriced: an error that is shown, never 0."""

    gpu: Annotated[str, Field(min_length=1)]
    usd_per_hour: Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=9)]
    start: Annotated[Moment, Field(alias="from")]
    end: Annotated[OptionalMoment, Field(alias="to")] = None
    kind: Kind = "on_demand"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]*$")] = ""
    currency: OptionalCurrency = ""
    source: str = "farthing.yaml"

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> PriceSettings:
        _refuse_backwards(self.start, self.end)
        return self


class ExchangeSettings(_Strict):
    """What one unit of a foreign currency is worth in the ledger's, from a moment until the currency's next entry."""

    currency: Currency
    rate: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=9)]
    start: Annotated[Moment, Field(alias="from")]
    source: str = "farthing.yaml"


class OwnedSettings(_Strict):
    """What owned equipment costs: straight-line depreciation, its electricity, and where it stands."""

    capex_usd: Amount
    lifetime_months: Annotated[int | None, Field(ge=1)] = None
    residual_usd: ZeroAmount = Decimal(0)
    power_watts: ZeroAmount = Decimal(0)
    pue: Annotated[Decimal, Field(ge=1, max_digits=9, decimal_places=6)] = Decimal(1)
    usd_per_kwh: ZeroAmount = Decimal(0)
    usd_per_hour: ZeroAmount = Decimal(0)

    @model_validator(mode="after")
    def _adds_up(self) -> OwnedSettings:
        if self.residual_usd > self.capex_usd:
            raise ValueError(f"residual_usd {self.residual_usd} is more than capex_usd {self.capex_usd}")
        if bool(self.power_watts) != bool(self.usd_per_kwh):
            raise ValueError("power_watts and usd_per_kwh belong together; enter both or neither")
        return self


class CapacitySettings(_Strict):
    """GPUs that are paid for whether engines run on them or not. Its cost is one of `usd_per_hour`,
    `usd_per_gpu_hour`, `usd_upfront` (also together with `usd_per_hour`) and `owned`. Entries of one name are terms
    of one capacity, one after another."""

    name: Name
    gpu: Annotated[str, Field(min_length=1)]
    gpus: Annotated[int, Field(ge=1, le=10_000)]
    kind: Kind = "on_demand"
    start: Annotated[Moment, Field(alias="from")]
    end: Annotated[OptionalMoment, Field(alias="to")] = None
    usd_per_hour: OptionalAmount = None
    usd_per_gpu_hour: OptionalAmount = None
    usd_upfront: OptionalAmount = None
    owned: OwnedSettings | None = None
    host_share: Annotated[Decimal, Field(ge=0, le=1, max_digits=10, decimal_places=9)] = Decimal(0)
    currency: OptionalCurrency = ""
    source: str = "farthing.yaml"

    @model_validator(mode="after")
    def _one_price(self) -> CapacitySettings:
        _refuse_backwards(self.start, self.end)
        given = [
            name
            for name in ("usd_per_hour", "usd_per_gpu_hour", "usd_upfront", "owned")
            if getattr(self, name) is not None
        ]
        if len(given) != 1 and given != ["usd_per_hour", "usd_upfront"]:
            raise ValueError(
                f"capacity {self.name!r} has {' and '.join(given) or 'no price'}; enter one of usd_per_hour, "
                "usd_per_gpu_hour, usd_upfront (with usd_per_hour if it recurs) and owned"
            )
        if (self.kind == "owned") != (self.owned is not None):
            raise ValueError(f"capacity {self.name!r}: kind: owned and a section owned: belong together")
        lifetime = self.owned is not None and self.owned.lifetime_months is not None
        if self.end is None and (self.kind in COMMITMENTS or self.usd_upfront is not None):
            raise ValueError(f"capacity {self.name!r} is paid for a term; enter its end as to:")
        if self.owned is not None and not lifetime and self.end is None:
            raise ValueError(f"capacity {self.name!r}: enter owned.lifetime_months, or its end as to:")
        return self
