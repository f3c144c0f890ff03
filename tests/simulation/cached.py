"""Simulations that several tests look at, made once."""

from __future__ import annotations

from functools import cache

from tests.simulation.presets import PRESETS
from tests.simulation.simulation import Simulation, simulate

__all__ = ["preset"]


@cache
def preset(name: str, seed: int = 1, scale: float = 0.4) -> Simulation:
    """A preset of this name, with shorter phases unless told otherwise."""
    return simulate(PRESETS[name].scaled(scale).seeded(seed))
