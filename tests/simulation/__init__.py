"""A simulated continuous-batching engine with known cost per request, for tests and benchmarks."""

from tests.simulation.config import (
    Images,
    Lengths,
    Limits,
    Observation,
    Phase,
    Prefix,
    Restart,
    SimConfig,
    StepLaw,
    TenantLoad,
)
from tests.simulation.perturb import Delivery, perturb
from tests.simulation.simulation import RECOMPUTE, BootTruth, RequestTruth, Simulation, simulate

__all__ = [
    "RECOMPUTE",
    "BootTruth",
    "Delivery",
    "Images",
    "Lengths",
    "Limits",
    "Observation",
    "Phase",
    "Prefix",
    "RequestTruth",
    "Restart",
    "SimConfig",
    "Simulation",
    "StepLaw",
    "TenantLoad",
    "perturb",
    "simulate",
]
