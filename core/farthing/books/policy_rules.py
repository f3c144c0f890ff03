"""The sections of a policy file: who bears what, at which rates, and how it is addressed and booked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from farthing.books.moments import moment_ns, period_text
from farthing.books.statement import RECOVERY, SECTIONS
from farthing.domain import conventions as c
from farthing.domain.yaml_places import utc_moment

__all__ = [
    "ANY",
    "POOL_ACCOUNTS",
    "Contradiction",
    "Issuer",
    "Member",
    "PolicyRules",
    "PoolRule",
    "Rate",
    "Reservation",
    "Responsibility",
    "Rounding",
    "SharedCost",
    "contradictions",
]

ANY = "*"
"""Model or tier of a rate that holds for all that have none of their own."""
POOL_ACCOUNTS = (
    c.IDLE,
    c.STARTING,
    c.ASLEEP,
    c.DRAINING,
    c.DOWN,
    c.UNATTRIBUTED,
    c.UNALLOCATED,
    c.UNUSED_COMMITMENT,
    c.SHARED,
)
"""Accounts that no tenant caused alone. A rule for ``shared`` holds for every shared cost without a rule of its own."""

Contradiction: TypeAlias = tuple[tuple[str | int, ...], str]
"""Where in the file, and what is wrong there and how to mend it."""
_HUNDRED = Decimal(100)


def _text(value: Any) -> Any:
    """YAML reads 0815 as a number and NO as false; codes and names must survive as they were written."""
    if isinstance(value, str):
        return value
    raise ValueError(f"enter text; put it in quotes, YAML read a {type(value).__name__}")


def _day(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise ValueError("enter a date, for example 2026-11-01") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise ValueError("enter a date, for example 2026-11-01")


def _lines(value: Any) -> Any:
    """An address as lines, also where it was entered as one text."""
    return tuple(value.splitlines()) if isinstance(value, str) else value


def _reservations(value: Any) -> Any:
    """``{acme: 4}`` holds at all times; a list has entries with dates."""
    return ({"weights": value},) if isinstance(value, dict) else value


def _plain(value: Decimal | None) -> str | None:
    """Equal numbers have equal texts: 2.50 is 2.5."""
    return None if value is None else f"{value.normalize():f}"


_PLAIN = PlainSerializer(_plain)
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
Day = Annotated[date, BeforeValidator(_day)]
OptionalDay = Annotated[date | None, BeforeValidator(lambda value: None if value is None else _day(value))]
Moment = Annotated[datetime, BeforeValidator(utc_moment)]
OptionalMoment = Annotated[datetime | None, BeforeValidator(lambda value: None if value is None else utc_moment(value))]
Address = Annotated[tuple[Text, ...], BeforeValidator(_lines)]
Amount = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9), _PLAIN]
OptionalAmount = Annotated[Decimal | None, Field(ge=0, max_digits=18, decimal_places=9), _PLAIN]
PositiveAmount = Annotated[Decimal | None, Field(gt=0, max_digits=18, decimal_places=9), _PLAIN]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Issuer(_Strict):
    """Who issues the statements, and receives the platform's."""

    name: Name = "Platform"
    address: Address = ()
    contact: Text = ""
    cost_centre: Text = ""


class Rounding(_Strict):
    """The one rounding of a statement: its total, half to even."""

    decimals: Annotated[int, Field(ge=0, le=9, strict=True)] = 2


class Responsibility(_Strict):
    """Who bears work that came to nothing."""

    aborted: Literal["tenant", "platform"] = "tenant"
    """Of requests whose client hung up."""
    failed: Literal["platform"] = "platform"
    """Of requests that ended in a server error; never a tenant's, nor shared."""


class Rate(_Strict):
    """Published rates of a model and tier from a day on, in the ledger's currency. What is left out is not charged."""

    model: Name = ANY
    tier: Name = ANY
    start: Annotated[OptionalDay, Field(alias="from")] = None
    prompt: Annotated[Amount, Field(alias="usd_per_million_prompt_tokens")]
    cached: Annotated[OptionalAmount, Field(alias="usd_per_million_cached_prompt_tokens")] = None
    image: Annotated[OptionalAmount, Field(alias="usd_per_million_image_tokens")] = None
    """On top of the prompt rate: image tokens are a part of the prompt's."""
    output: Annotated[Amount, Field(alias="usd_per_million_output_tokens")]
    request: Annotated[OptionalAmount, Field(alias="usd_per_request")] = None


class Reservation(_Strict):
    """Who has reserved how much from a day on, until the next entry."""

    start: Annotated[OptionalDay, Field(alias="from")] = None
    weights: dict[Name, Amount]


class PoolRule(_Strict):
    """By what a pool is shared over the tenants that are not excluded; ``none``: it stays with the platform."""

    driver: Literal["none", "busy", "tokens", "requests", "reserved", "fixed"] = "none"
    exclude: tuple[Name, ...] = ()
    reserved: Annotated[tuple[Reservation, ...], BeforeValidator(_reservations)] = ()
    fixed: dict[Name, Amount] = Field(default_factory=dict)
    """Per cent."""

    @model_validator(mode="after")
    def _driver_has_what_it_needs(self) -> PoolRule:
        for name in ("reserved", "fixed"):
            given = bool(getattr(self, name))
            if given != (self.driver == name):
                raise ValueError(
                    f"driver: {self.driver} needs no {name}; remove it" if given else f"driver: {name} needs {name}:"
                )
        if self.fixed and sum(self.fixed.values()) != _HUNDRED:
            raise ValueError(f"fixed: adds up to {sum(self.fixed.values())} per cent; let it be 100")
        both = sorted(set(self.fixed) & set(self.exclude))
        if both:
            raise ValueError(f"tenant {both[0]!r} is in fixed: and in exclude:; keep one")
        if any(one.start is None for one in self.reserved[1:]):
            raise ValueError("reserved: every entry but the first needs from:")
        for one, two in pairwise(self.reserved):
            if one.start is not None and two.start is not None and one.start >= two.start:
                raise ValueError(f"reserved: {two.start} does not come after {one.start}; order entries by from:")
        return self


class SharedCost(_Strict):
    """What is bought besides GPU capacity, for a time; entries of one name follow one another."""

    name: Annotated[Name, Field(max_length=64)]
    kind: Literal["host", "storage", "network", "other"] = "other"
    usd_per_hour: PositiveAmount = None
    usd_per_month: PositiveAmount = None
    """Spread evenly over each calendar month, UTC."""
    start: Annotated[Moment, Field(alias="from")]
    end: Annotated[OptionalMoment, Field(alias="to")] = None
    currency: Annotated[str, Field(pattern=r"^([A-Z]{3})?$")] = ""
    """Empty: the ledger's."""

    @model_validator(mode="after")
    def _one_price_and_one_direction(self) -> SharedCost:
        if (self.usd_per_hour is None) == (self.usd_per_month is None):
            raise ValueError(f"shared cost {self.name!r}: enter one of usd_per_hour and usd_per_month")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"shared cost {self.name!r}: to: {self.end} is not after from: {self.start}")
        return self

    @property
    def start_ns(self) -> int:
        """Nanoseconds UTC."""
        return moment_ns(self.start)

    @property
    def end_ns(self) -> int | None:
        """Nanoseconds UTC, exclusive; None: until further notice."""
        return None if self.end is None else moment_ns(self.end)


class Member(_Strict):
    """A tenant, or one of its projects, in the organisation from a day on."""

    tenant: Name
    project: Text = ""
    """Empty: all that have no entry of their own."""
    cost_centre: Text = ""
    name: Text = ""
    contact: Text = ""
    address: Address = ()
    start: Annotated[OptionalDay, Field(alias="from")] = None


class PolicyRules(_Strict):
    """All of a policy file. Equal rules have equal content, whatever their order and comments."""

    version: Name
    start: Annotated[Day, Field(alias="from")]
    """The first day of a month: a period has one policy."""
    mode: Literal["showback", "chargeback"] = "showback"
    pricing: Literal["actual", "period_average", "rate_card"] = "actual"
    responsibility: Responsibility = Responsibility()
    rate_card: tuple[Rate, ...] = ()
    pools: dict[Name, PoolRule] = Field(default_factory=dict)
    shared_costs: tuple[SharedCost, ...] = ()
    organisation: tuple[Member, ...] = ()
    gl: dict[Name, Text] = Field(default_factory=dict)
    issuer: Issuer = Issuer()
    rounding: Rounding = Rounding()


def contradictions(rules: PolicyRules) -> Iterator[Contradiction]:
    """What no entry shows alone: names that nothing else has, and entries that apply twice."""
    if rules.start.day != 1:
        yield ("from",), f"{rules.start} is not the first day of a month; a policy holds for whole periods"
    if rules.pricing == "rate_card" and not rules.rate_card:
        yield ("pricing",), "rate_card needs a section rate_card: with rates"
    yield from _unknown_names(rules)
    yield from _twice("rate_card", [(one.model, one.tier, one.start) for one in rules.rate_card])
    yield from _twice("organisation", [(one.tenant, one.project, one.start) for one in rules.organisation])
    by_name: dict[str, SharedCost] = {}
    for index, one in sorted(enumerate(rules.shared_costs), key=lambda item: item[1].start):
        before = by_name.get(one.name)
        if before is not None and (before.end is None or before.end > one.start):
            yield (
                ("shared_costs", index),
                f"{one.name!r} is bought already {period_text(before.start_ns, before.end_ns)}; "
                "end that entry with to:, or give this one a name of its own",
            )
        by_name[one.name] = one


def _unknown_names(rules: PolicyRules) -> Iterator[Contradiction]:
    shared = {one.name for one in rules.shared_costs} | {c.POOL_HOST}
    for index, one in enumerate(rules.shared_costs):
        if one.name in (*c.BOOK_ACCOUNTS, *SECTIONS):
            yield ("shared_costs", index, "name"), f"{one.name!r} is the name of an account or section; choose another"
    for name in rules.pools:
        if name not in POOL_ACCOUNTS and name not in shared:
            known = ", ".join([*POOL_ACCOUNTS, *sorted(shared)])
            yield ("pools", name), f"no such pool; known: {known} (shared costs are added under shared_costs:)"
    parts = {*c.PHASES, *c.REASONS, c.REASON_PREEMPTION, c.REASON_NO_BOOT}
    parts |= {c.POOL_UNASSIGNED, c.POOL_UNSOLD_SLICE, *shared}
    for key in rules.gl:
        account, _, part = key.partition(".")
        known_account = account in (*c.BOOK_ACCOUNTS, *SECTIONS, RECOVERY)
        if not known_account or (part and part not in parts):
            yield (
                ("gl", key),
                "enter an account, account.phase, account.reason or a section; accounts: "
                f"{', '.join(c.BOOK_ACCOUNTS)}; sections: {', '.join(SECTIONS)}",
            )


def _twice(section: str, keys: list[tuple[Any, ...]]) -> Iterator[Contradiction]:
    seen: set[tuple[Any, ...]] = set()
    for index, key in enumerate(keys):
        if key in seen:
            what = " ".join(repr(str(part)) for part in key if part is not None)
            yield (section, index), f"there is an entry for {what} from the same day already; keep one"
        seen.add(key)
