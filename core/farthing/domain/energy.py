"""What is known of energy beside the books' money: joules by line, per token, and what they cost and emit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["EnergyView", "EngineEnergy"]


@dataclass(frozen=True, slots=True)
class EngineEnergy:
    """An engine's energy of settled work, since the ledger began."""

    lines_mj: Mapping[tuple[str, str, str], int]
    """(account, phase, method) -> millijoules."""
    joules_per_token: Mapping[str, float] = field(default_factory=dict)
    """phase -> joules by the tokens that the engine processed in it, over the last five minutes of work whose energy
    is known; unknown is left out."""
    carbon_grams: float | None = None
    """CO2 equivalent of all of it, with the building's share; None without a grid intensity."""
    cost_nano: int | None = None
    """What all of it costs by tariff and PUE: information, no money of the books. None without a tariff."""


@dataclass(frozen=True, slots=True)
class EnergyView:
    """Energy of every engine, and of every tenant by (tenant, model, tier), in millijoules."""

    engines: Mapping[str, EngineEnergy] = field(default_factory=dict)
    tenants_mj: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
