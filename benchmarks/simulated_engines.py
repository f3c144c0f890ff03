"""Charges against the known truth of simulated engines, by what is hard about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.costing.simulated import Accuracy, accuracy, cost
from tests.simulation import SimConfig, simulate
from tests.simulation.presets import PRESETS, VISION

__all__ = ["Row", "simulated_rows"]

_SEEDS = {"text": 5, "speculation": 4, "aborts": 4, "restart": 4, "kv_pressure": 4, "two_servers": 2, "mixed": 2}


@dataclass(frozen=True, slots=True)
class Row:
    """The worst of several seeds; errors are relative (0.01 is 1 %), shares in parts of busy time."""

    name: str
    seeds: int
    requests: int
    """Finished ones, all seeds together."""
    median: float
    p95: float
    largest: float
    tenant: float
    share: float
    with_pool: float
    unattributed: float


def simulated_rows() -> list[Row]:
    """One row per kind of engine."""
    rows = [_row(name, PRESETS[name], seeds) for name, seeds in _SEEDS.items()]
    unrepeated = tuple(
        replace(tenant, images=tenant.images and replace(tenant.images, repeated=0.0)) for tenant in VISION.tenants
    )
    rows.append(_row("vision", VISION, 3))
    rows.append(_row("vision, no image twice", replace(VISION, tenants=unrepeated), 3))
    return rows


def _row(name: str, config: SimConfig, seeds: int) -> Row:
    found = [_accuracy(config.seeded(seed)) for seed in range(seeds)]
    return Row(
        name=name,
        seeds=seeds,
        requests=sum(len(one.requests) for one in found),
        median=max(one.at(0.5) for one in found),
        p95=max(one.at(0.95) for one in found),
        largest=max(one.requests[-1] for one in found),
        tenant=_largest([one.tenants for one in found]),
        share=_largest([one.shares for one in found]),
        with_pool=_largest([one.with_pool for one in found]),
        unattributed=max(sum(one.unattributed.values()) for one in found),
    )


def _accuracy(config: SimConfig) -> Accuracy:
    simulation = simulate(config)
    return accuracy(simulation, cost(simulation))


def _largest(errors: Sequence[dict[str, float]]) -> float:
    return max(abs(error) for one in errors for error in one.values())
