"""Per-request seconds of a recording by brute force: every step's measured time, split over who was in it.

Independent of the settlement: it shares neither code nor windows with ``farthing.costing``, only the names of
the coefficients. The schedule is replayed exactly (see oracle_schedule), the law of step time is given or
fitted here, and the split is a plain loop over steps and requests.

What a step "took" has to be read with care. Under asynchronous scheduling the engine launches the next step
before it hands out the outputs of this one, so launching a prefill (about 10 ms on the 8B recording) or an
encoder (about 40 ms on the vision one) delays the mark of the step *before*. Intervals between the engine's own
timestamps, where consecutive ones are known from finished requests, show the same: it is not the API server.
Hence three readings:

- ``by_step``: every step keeps the interval that ends at its mark. A prefill's launch is then paid by those who
  decoded in the step before;
- ``by_launch`` (the default): a step that prefills and the step before it share what was measured together;
- ``by_seconds``: steps share until they fill so many seconds; for fits and to see how much the reading matters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from tests.costing.oracle_model import Schedule, Served, Step

from farthing.domain import conventions as c
from farthing.domain.model import SettledWindow

__all__ = [
    "FEATURES",
    "LENGTHS",
    "Comparison",
    "by_launch",
    "by_seconds",
    "by_step",
    "charges_of",
    "compare",
    "difference",
    "fit_steps",
    "length_of",
    "shares_by_phase",
    "split",
]

_Key = TypeVar("_Key", str, tuple[str, str])
Floats = npt.NDArray[np.float64]
Coefficients = Mapping[str, float]
"""Seconds per unit, by the names in FEATURES; a name left out counts as 0."""
Steps = tuple[Step, ...]
Grouping = Callable[[Steps], Iterator[list[Step]]]
"""Cuts the steps into groups of which only the sum of their intervals is taken at its word."""
Seconds = dict[str, dict[str, float]]
"""Request id -> cost phase (prefill, decode, vision) -> seconds of busy time."""

FEATURES = (
    "steps",
    "prefill_tokens",
    "prefill_context",
    "decode_tokens",
    "attended_context",
    "encoder_steps",
    "encoder_tokens",
)
LENGTHS = ("< 300", "300-1,000", "1,000-4,000", "> 4,000")
"""Buckets of prompt tokens in which fairness is judged."""
POOL_S = 0.5
"""Seconds of steps that make one observation of a fit: both recordings' coefficients are steady from here on."""
_HUBER = 1.5
"""Residuals beyond this many robust standard deviations count linearly (Huber 1964 suggests 1-2)."""


def by_step(steps: Steps) -> Iterator[list[Step]]:
    """Every step for itself."""
    return ([step] for step in steps)


def by_launch(steps: Steps) -> Iterator[list[Step]]:
    """Steps that prefill together with the step before them, which waited for their launch."""
    return _join(steps, lambda _, step: any(share.prefill_tokens for share in step.shares))


def by_seconds(seconds: float) -> Grouping:
    """Groups of consecutive steps that fill at least so many busy seconds (the last before idleness may not)."""
    return lambda steps: _join(steps, lambda group, _: sum(step.busy_s for step in group) < seconds)


def _join(steps: Steps, joins: Callable[[list[Step], Step], bool]) -> Iterator[list[Step]]:
    """Consecutive steps in groups, never across idleness."""
    group: list[Step] = []
    for step in steps:
        if group and (step.start_s > group[-1].at_s or not joins(group, step)):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def fit_steps(schedule: Schedule, grouping: Grouping | None = None) -> dict[str, float]:
    """Coefficients (seconds per unit) by Huber-reweighted non-negative least squares over groups of steps.

    Groups of POOL_S seconds by default. With ``by_step`` every step is an observation of its own; the time of
    launches, which lands in the step before, then biases prefill low.
    """
    groups = list((grouping or by_seconds(POOL_S))(schedule.steps))
    matrix = np.array([np.sum([_features(step) for step in group], axis=0) for group in groups])
    busy = np.array([sum(step.busy_s for step in group) for group in groups])
    used = matrix.any(axis=0)
    scale = matrix[:, used].mean(axis=0)
    weight = np.ones(len(busy))
    solution = np.zeros(int(used.sum()))
    for _ in range(30):
        root = np.sqrt(weight)
        solution = nnls(matrix[:, used] / scale * root[:, None], busy * root)[0] / scale
        residual = np.abs(busy - matrix[:, used] @ solution)
        bound = _HUBER * 1.4826 * float(np.median(residual))
        weight = np.minimum(1.0, bound / np.maximum(residual, 1e-12))
    return dict(zip(np.array(FEATURES)[used].tolist(), solution.tolist(), strict=True))


def split(schedule: Schedule, coefficients: Coefficients, grouping: Grouping = by_launch) -> Seconds:
    """Seconds of every request by cost phase; over all requests they add up to ``schedule.busy_s``.

    A group's measured seconds go to its requests in proportion to what the law says each of them took.
    """
    result: Seconds = {identity: dict.fromkeys(c.PHASES, 0.0) for identity in schedule.requests}
    for group in grouping(schedule.steps):
        parts = [part for step in group for part in _law(step, coefficients)]
        expected = sum(seconds for _, _, seconds in parts)
        measured = sum(step.busy_s for step in group)
        for identity, phase, seconds in parts:
            result[identity][phase] += measured * (seconds / expected if expected else 1 / len(parts))
    return result


def _law(step: Step, b: Coefficients) -> Iterator[tuple[str, str, float]]:
    """(request, cost phase, seconds) that the marginal law gives each request of a step.

    The step's fixed part is shared equally over its requests, the encoder's over those whose images it took.
    """
    fixed = b.get("steps", 0.0) / len(step.shares)
    inputs = sum(share.encoder_inputs for share in step.shares)
    for share in step.shares:
        if share.prefill_tokens:
            own = share.prefill_tokens * b.get("prefill_tokens", 0.0)
            yield share.request, c.PREFILL, fixed + own + share.prefill_context * b.get("prefill_context", 0.0)
        else:
            own = share.decode_tokens * b.get("decode_tokens", 0.0)
            yield share.request, c.DECODE, fixed + own + share.attended * b.get("attended_context", 0.0)
        if share.encoder_inputs:
            launch = b.get("encoder_steps", 0.0) * share.encoder_inputs / inputs
            yield share.request, c.VISION, launch + share.encoder_tokens * b.get("encoder_tokens", 0.0)


def _features(step: Step) -> list[float]:
    """The step's sums, in the order of FEATURES."""

    encoder = sum(share.encoder_tokens for share in step.shares)
    return [
        1.0,
        float(sum(share.prefill_tokens for share in step.shares)),
        sum(share.prefill_context for share in step.shares),
        float(sum(share.decode_tokens for share in step.shares)),
        float(sum(share.attended for share in step.shares)),
        float(encoder > 0),
        encoder,
    ]


def shares_by_phase(seconds: Seconds) -> dict[str, float]:
    """Each cost phase's share of busy time (0-1)."""
    total = sum(sum(phases.values()) for phases in seconds.values())
    return {phase: sum(phases[phase] for phases in seconds.values()) / total for phase in c.PHASES}


def difference(one: Seconds, other: Seconds) -> float:
    """Sum over requests of the seconds by which two splits differ, over all seconds of the second (0-1)."""
    total = sum(sum(phases.values()) for phases in other.values())
    return sum(abs(sum(one[i].values()) - sum(other[i].values())) for i in other) / total


def length_of(request: Served) -> str:
    """The bucket of LENGTHS that a request's prompt falls into."""
    bounds = (300, 1_000, 4_001)
    return LENGTHS[sum(request.prompt >= bound for bound in bounds)]


def charges_of(windows: tuple[SettledWindow, ...], names: Mapping[int, str]) -> dict[str, dict[str, int]]:
    """Nano-dollars by request id and cost phase, summed over settled windows.

    ``names`` gives the request id of a usage record's sequence.
    """
    charges: dict[str, dict[str, int]] = {}
    for window in windows:
        for costed in window.requests:
            phases = charges.setdefault(names[costed.key.sequence], dict.fromkeys(c.PHASES, 0))
            for phase, nano in costed.cost_nano.items():
                phases[phase] = phases.get(phase, 0) + nano
    return charges


@dataclass(frozen=True, slots=True)
class Comparison:
    """Charges held against the oracle. Ratios are charged / oracle: 1 is fair, above 1 pays too much."""

    requests: int
    error: float
    """Sum over requests of |charge - oracle|, over the sum of the oracle (0-1)."""
    phase_error: float
    """The same over (request, cost phase) pairs: also sees money in the wrong phase of the right request."""
    total: float
    by_length: dict[str, float]
    by_cost_phase: dict[str, float]
    by_load_phase: dict[str, float]
    error_by_load_phase: dict[str, float]
    by_tenant: dict[str, float]
    decode_by_load_and_length: dict[tuple[str, str], float]


def compare(
    schedule: Schedule, oracle: Seconds, charges: Mapping[str, Mapping[str, int]], nano_per_hour: int
) -> Comparison:
    """How per-request charges (nano-dollars by cost phase) differ from the oracle's seconds at a price.

    A request without a charge counts as charged 0; a charge without a request raises KeyError.
    """
    price = nano_per_hour / 3_600
    paid: dict[str, dict[str, float]] = {
        identity: {phase: charges.get(identity, {}).get(phase, 0) / price for phase in c.PHASES}
        for identity in schedule.requests
    }
    stray = [identity for identity, phases in charges.items() if identity not in paid and any(phases.values())]
    if stray:
        raise KeyError(f"charged, but never ran: {stray[:5]}")

    def ratios(group: Callable[[Served], str]) -> dict[str, float]:
        return _ratio(
            (group(request), sum(paid[identity].values()), sum(oracle[identity].values()))
            for identity, request in schedule.requests.items()
        )

    true = sum(sum(phases.values()) for phases in oracle.values())
    off = {identity: abs(sum(paid[identity].values()) - sum(oracle[identity].values())) for identity in oracle}
    return Comparison(
        requests=len(schedule.requests),
        error=sum(off.values()) / true,
        phase_error=sum(abs(paid[i][phase] - oracle[i][phase]) for i in oracle for phase in c.PHASES) / true,
        total=sum(sum(phases.values()) for phases in paid.values()) / true,
        by_length=ratios(length_of),
        by_cost_phase=_ratio((phase, paid[i][phase], oracle[i][phase]) for i in oracle for phase in c.PHASES),
        by_load_phase=ratios(lambda request: request.load_phase),
        error_by_load_phase=_ratio(
            (request.load_phase, off[i], sum(oracle[i].values())) for i, request in schedule.requests.items()
        ),
        by_tenant=ratios(lambda request: request.tenant),
        decode_by_load_and_length=_ratio(
            ((request.load_phase, length_of(request)), paid[i][c.DECODE], oracle[i][c.DECODE])
            for i, request in schedule.requests.items()
        ),
    )


def _ratio(rows: Iterable[tuple[_Key, float, float]]) -> dict[_Key, float]:
    """Sum of the first values over sum of the second, by key, in the order in which keys appear."""
    above: dict[_Key, float] = defaultdict(float)
    below: dict[_Key, float] = defaultdict(float)
    for key, high, low in rows:
        above[key] += high
        below[key] += low
    return {key: above[key] / below[key] for key in below if below[key]}
