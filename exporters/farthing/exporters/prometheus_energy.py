"""Energy joined to engines, tenants and tokens, as rows of metric families. Mapping only; None is an absent series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from farthing.domain import conventions as names
from farthing.domain.energy import EnergyView
from farthing.domain.money import NANO

__all__ = ["EnergyRow", "energy_rows"]

EnergyRow = tuple[tuple[str, ...], float | None]
"""Label values in the reference's order, and the value."""
MILLIJOULES = 1_000


def energy_rows(energy: EnergyView, seated: frozenset[str], tiers: frozenset[str]) -> Mapping[str, Sequence[EnergyRow]]:
    """Metric -> its rows. Tenants and tiers without a seat share ``other``, in integers until the last moment.

    What was unattributed is not among the lines: late records take it out again, and no counter may decrease.
    """
    tenants: dict[tuple[str, ...], int] = defaultdict(int)
    for (tenant, model, tier), millijoules in energy.tenants_mj.items():
        who = tenant if tenant in seated else names.OTHER, model, tier if tier in tiers else names.OTHER
        tenants[who] += millijoules
    engines = energy.engines.items()
    return {
        names.METRIC_PHASE_ENERGY: [
            ((name, *line), millijoules / MILLIJOULES)
            for name, one in engines
            for line, millijoules in one.lines_mj.items()
            if line[0] != names.UNATTRIBUTED
        ],
        names.METRIC_TENANT_ENERGY: [(who, millijoules / MILLIJOULES) for who, millijoules in tenants.items()],
        names.METRIC_ENERGY_PER_TOKEN: [
            ((name, phase), joules) for name, one in engines for phase, joules in one.joules_per_token.items()
        ],
        names.METRIC_CARBON: [((name,), one.carbon_grams) for name, one in engines],
        names.METRIC_ENERGY_COST: [
            ((name,), None if one.cost_nano is None else one.cost_nano / NANO) for name, one in engines
        ],
    }
