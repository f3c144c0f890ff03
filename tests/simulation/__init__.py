"""A simulated continuous-batching engine with known cost per request, for tests and benchmarks.

``simulate(config)`` returns the records that a probe in that engine would have sent, and the truth. What the records
hide, as those of a real engine do, so that no costing can know it:

- which sequence got which tokens of a step: marks are totals;
- when a step truly ended: marks come late, in jumps, and never out of order within a process;
- that decode tokens of a mark are drafts, recomputation after a preemption, or the overrun of a stop token;
- when a preempted sequence lost its place and how much of it was computed again: only how often it happened;
- the prompt of a request whose client hung up or whose engine died (unless ``Observation.snapshot``), its cached
  part, its images, and the tokens that the engine made after the client had gone;
- output tokens of such a request where a chunk carries several (speculation) or its answer was not streamed;
- which images were encoded and which came out of the encoder's cache;
- ``running`` in a mark of a server that got outputs without the scheduler's statistics;
- the step that an engine died in, the moment of its death, and whatever a killed process had not sent.
"""

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
